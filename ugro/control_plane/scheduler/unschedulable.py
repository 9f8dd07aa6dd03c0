"""Unschedulable jobs: those that cannot start until the user changes something, why, and what to change. No I/O.

A state that may pass by itself is no such cause: an unreachable node, a GPU that other programs use.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from ugro.control_plane.scheduler.allocator import shortfalls
from ugro.control_plane.scheduler.backfill import Round, WaitingJob
from ugro.control_plane.scheduler.gpu_count import usable_gpus
from ugro.control_plane.scheduler.pending_reasons import (
    Act,
    AwaitsCircle,
    AwaitsJob,
    AwaitsNodes,
    AwaitsUnschedulable,
    NodeReason,
    NodeRefuses,
    NodesShort,
    Remedy,
    SecretNotSet,
    TooFewInAll,
    TooFewNodes,
    UnmetDependency,
    Unschedulable,
)
from ugro.control_plane.scheduler.room import Room, Shape, nodes_wanted


def unschedulable(turn: Round) -> dict[str, Unschedulable]:
    """Return the unschedulable jobs, each with the cause and what would help."""
    jobs = {job.id: job for job in turn.jobs if job.id not in turn.starts}
    waits_for = {job.id: [one.job for one in _awaited(job) if one.job in jobs] for job in jobs.values()}
    alone = _Alone(turn)
    found: dict[str, Unschedulable] = {}
    for job_id in _dependencies_first(waits_for):
        job = jobs.pop(job_id)
        if one := _unmet(job) or _without_secret(job) or _behind(job, found) or alone.unschedulable(job):
            found[job_id] = one
    for job in jobs.values():  # what is left waits in a circle, or for one of it
        first = next(one for one in _awaited(job) if one.job in jobs)
        circle = AwaitsCircle(first, itself=first.job == job.id)
        found[job.id] = Unschedulable(job.id, circle, (Remedy(Act.CANCEL_JOB, first.job),))
    return found


def defects(turn: Round, job: WaitingJob) -> NodesShort:
    """Return why a job does not fit even if every job of UGRO ended."""
    capacities = turn.queue.capacities
    return NodesShort.nearest(
        one for name in turn.nodes(job) for one in shortfalls(job.spec, name, capacities.get(name), {})
    )


def unanswered(turn: Round, job: WaitingJob) -> AwaitsNodes | None:
    """Return the unreachable nodes that a job could start with right now, and what it could start without; None if
    none can help it.
    """
    names, capacities = turn.nodes(job), turn.queue.capacities
    if job.spec.gpus_in_all is not None:
        return _unanswered_in_all(turn, job)
    silent = [capacity for name in names if (capacity := capacities.get(name)) and capacity.silent]
    ready = tuple(name for name in names if turn.room.parts(job.spec, name))
    missing = nodes_wanted(job.spec, names) - len(ready)
    if not 0 < missing <= len(silent):
        return None
    return AwaitsNodes(tuple(capacity.refusal or "" for capacity in silent), missing, ready)


def _unanswered_in_all(turn: Round, job: WaitingJob) -> AwaitsNodes | None:
    """Do the same for GPUs in all: how many an unreachable node would add is unknown, so any of them may be enough."""
    capacities = [capacity for name in turn.nodes(job) if (capacity := turn.queue.capacities.get(name))]
    silent = tuple(capacity.refusal or "" for capacity in capacities if capacity.silent)
    free = sum(len(turn.room.free(job.spec, capacity.node)) for capacity in capacities)
    return AwaitsNodes(silent, 1, ()) if silent and free == usable_gpus(job.spec, capacities) else None


_Judgement = tuple[NodesShort | TooFewNodes | TooFewInAll, tuple[Remedy, ...]]
"""The reason why a job does not fit even where nothing else runs, and what would help."""


class _Alone:
    """Whether jobs could run on nodes where nothing else does."""

    def __init__(self, turn: Round) -> None:
        self._turn = turn
        self._capacities = {name: capacity.calm for name, capacity in turn.queue.capacities.items()}
        self._room = Room(self._capacities)
        self._known: dict[Shape, _Judgement | None] = {}

    def unschedulable(self, job: WaitingJob) -> Unschedulable | None:
        """Return which nodes do not take the job, where too few of the others are left."""
        if self._turn.fits_alone(job):
            return None
        shape = self._room.shape(job.spec)
        if shape not in self._known:
            self._known[shape] = self._judge(job)
        known = self._known[shape]
        return Unschedulable(job.id, *known) if known else None

    def _judge(self, job: WaitingJob) -> _Judgement | None:
        names = self._turn.nodes(job)
        wanted = nodes_wanted(job.spec, names)
        if wanted > len(names):
            return TooFewNodes(wanted, len(names)), (Remedy(Act.ADD_NODES),)
        if job.spec.gpus_in_all is not None:
            return self._judge_in_all(job)
        unable = [name for name in names if not self._may_fit(job, name)]
        if len(names) - len(unable) >= wanted:
            return None
        found = [one for name in unable for one in shortfalls(job.spec, name, self._capacities.get(name), {})]
        return NodesShort.nearest(found), tuple(dict.fromkeys(map(self._remedy, found)))

    def _judge_in_all(self, job: WaitingJob) -> _Judgement | None:
        names = self._turn.nodes(job)
        capacities = [self._capacities[name] for name in names if name in self._capacities]
        if any(capacity.error and not capacity.error.lasting for capacity in capacities):
            return None  # its number of GPUs is unknown
        found = [one for name in names for one in shortfalls(job.spec, name, self._capacities.get(name), {})]
        remedies = dict.fromkeys((*map(self._remedy, found), Remedy(Act.ASK_FOR_LESS)))
        usable = usable_gpus(job.spec, capacities)
        return TooFewInAll(job.spec.gpus_in_all or 0, usable, NodesShort.nearest(found).reasons), tuple(remedies)

    def _may_fit(self, job: WaitingJob, node: str) -> bool:
        capacity = self._capacities.get(node)
        if capacity is not None and capacity.error:
            return not capacity.error.lasting
        return bool(self._room.parts(job.spec, node))

    def _remedy(self, reason: NodeReason) -> Remedy:
        capacity = self._capacities.get(reason.node)
        if capacity is None:
            return Remedy(Act.ADD_NODE_AGAIN, reason.node)
        if isinstance(reason, NodeRefuses) and capacity.remedy:
            return Remedy(Act.MEND_NODE, capacity.remedy)
        if capacity.left_out or capacity.error:
            return Remedy(Act.CHECK_NODE, reason.node)
        return Remedy(Act.ASK_FOR_LESS)


def _awaited(job: WaitingJob) -> list[AwaitsJob]:
    """The jobs that it waits for."""
    return [one for one in job.blockers if isinstance(one, AwaitsJob)]


def _unmet(job: WaitingJob) -> Unschedulable | None:
    """A dependency that can not be met any more."""
    final = next((one for one in job.blockers if isinstance(one, UnmetDependency)), None)
    return Unschedulable(job.id, final, (Remedy(Act.CHANGE_AFTER),)) if final else None


def _without_secret(job: WaitingJob) -> Unschedulable | None:
    """A secret that was removed."""
    gone = [one for one in job.blockers if isinstance(one, SecretNotSet)]
    return Unschedulable(job.id, gone[0], tuple(Remedy(Act.SET_SECRET, one.secret) for one in gone)) if gone else None


def _behind(job: WaitingJob, found: Mapping[str, Unschedulable]) -> Unschedulable | None:
    """A dependency on a job that will never start itself."""
    first = next((one for one in _awaited(job) if one.job in found), None)
    return Unschedulable(job.id, AwaitsUnschedulable(first), (Remedy(Act.SEE_JOB, first.job),)) if first else None


def _dependencies_first(waits_for: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Each job after all those that it waits for; none that waits for itself, be it through others."""
    sorter = TopologicalSorter(waits_for)
    with contextlib.suppress(CycleError):  # it continues with what is in no circle
        sorter.prepare()
    while ready := sorter.get_ready():
        yield from ready
        sorter.done(*ready)
