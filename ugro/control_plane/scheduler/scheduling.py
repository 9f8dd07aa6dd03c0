"""Which job starts when and where, and why others wait: pure functions over a queue; its clock is part of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ugro.common.config import Inventory
from ugro.common.errors import InputError
from ugro.common.job_spec import JobSpec
from ugro.common.models.job import Job, JobState, Placement
from ugro.common.text import count, moment, size, some
from ugro.control_plane.resource_manager.governor import Offer
from ugro.control_plane.resource_manager.twins import REMEDY
from ugro.control_plane.scheduler.allocator import (
    Kind,
    Lack,
    Room,
    candidates,
    choose,
    contents,
    lacks,
    smaller_request,
)
from ugro.control_plane.scheduler.backfill import Obstacle, Queue, Round, Running, Start, Waiting
from ugro.control_plane.scheduler.unschedulable import defects, hopeless, shortly

_HOW = {"": "succeed", "success": "succeed", "failure": "fail", "any": "end"}
_PROVISO = {"": "succeeds", "success": "succeeds", "failure": "fails"}
_ENDED = {JobState.SUCCEEDED: "succeeded", JobState.FAILED: "failed", JobState.CANCELLED: "was cancelled"}


@dataclass(frozen=True)
class Schedule:
    """What to start now. `head` is the job that the others may not delay; when it starts is None if it is unknown."""

    starts: tuple[Start, ...]
    head: str | None
    head_starts_at: float | None


def obstacles(job: Job, spec: JobSpec, others: Mapping[str, JobState], now: float) -> tuple[Obstacle, ...]:
    """Why a job may not start yet even on an idle cluster: it is held, depends on others, is for later, or its launch
    was just cut off.

    `others` has the states of the jobs it depends on by id, as far as they are known.
    """
    found = [Obstacle("held until it is released")] if job.state == JobState.HELD else []
    found += [obstacle for entry in spec.after if (obstacle := _dependency(entry, others))]
    if spec.not_before is not None and spec.not_before > now:
        found.append(Obstacle(f"not before {moment(spec.not_before, now)}", until=spec.not_before))
    if (back := job.taken_back) and now < back.until:
        times = f"{back.times} times in a row, " if back.times > 1 else ""
        text = f"its launch was cut off {times}before anything was started: {back.reason}"
        found.append(Obstacle(text, until=back.until, cause=f"since {text}"))
    return tuple(found)


def schedule(queue: Queue) -> Schedule:
    """What to start now. Running jobs keep what they have."""
    turn = Round(queue)
    return Schedule(tuple(turn.starts.values()), turn.head.id if turn.head else None, turn.head_starts_at)


def reasons(queue: Queue) -> dict[str, str]:
    """In short, by job: why it waits, or that it starts. No times are in it, so it changes only with the cause."""
    turn = Round(queue)
    never = hopeless(turn)

    def reason(job: Waiting) -> str:
        if job.id in turn.starts:
            return "starts at the next scheduling pass"
        if job.id in never:
            return never[job.id]
        if job.obstacles:
            return job.obstacles[0].text
        if not turn.fits_alone(job):
            return f"{defects(turn, job)} (others go first meanwhile)"
        if turn.head and turn.head is not job and turn.competes(turn.head, job):
            return f"behind {turn.head.id}"
        return shortly(_lacks(turn, job, False))

    return {job.id: reason(job) for job in turn.jobs}


def why(queue: Queue, job_id: str) -> tuple[str, ...]:
    """Every reason why a job waits, the nearest to be over first; nothing if it starts now.

    That it will never start as things are comes before all of them.

    Raises:
        InputError: no such job waits.
    """
    turn = Round(queue)
    job = turn.find(job_id)
    if job_id in turn.starts:
        return ()
    lacking = sorted(_lacks(turn, job, times=True), key=lambda lack: (lack.kind, lack.ends))
    held = [lack.text for lack in lacking if lack.kind == Kind.HELD]
    others = [other.id for other in turn.ahead_of(job) if turn.competes(other, job)]
    ahead = [f"behind {some(others)}"] if others else []
    found = [one.text for one in job.obstacles] + held + ahead + [one.text for one in lacking if one.kind != Kind.HELD]
    if (never := hopeless(turn).get(job_id)) is None:
        return tuple(found)
    return (never, *(reason for reason in found if reason not in never))


def check_request(spec: JobSpec, inventory: Inventory, offers: Mapping[str, Offer]) -> None:
    """Refuse what could not run even on an idle cluster. Drained, full or busy nodes count as they would be then.

    Nobody knows what a node has that cannot be read, so it counts as one that can give all.

    Raises:
        InputError: unknown nodes, more nodes, GPUs or memory than exist.
    """
    names = candidates(spec, inventory)
    wanted = spec.nodes if isinstance(spec.nodes, int) else len(names)
    if wanted > len(names):
        hint = f"ask for fewer: --nodes {len(names)}" if names else ""
        raise InputError(f"{wanted} nodes are requested and the inventory has {len(names)}", hint)
    doubled = {name: offers[name].twin for name in names if offers[name].twin}
    if wanted > len(names) - len(doubled):
        others = ",".join(name for name in names if name not in doubled)
        raise InputError("; ".join(doubled.values()), f"{REMEDY} ({inventory.path}), or leave it out: --nodes {others}")
    idle = _idle({name: offers[name] for name in names})
    fitting = [name for name in names if offers[name].error or idle.parts(spec, name)]
    if len(fitting) < wanted:
        gpus = count(spec.gpus_per_node or 1, "GPU") + (f" with {size(spec.vram)} of memory" if spec.vram else "")
        limit = "at most" if any(offers[name].error for name in fitting) else "only"
        able = f"{limit} {count(len(fitting), 'node')}" if fitting else "no node"
        smaller = smaller_request(spec, wanted, {name: offers[name] for name in names})
        raise InputError(
            f"requested: {gpus} on each of {count(wanted, 'node')}; {able} can give that",
            (f"it would fit with {smaller}; " if smaller else "")
            + "; ".join(f"{name}: {contents(offers[name])}" for name in names),
        )


def placement_of(queue: Queue, job_id: str) -> Placement | None:
    """Where a job would start now, if it would."""
    start = Round(queue).starts.get(job_id)
    return start.placement if start else None


def placement_when_idle(queue: Queue, spec: JobSpec) -> Placement:
    """Where a job would start if nothing else ran and no node was drained or short of something.

    Raises:
        NodeError: it needs a node that cannot be read.
    """
    names = candidates(spec, queue.inventory)
    if placement := choose(spec, names, _idle(queue.offers)):
        return placement
    error = next(error for name in names if (error := queue.offers[name].error))
    raise type(error)(error.node, error.problem, f"a launch would be queued, and wait for it; {error.hint}")


def _idle(offers: Mapping[str, Offer]) -> Room:
    readable = {name: offer for name, offer in offers.items() if not offer.error}
    return Room({name: replace(offer, busy={}, refusal=offer.twin or None) for name, offer in readable.items()})


def _lacks(turn: Round, job: Waiting, times: bool) -> list[Lack]:
    """What keeps the nodes from taking the job now, node by node; with or without times in the text."""
    holders: dict[str, tuple[float, str]] = {}
    for run in turn.running:
        until = " (stopping)" if run.stopping else _until(run, turn.queue.now) if times else ""
        holders |= dict.fromkeys(run.keys, (math.inf if run.ends is None else run.ends, run.id + until))
    names = [name for name in turn.nodes(job) if not turn.room.parts(job.spec, name)]
    return [lack for name in names for lack in lacks(job.spec, name, turn.queue.offers.get(name), holders)]


def _until(run: Running, now: float) -> str:
    if run.ends is None:
        return ""
    return f" until ~{moment(run.ends, now)}" if run.ends > now else " (over its estimate: any moment)"


def _dependency(entry: str, others: Mapping[str, JobState]) -> Obstacle | None:
    """Why a job has to wait for the one that an entry of its `after` names, or None."""
    name, _, when = entry.partition(":")
    waits = f"waits for {name} to {_HOW[when]}"
    state = others.get(name)
    if state is None:
        return Obstacle(f"{waits}, but no such job is known", final=True)
    if not state.ended:
        return Obstacle(waits, job=name, proviso=f"{name} {_PROVISO[when]}" if when in _PROVISO else "")
    met = {"any": True, "failure": state == JobState.FAILED}.get(when, state == JobState.SUCCEEDED)
    return None if met else Obstacle(f"{waits}, but it {_ENDED[state]}", final=True)
