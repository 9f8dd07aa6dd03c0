"""Which job starts when and where: pure functions over plain data; the clock is an argument.

Jobs start by priority, then in the order of their submission, whole or not at all. The first that does not fit is the
head: it gets a reservation, and later jobs may only overtake it where they do not delay it. A job that would not fit
if every job ended now holds nobody up.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from ugro.common.config import Inventory, JobSpec
from ugro.common.errors import InputError
from ugro.common.models import Job, JobState, Placement
from ugro.common.text import size
from ugro.control_plane.resource_manager.balancer import (
    Kind,
    Lack,
    Room,
    Shape,
    candidates,
    choose,
    contents,
    count,
    lacks,
)
from ugro.control_plane.resource_manager.governor import Offer, placement_keys

SLACK = 90.0
"""Seconds that a job which overtakes the head has to be over before the head is to start."""

LOOK_AHEAD = 200
"""A forecast is made behind so many other jobs at most."""

SHOWN = 3
"""So many things are named in a short reason."""

_HOW = {"": "succeed", "success": "succeed", "failure": "fail", "any": "end"}
_ENDED = {JobState.SUCCEEDED: "succeeded", JobState.FAILED: "failed", JobState.CANCELLED: "was cancelled"}

_Ending = tuple[float, int, str, "Running"]


@dataclass(frozen=True)
class Waiting:
    """A job that has not started. `order` is its submission number, `expected` the seconds it will probably run.

    `obstacles` are reasons to wait that are no resources; a job that has one is passed over.
    """

    id: str
    spec: JobSpec
    priority: int = 0
    order: int = 0
    expected: float | None = None
    obstacles: tuple[str, ...] = ()

    def started(self, placement: Placement, at: float) -> Running:
        """The same job, started at that moment."""
        known = [seconds for seconds in (self.expected, self.spec.time_limit) if seconds is not None]
        return Running(self.id, placement_keys(placement), at + min(known) if known else None)


@dataclass(frozen=True)
class Running:
    """A job that has slots (by their keys), and when it will probably give them back (None: nobody knows)."""

    id: str
    keys: frozenset[str]
    ends: float | None = None


@dataclass(frozen=True)
class Start:
    """A job to start now, where, and why it is its turn."""

    id: str
    placement: Placement
    why: str


@dataclass(frozen=True)
class Schedule:
    """What to start now. `head` is the job that the others may not delay; when it starts is None if it is unknown.

    `waits` has one short reason for each job that waits; it has no times in it, so it changes only with the cause.
    """

    starts: tuple[Start, ...]
    head: str | None
    head_starts_at: float | None
    waits: Mapping[str, str]


@dataclass(frozen=True)
class Forecast:
    """When a job will probably start (None: it cannot be said), and that in words."""

    at: float | None
    text: str


def obstacles(job: Job, spec: JobSpec, others: Mapping[str, JobState], now: float) -> tuple[str, ...]:
    """Why a job may not start yet even on an idle cluster: it is held, depends on others, or is for later.

    `others` has the states of all jobs by id.
    """
    found = ["held until somebody releases it"] if job.state == JobState.HELD else []
    found += [reason for entry in spec.after if (reason := _dependency(entry, others))]
    if spec.not_before is not None and spec.not_before > now:
        found.append(f"not before {_moment(spec.not_before, now)}")
    return tuple(found)


def schedule(
    waiting: Iterable[Waiting],
    running: Iterable[Running],
    offers: Mapping[str, Offer],
    inventory: Inventory,
    now: float,
) -> Schedule:
    """What to start now, and why the rest waits. Running jobs keep what they have."""
    return _Round(waiting, running, offers, inventory, now).schedule


def why(
    job_id: str,
    waiting: Iterable[Waiting],
    running: Iterable[Running],
    offers: Mapping[str, Offer],
    inventory: Inventory,
    now: float,
) -> tuple[str, ...]:
    """Every reason why a job waits, the nearest to be over first; nothing if it starts now.

    Raises:
        InputError: no such job waits.
    """
    turn = _Round(waiting, running, offers, inventory, now)
    job = turn.find(job_id)
    if job_id in {start.id for start in turn.schedule.starts}:
        return ()
    lacking = sorted(turn.lacks(job, times=True), key=lambda lack: (lack.kind, lack.ends))
    held = [lack.text for lack in lacking if lack.kind == Kind.HELD]
    ahead = turn.ahead_of(job)
    behind = [f"behind {_some([other.id for other in ahead])}"] if ahead else []
    reasons = (*job.obstacles, *held, *behind, *(lack.text for lack in lacking if lack.kind != Kind.HELD))
    return reasons or (turn.impossible(job),)


def forecast(
    job_id: str,
    waiting: Iterable[Waiting],
    running: Iterable[Running],
    offers: Mapping[str, Offer],
    inventory: Inventory,
    now: float,
) -> Forecast:
    """When a job will probably start if those ahead of it go first and run as long as expected.

    Raises:
        InputError: no such job waits.
    """
    turn = _Round(waiting, running, offers, inventory, now)
    job = turn.find(job_id)
    if job_id in {start.id for start in turn.schedule.starts}:
        return Forecast(now, "now")
    ahead = turn.ahead_of(job)
    if reason := (*job.obstacles, turn.impossible(job))[0]:
        return Forecast(None, f"its start is not known: {reason}")
    if len(ahead) > LOOK_AHEAD:
        return Forecast(None, f"its start is not known: more than {LOOK_AHEAD} jobs are ahead of it")
    return turn.simulate([*ahead, job])


def check_request(spec: JobSpec, inventory: Inventory, offers: Mapping[str, Offer]) -> None:
    """Refuse what could not run even on an idle cluster. Drained, full or busy nodes count as they would be then.

    Raises:
        InputError: unknown nodes, more nodes, GPUs or memory than exist.
        NodeError: a node that the job needs cannot be read.
    """
    names = candidates(spec, inventory)
    wanted = spec.nodes if isinstance(spec.nodes, int) else len(names)
    if wanted > len(names):
        raise InputError(f"{wanted} nodes are asked for and the inventory has {len(names)}")
    unread = [error for name in names if (error := offers[name].error)]
    if len(names) - len(unread) < wanted:
        raise unread[0]
    idle = Room({name: replace(offers[name], busy={}, refusal=None) for name in names if not offers[name].error})
    fitting = [name for name in names if idle.parts(spec, name)]
    if len(fitting) < wanted:
        gpus = count(spec.gpus_per_node or 1, "GPU") + (f" with {size(spec.vram)}" if spec.vram else "")
        able = f"only {count(len(fitting), 'node')}" if fitting else "no node"
        raise InputError(
            f"asked for: {gpus} on each of {count(wanted, 'node')}; {able} can give that",
            "; ".join(f"{name}: {contents(offers[name])}" for name in names),
        )


class _Round:
    """One look at the queue: who starts now, who is the head, and what would follow."""

    def __init__(
        self,
        waiting: Iterable[Waiting],
        running: Iterable[Running],
        offers: Mapping[str, Offer],
        inventory: Inventory,
        now: float,
    ) -> None:
        self._queue = sorted(waiting, key=lambda job: (-job.priority, job.order))
        self._running = list(running)
        self._offers, self._now, self._all_nodes = offers, now, list(inventory.nodes)
        self._room = self._spare = Room(offers, [key for run in self._running for key in run.keys])
        self._empty = Room(offers)
        self._impossible: dict[Shape, str] = {}
        # Requests that failed (in the whole room or not): nothing gets free in a round, so they fail again.
        self._failed: set[tuple[bool, Shape]] = set()
        self._head: Waiting | None = None
        self._head_at: float | None = None
        self._starts: dict[str, Start] = {}
        self._waits: dict[str, str] = {}
        for job in self._queue:
            self._decide(job)
        self.schedule = Schedule(
            tuple(self._starts.values()), self._head.id if self._head else None, self._head_at, self._waits
        )

    def find(self, job_id: str) -> Waiting:
        for job in self._queue:
            if job.id == job_id:
                return job
        raise InputError(f"{job_id} does not wait")

    def ahead_of(self, job: Waiting) -> list[Waiting]:
        """The jobs that go first: those still waiting after this round that can start some time."""
        before = self._queue[: self._queue.index(job)]
        return [one for one in before if not one.obstacles and one.id not in self._starts and not self.impossible(one)]

    def impossible(self, job: Waiting) -> str:
        """Why the job would not fit even if every job of UGRO ended; nothing if it would."""
        shape = self._empty.shape(job.spec)
        if shape not in self._impossible:
            self._impossible[shape] = "" if self._choose(job, self._empty) else self._defects(job)
        return self._impossible[shape]

    def lacks(self, job: Waiting, times: bool) -> list[Lack]:
        """What keeps the nodes from taking the job now, node by node; with or without times in the text."""
        holders: dict[str, tuple[float, str]] = {}
        for run in self._running:
            until = f" until ~{_moment(run.ends, self._now)}" if times and run.ends is not None else ""
            holders |= dict.fromkeys(run.keys, (math.inf if run.ends is None else run.ends, run.id + until))
        return self._lacks(job, self._room, holders)

    def simulate(self, jobs: Sequence[Waiting]) -> Forecast:
        """When the last of these jobs starts if they start one after the other and run as long as expected."""
        room, running = self._room.without(()), self._endings()
        at, cause = self._now, ""
        for job in jobs:
            placement, ended = self._fit_later(job, room, running)
            for run in ended:
                if run.ends is None:
                    return Forecast(None, f"its start is not known: {run.id} has no time limit and no history")
                at = max(at, run.ends)
            if ended:
                freed = room.nodes_of(ended[-1].keys)
                nodes = [share.node for share in placement.shares if share.node in freed]
                cause = f"when {ended[-1].id} frees {_some(nodes)}"
            run = job.started(placement, at)
            room.take(run.keys)
            heapq.heappush(running, _ending(run))
        return Forecast(at, f"starts ~{_moment(at, self._now)}, {cause}")

    def _decide(self, job: Waiting) -> None:
        if job.obstacles:
            self._waits[job.id] = job.obstacles[0]
        elif self._start(job):
            return
        elif reason := self.impossible(job):
            self._waits[job.id] = f"{reason} (others go first meanwhile)"
        elif self._head:
            self._waits[job.id] = f"behind {self._head.id}"
        else:
            self._reserve(job)

    def _start(self, job: Waiting) -> bool:
        """Start a job if it fits and does not delay the head."""
        placement, reason = self._choose_now(job, self._spare), "its turn"
        if self._head:
            reason = f"uses nothing that {self._head.id} waits for"
            if placement is None and self._is_over_before_head(job):
                placement, reason = self._choose_now(job, self._room), f"is over before {self._head.id} can start"
        if placement is None:
            return False
        run = job.started(placement, self._now)
        self._starts[job.id] = Start(job.id, placement, reason)
        self._running.append(run)
        self._room.take(run.keys)
        self._spare.take(run.keys)
        return True

    def _is_over_before_head(self, job: Waiting) -> bool:
        limit = job.spec.time_limit  # only a limit is kept; an expectation may be wrong
        return limit is not None and self._head_at is not None and self._now + limit + SLACK <= self._head_at

    def _reserve(self, job: Waiting) -> None:
        """Make the job the head, and keep for it the slots on which it fits first."""
        placement, ended = self._fit_later(job, self._room.without(()), self._endings())
        ends = ended[-1].ends
        self._head, self._head_at = job, None if ends is None else max(self._now, ends)
        self._spare = self._room.without(placement_keys(placement))
        self._waits[job.id] = _shortly(self.lacks(job, times=False))

    def _fit_later(self, job: Waiting, room: Room, running: list[_Ending]) -> tuple[Placement, list[Running]]:
        """Let running jobs end, the soonest first, until the job fits; it must be a possible one."""
        ended = []
        while (placement := self._choose(job, room)) is None:
            *_, run = heapq.heappop(running)
            room.give(run.keys)
            ended.append(run)
        return placement, ended

    def _choose_now(self, job: Waiting, room: Room) -> Placement | None:
        key = (room is self._room, self._empty.shape(job.spec))
        placement = None if key in self._failed else self._choose(job, room)
        if placement is None:
            self._failed.add(key)
        return placement

    def _choose(self, job: Waiting, room: Room) -> Placement | None:
        return choose(job.spec, self._names(job), room)

    def _names(self, job: Waiting) -> Sequence[str]:
        return job.spec.nodes if isinstance(job.spec.nodes, tuple) else self._all_nodes

    def _endings(self) -> list[_Ending]:
        return sorted(map(_ending, self._running))

    def _lacks(self, job: Waiting, room: Room, holders: Mapping[str, tuple[float, str]]) -> list[Lack]:
        names = [name for name in self._names(job) if not room.parts(job.spec, name)]
        return [lack for name in names for lack in lacks(job.spec, name, self._offers.get(name), holders)]

    def _defects(self, job: Waiting) -> str:
        """What is wrong, jobs aside."""
        names, wanted = self._names(job), job.spec.nodes
        if isinstance(wanted, int) and wanted > len(names):
            return f"{count(wanted, 'node')} are asked for and the inventory has {len(names)}"
        return _shortly(self._lacks(job, self._empty, {}))


def _shortly(lacks: Sequence[Lack]) -> str:
    """The nearest reason of each node."""
    nearest: dict[str, str] = {}
    for lack in lacks:
        nearest.setdefault(lack.node, lack.text)
    return _some(list(nearest.values()), "; ")


def _ending(run: Running) -> _Ending:
    # job-1000 comes after job-999
    return (math.inf if run.ends is None else run.ends, len(run.id), run.id, run)


def _dependency(entry: str, others: Mapping[str, JobState]) -> str | None:
    """Why a job has to wait for the one that an entry of its `after` names, or None."""
    name, _, when = entry.partition(":")
    waits = f"waits for {name} to {_HOW[when]}"
    state = others.get(name)
    if state is None:
        return f"{waits}, but no such job is known: it will never start"
    if not state.ended:
        return waits
    met = {"any": True, "failure": state == JobState.FAILED}.get(when, state == JobState.SUCCEEDED)
    return None if met else f"{waits}, but it {_ENDED[state]}: it will never start"


def _moment(at: float, now: float) -> str:
    """A moment in local time, with the date unless it is today's."""
    local = datetime.fromtimestamp(at)
    return local.strftime("%H:%M" if local.date() == datetime.fromtimestamp(now).date() else "%Y-%m-%d %H:%M")


def _some(words: Sequence[str], separator: str = ", ") -> str:
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return separator.join(words[:SHOWN]) + more
