"""One round of EASY backfill: the jobs that start now, and the reservation for the first that cannot. No I/O.

Jobs start by priority, then in the order of their submission, entirely or not at all. The first that does not fit is
the head: it gets a reservation, and later jobs may only overtake it where they do not delay it. A job that would not
fit if every job ended now delays no other.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from itertools import takewhile

from ugro.common.config import Inventory
from ugro.common.errors import InputError
from ugro.common.job_spec import JobSpec
from ugro.common.models.job import Job, Placement
from ugro.control_plane.resource_manager.governor import Capacity, placement_keys
from ugro.control_plane.scheduler.allocator import choose
from ugro.control_plane.scheduler.pending_reasons import Blocker
from ugro.control_plane.scheduler.room import Room, Shape, suited

SLACK = 90.0
"""Seconds that a job which overtakes the head has to be over before the head is to start."""

Ending = tuple[float, int, str, "RunningJob"]
"""A running job, sortable by when it ends; of equal ones the older is first."""


@dataclass(frozen=True)
class WaitingJob:
    """A job that has not started. `order` is its submission number, `expected` the seconds it will probably run.

    A job that has blockers is passed over.
    """

    id: str
    spec: JobSpec
    priority: int = 0
    order: int = 0
    expected: float | None = None
    blockers: tuple[Blocker, ...] = ()

    @property
    def seconds(self) -> float | None:
        """Return the most seconds that it is expected to run; None: not known."""
        known = [seconds for seconds in (self.expected, self.spec.time_limit) if seconds is not None]
        return min(known, default=None)

    def started(self, placement: Placement, at: float) -> RunningJob:
        """The same job, started at that moment."""
        seconds = self.seconds
        ends, part = None if seconds is None else at + seconds, placement.part
        return RunningJob(self.id, placement_keys(placement), ends, shared_mib=part.memory_mib if part else None)


@dataclass(frozen=True)
class RunningJob:
    """A job that has slots (by their keys), and when it will probably give them back (None: not known).

    `stopping`: its ranks are being ended. `shared_mib` is what it declared of the GPU that it shares with others.
    """

    id: str
    keys: frozenset[str]
    ends: float | None = None
    stopping: bool = False
    shared_mib: int | None = None

    @property
    def ending(self) -> Ending:
        """Its place among those that end."""
        # job-1000 comes after job-999
        return (math.inf if self.ends is None else self.ends, len(self.id), self.id, self)


@dataclass(frozen=True)
class Queue:
    """All that a decision depends on, as of one moment: what waits, what runs, and what each node can give."""

    waiting: tuple[WaitingJob, ...]
    running: tuple[RunningJob, ...]
    capacities: Mapping[str, Capacity]
    inventory: Inventory
    now: float

    def in_turn(self) -> tuple[str, ...]:
        """The jobs that wait, in the order of their turn; some may start before it, and some have blockers."""
        return tuple(job.id for job in _in_turn(self.waiting))

    def with_draft(self, job: Job, spec: JobSpec, blockers: tuple[Blocker, ...]) -> Queue:
        """As it would be with one more job at its end."""
        order = 1 + max((other.order for other in self.waiting), default=0)
        draft = WaitingJob(job.id, spec, spec.priority, order, spec.time_limit, blockers)
        return replace(self, waiting=(*self.waiting, draft))


def _in_turn(jobs: Iterable[WaitingJob]) -> list[WaitingJob]:
    return sorted(jobs, key=lambda job: (-job.priority, job.order))


class Turn(Enum):
    """Reason why a job may start: no other waits before it, or it does not delay the head."""

    OWN = auto()
    BESIDE_HEAD = auto()
    """It uses nothing that the head waits for."""

    BEFORE_HEAD = auto()
    """It is over before the head can start."""


@dataclass(frozen=True)
class ScheduledStart:
    """A job to start now, where, and why it is its turn; `head` is the job that it overtakes, if any."""

    id: str
    placement: Placement
    turn: Turn
    head: str = ""


class Round:
    """One scheduling pass over a queue: the jobs that start now, the head, and when it starts (None: unknown).

    `jobs` are all that waited, in their order; `room` and `running` are as they are once `starts` have started.
    """

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.jobs = _in_turn(queue.waiting)
        self.running = list(queue.running)
        self.room = self._spare = Room(queue.capacities)
        for run in self.running:
            self.room.take(run.keys, run.id, run.shared_mib)
        self.starts: dict[str, ScheduledStart] = {}
        self.head: WaitingJob | None = None
        self.head_starts_at: float | None = None
        self._nodes = list(queue.inventory.nodes)
        self._empty = Room(queue.capacities)
        self._fits_alone: dict[Shape, bool] = {}
        self._reserved = frozenset[str]()
        self._suited: dict[Shape, frozenset[str]] = {}
        # Requests that failed (in all of the room or not): nothing gets free in a round, so they fail again.
        self._failed: set[tuple[bool, Shape]] = set()
        for job in self.jobs:
            if not job.blockers and not self._start(job) and not self.head and self.fits_alone(job):
                self._reserve(job)

    def find(self, job_id: str) -> WaitingJob:
        """The job of that id.

        Raises:
            InputError: no such job waits.
        """
        for job in self.jobs:
            if job.id == job_id:
                return job
        raise InputError(f"{job_id} does not wait")

    def fits_alone(self, job: WaitingJob) -> bool:
        """Whether the job would fit if every job of UGRO ended now."""
        shape = self._empty.shape(job.spec)
        if shape not in self._fits_alone:
            self._fits_alone[shape] = self._choose(job, self._empty) is not None
        return self._fits_alone[shape]

    def competes(self, one: WaitingJob, other: WaitingJob) -> bool:
        """Whether two jobs may want the same slot; of the head only what is kept for it counts."""
        wanted = self._reserved if one is self.head else self._slots(one)
        return not wanted.isdisjoint(self._slots(other))

    def _slots(self, job: WaitingJob) -> frozenset[str]:
        shape = self._empty.shape(job.spec)
        if shape not in self._suited:
            capacities = [self.queue.capacities[name] for name in self.nodes(job) if name in self.queue.capacities]
            self._suited[shape] = frozenset(slot.key for capacity in capacities for slot in suited(job.spec, capacity))
        return self._suited[shape]

    def ahead_of(self, job: WaitingJob) -> list[WaitingJob]:
        """The jobs that go first: those still waiting after this round that can start some time."""
        return self._contenders(takewhile(lambda one: one is not job, self.jobs))

    def behind(self, job: WaitingJob) -> list[WaitingJob]:
        """The jobs that go later, likewise."""
        return self._contenders(self.jobs[self.jobs.index(job) + 1 :])

    def _contenders(self, jobs: Iterable[WaitingJob]) -> list[WaitingJob]:
        return [one for one in jobs if not one.blockers and one.id not in self.starts and self.fits_alone(one)]

    def nodes(self, job: WaitingJob) -> Sequence[str]:
        """The nodes a job may be placed on; one of them may not be there any more."""
        return job.spec.nodes if isinstance(job.spec.nodes, tuple) else self._nodes

    def endings(self) -> list[Ending]:
        """The jobs that run, the soonest to end first."""
        return sorted(run.ending for run in self.running)

    def fit_later(self, job: WaitingJob, room: Room, running: list[Ending]) -> tuple[Placement, list[RunningJob]]:
        """Let running jobs (a heap) end until a job fits that fits alone; `room` and `running` change."""
        ended = []
        while (placement := self._choose(job, room)) is None:
            *_, run = heapq.heappop(running)
            room.give(run.keys, run.id, run.shared_mib)
            ended.append(run)
        return placement, ended

    def _start(self, job: WaitingJob) -> bool:
        """Start a job if it fits and does not delay the head."""
        placement, turn = self._choose_now(job, self._spare), Turn.BESIDE_HEAD if self.head else Turn.OWN
        if placement is None and self._is_over_before_head(job):
            placement, turn = self._choose_now(job, self.room), Turn.BEFORE_HEAD
        if placement is None:
            return False
        run = job.started(placement, self.queue.now)
        self.starts[job.id] = ScheduledStart(job.id, placement, turn, self.head.id if self.head else "")
        self.running.append(run)
        self.room.take(run.keys, run.id, run.shared_mib)
        self._spare.take(run.keys, run.id, run.shared_mib)
        return True

    def _is_over_before_head(self, job: WaitingJob) -> bool:
        limit, head_at = job.spec.time_limit, self.head_starts_at  # only a limit is kept; an expectation may be wrong
        return limit is not None and head_at is not None and self.queue.now + limit + SLACK <= head_at

    def _reserve(self, job: WaitingJob) -> None:
        """Make the job the head, and keep for it the slots on which it fits first."""
        placement, ended = self.fit_later(job, self.room.copy(), self.endings())
        ends = ended[-1].ends
        self.head, self.head_starts_at = job, None if ends is None else max(self.queue.now, ends)
        self._reserved = placement_keys(placement)
        self._spare = self.room.copy()  # of a GPU that the head shares, only its part is kept
        self._spare.take(self._reserved, job.id, placement.part.memory_mib if placement.part else None)

    def _choose_now(self, job: WaitingJob, room: Room) -> Placement | None:
        key = (room is self.room, self._empty.shape(job.spec))
        placement = None if key in self._failed else self._choose(job, room)
        if placement is None:
            self._failed.add(key)
        return placement

    def _choose(self, job: WaitingJob, room: Room) -> Placement | None:
        return choose(job.spec, self.nodes(job), room)
