"""Decide which job starts when and where, and why others wait: pure functions over a queue with its clock."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ugro.common.config import Inventory
from ugro.common.errors import InputError
from ugro.common.job_spec import JobSpec
from ugro.common.models.job import Job, Placement
from ugro.common.models.job_state import JobState
from ugro.common.text import count, size
from ugro.control_plane.resource_manager.governor import Capacity
from ugro.control_plane.resource_manager.twins import REMEDY
from ugro.control_plane.scheduler.allocator import candidates, choose, shortfalls, sizes, smaller_request
from ugro.control_plane.scheduler.backfill import Queue, Round, ScheduledStart, WaitingJob
from ugro.control_plane.scheduler.gpu_count import usable_gpus
from ugro.control_plane.scheduler.pending_reasons import (
    AwaitsJob,
    Behind,
    Blocker,
    EndsAs,
    GpuFull,
    Holder,
    LaunchCutOff,
    NodeHeld,
    NodeReason,
    NodesShort,
    NotBefore,
    OnHold,
    Overtaken,
    PendingReason,
    Starts,
    UnmetDependency,
    nearness,
)
from ugro.control_plane.scheduler.pending_words import gpus_in_words
from ugro.control_plane.scheduler.room import Room, nodes_wanted, suited
from ugro.control_plane.scheduler.unschedulable import defects, unschedulable


@dataclass(frozen=True)
class Schedule:
    """The jobs to start now. `head` is the job that the others may not delay; the time of its start may be unknown."""

    starts: tuple[ScheduledStart, ...]
    head: str | None
    head_starts_at: float | None


def blockers(job: Job, spec: JobSpec, others: Mapping[str, JobState], now: float) -> tuple[Blocker, ...]:
    """Return why a job may not start yet even on an idle cluster: it is held, depends on others, is for later, or its
    launch was just cut off.

    `others` has the states of the jobs it depends on by id, as far as they are known.
    """
    found: list[Blocker] = [OnHold()] if job.state == JobState.HELD else []
    found += [blocker for entry in spec.after if (blocker := _dependency(entry, others))]
    if spec.not_before is not None and spec.not_before > now:
        found.append(NotBefore(spec.not_before))
    if (back := job.taken_back) and now < back.until:
        found.append(LaunchCutOff(back.until, back.times, back.reason))
    return tuple(found)


def schedule(queue: Queue) -> Schedule:
    """Return the jobs to start now. Running jobs keep their slots."""
    turn = Round(queue)
    return Schedule(tuple(turn.starts.values()), turn.head.id if turn.head else None, turn.head_starts_at)


def reasons(queue: Queue) -> dict[str, PendingReason]:
    """Return by job its nearest pending reason, or that it starts."""
    turn = Round(queue)
    never = unschedulable(turn)

    def reason(job: WaitingJob) -> PendingReason:
        if job.id in turn.starts:
            return Starts()
        if job.id in never:
            return never[job.id]
        if job.blockers:
            return job.blockers[0]
        if not turn.fits_alone(job):
            return Overtaken(defects(turn, job))
        if turn.head and turn.head is not job and turn.competes(turn.head, job):
            return Behind((turn.head.id,))
        return NodesShort.nearest(_shortfalls(turn, job))

    return {job.id: reason(job) for job in turn.jobs}


def why(queue: Queue, job_id: str) -> tuple[PendingReason, ...]:
    """Return every pending reason of a job, the nearest to be over first; nothing if it starts now.

    That it is unschedulable comes before all of them.

    Raises:
        InputError: no such job waits.
    """
    turn = Round(queue)
    job = turn.find(job_id)
    if job_id in turn.starts:
        return ()
    short = sorted(_shortfalls(turn, job), key=nearness)
    held = [one for one in short if isinstance(one, (NodeHeld, GpuFull))]
    others = tuple(other.id for other in turn.ahead_of(job) if turn.competes(other, job))
    ahead = [Behind(others)] if others else []
    found: list[PendingReason] = [*job.blockers, *held, *ahead, *short[len(held) :]]
    if (never := unschedulable(turn).get(job_id)) is None:
        return tuple(found)
    return (never, *(reason for reason in found if reason not in never.named))


def check_request(spec: JobSpec, inventory: Inventory, capacities: Mapping[str, Capacity]) -> None:
    """Refuse a request that could not run even on an idle cluster. Drained, full and busy nodes count as idle.

    The capacity of a node that cannot be read is unknown, so it counts as sufficient.

    Raises:
        InputError: unknown nodes, more nodes, GPUs or memory than exist.
    """
    names = candidates(spec, inventory)
    wanted = nodes_wanted(spec, names)
    if wanted > len(names):
        hint = f"ask for fewer: --nodes {len(names)}" if names else ""
        raise InputError(f"{wanted} nodes are requested and the inventory has {len(names)}", hint)
    doubled = {name: capacities[name].twin for name in names if capacities[name].twin}
    if wanted > len(names) - len(doubled):
        others = ",".join(name for name in names if name not in doubled)
        raise InputError("; ".join(doubled.values()), f"{REMEDY} ({inventory.path}), or leave it out: --nodes {others}")
    idle = _idle({name: capacities[name] for name in names})
    if spec.gpus_in_all is not None:
        _check_in_all(spec, idle, [capacities[name] for name in names])
        return
    fitting = [name for name in names if capacities[name].error or idle.parts(spec, name)]
    if len(fitting) < wanted:
        gpus = count(spec.gpus_per_node or 1, "GPU") + (f" with {size(spec.vram)} of memory" if spec.vram else "")
        gpus += " to share" if spec.share is not None else ""
        limit = "at most" if any(capacities[name].error for name in fitting) else "only"
        able = f"{limit} {count(len(fitting), 'node')}" if fitting else "no node"
        smaller = smaller_request(spec, wanted, {name: capacities[name] for name in names})
        raise InputError(
            f"requested: {gpus} on each of {count(wanted, 'node')}; {able} can give that",
            (f"it would fit with {smaller}; " if smaller else "")
            + "; ".join(f"{name}: {_contents(capacities[name])}" for name in names),
        )


def _check_in_all(spec: JobSpec, idle: Room, capacities: Sequence[Capacity]) -> None:
    """Refuse more GPUs in all than these nodes have.

    Raises:
        InputError: so many are requested.
    """
    if any(capacity.error for capacity in capacities) or choose(spec, [one.node for one in capacities], idle):
        return
    able = usable_gpus(spec, map(_as_idle, capacities))
    smaller = smaller_request(spec, 0, {capacity.node: _as_idle(capacity) for capacity in capacities})
    size_of_each = f" with {size(spec.vram)} of memory" if spec.vram else ""
    where = f" on {count(spec.nodes, 'node')}" if isinstance(spec.nodes, int) else ""
    raise InputError(
        f"requested: {count(spec.gpus_in_all or 0, 'GPU')}{size_of_each} in all{where}; only {able} can be given",
        (f"it would fit with {smaller}; " if smaller else "")
        + "; ".join(f"{capacity.node}: {_contents(capacity)}" for capacity in capacities),
    )


def placement_of(queue: Queue, job_id: str) -> Placement | None:
    """Return where a job would start now; None: it would not."""
    start = Round(queue).starts.get(job_id)
    return start.placement if start else None


def placement_when_idle(queue: Queue, spec: JobSpec) -> Placement:
    """Return where a job would start if nothing else ran and no node was drained or short of something.

    Raises:
        NodeError: it needs a node that cannot be read.
    """
    names = candidates(spec, queue.inventory)
    if placement := choose(spec, names, _idle(queue.capacities)):
        return placement
    error = next(error for name in names if (error := queue.capacities[name].error))
    raise type(error)(error.node, error.problem, f"a launch would be queued, and wait for it; {error.hint}")


def _contents(capacity: Capacity) -> str:
    """Return a node's GPUs for an error message, or that it cannot be read or has another name."""
    if capacity.error:
        return capacity.error.problem
    return capacity.twin or gpus_in_words(len(capacity.gpus), sizes(capacity), capacity.left_out)


def _idle(capacities: Mapping[str, Capacity]) -> Room:
    return Room({name: _as_idle(capacity) for name, capacity in capacities.items() if not capacity.error})


def _as_idle(capacity: Capacity) -> Capacity:
    return replace(capacity.calm, refusal=capacity.twin or None)


def _shortfalls(turn: Round, job: WaitingJob) -> list[NodeReason]:
    """Return why the nodes do not take the job now, node by node."""
    holders: dict[str, list[Holder]] = {}
    for run in turn.running:
        holder = Holder(math.inf if run.ends is None else run.ends, run.id, run.stopping, run.shared_mib)
        for key in run.keys:
            holders.setdefault(key, []).append(holder)
    names = [name for name in turn.nodes(job) if not _gives_all(turn, job, name)]
    return [one for name in names for one in shortfalls(job.spec, name, turn.queue.capacities.get(name), holders)]


def _gives_all(turn: Round, job: WaitingJob, node: str) -> bool:
    """Whether a node gives a job what it could: of GPUs in all, every one that would do."""
    capacity = turn.queue.capacities.get(node)
    if job.spec.gpus_in_all is None or capacity is None:
        return bool(turn.room.parts(job.spec, node))
    return 0 < len(turn.room.free(job.spec, node)) == len(suited(job.spec, capacity))


def _dependency(entry: str, others: Mapping[str, JobState]) -> AwaitsJob | UnmetDependency | None:
    """Return why a job has to wait for the one that an entry of its `after` names, or None."""
    name, _, when = entry.partition(":")
    ending, state = EndsAs(when or EndsAs.SUCCESS), others.get(name)
    if state is not None and not state.ended:
        return AwaitsJob(name, ending)
    met = {EndsAs.SUCCESS: state == JobState.SUCCEEDED, EndsAs.FAILURE: state == JobState.FAILED}
    return None if state and met.get(ending, True) else UnmetDependency(name, ending, state)
