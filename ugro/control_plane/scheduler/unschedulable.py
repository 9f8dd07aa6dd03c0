"""Jobs that will never start as things are, why, and what a person could do about it. No I/O.

What may pass by itself is no such cause: a node that does not answer, a GPU that somebody else uses.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter

from ugro.common.text import count, some
from ugro.control_plane.scheduler.allocator import Kind, Lack, Room, Shape, lacks
from ugro.control_plane.scheduler.backfill import Round, Waiting


@dataclass(frozen=True)
class Deadlock:
    """Why a job will never start as things are; `remedies` are what would help, besides giving it up."""

    cause: str
    remedies: tuple[str, ...]


def hopeless(turn: Round) -> dict[str, str]:
    """The jobs that will never start as things are, with the cause and what would help, in one sentence each."""
    jobs = {job.id: job for job in turn.jobs if job.id not in turn.starts}
    waits_for = {job.id: [one.job for one in job.obstacles if one.job in jobs] for job in jobs.values()}
    alone = _Alone(turn)
    found: dict[str, Deadlock] = {}
    for job_id in _dependencies_first(waits_for):
        job = jobs.pop(job_id)
        if cause := _unmet(job) or _behind(job, found) or alone.lacking(job):
            found[job_id] = cause
    for job in jobs.values():  # what is left waits in a circle, or for one of it
        first = next(one for one in job.obstacles if one.job in jobs)
        circle = "itself" if first.job == job.id else "others that wait for each other"
        found[job.id] = Deadlock(f"{first.text}, so it waits for {circle}", (f"ugro cancel {first.job}",))
    return {job_id: _in_words(job_id, cause) for job_id, cause in found.items()}


def defects(turn: Round, job: Waiting) -> str:
    """Why a job does not fit even if every job of UGRO ended, in short."""
    found = [lack for name in turn.nodes(job) for lack in lacks(job.spec, name, turn.queue.offers.get(name), {})]
    return shortly(found)


def unanswered(turn: Round, job: Waiting) -> str:
    """The silent nodes that a job could start with right now, and what it could start without; nothing if none can
    help it.
    """
    names, offers = turn.nodes(job), turn.queue.offers
    silent = [offer for name in names if (offer := offers.get(name)) and offer.silent]
    ready = [name for name in names if turn.room.parts(job.spec, name)]
    missing = (job.spec.nodes if isinstance(job.spec.nodes, int) else len(names)) - len(ready)
    if not 0 < missing <= len(silent):
        return ""
    when = "enough of them do" if missing < len(silent) else "it does" if missing == 1 else "they do"
    now = f"; one with --nodes {','.join(ready)} could start now" if ready else ""
    return f"{some([offer.refusal or '' for offer in silent], '; ')}; it starts when {when}{now}"


def shortly(found: Sequence[Lack]) -> str:
    """The nearest reason of each node."""
    nearest: dict[str, str] = {}
    for lack in found:
        nearest.setdefault(lack.node, lack.text)
    return some(list(nearest.values()), "; ")


class _Alone:
    """Whether jobs could run on nodes where nothing else does."""

    def __init__(self, turn: Round) -> None:
        self._turn = turn
        self._offers = {name: replace(offer, busy={}) for name, offer in turn.queue.offers.items()}
        self._room = Room(self._offers)
        self._known: dict[Shape, Deadlock | None] = {}

    def lacking(self, job: Waiting) -> Deadlock | None:
        """Which nodes do not take the job, where too few of the others are left."""
        if self._turn.fits_alone(job):
            return None
        shape = self._room.shape(job.spec)
        if shape not in self._known:
            self._known[shape] = self._look(job)
        return self._known[shape]

    def _look(self, job: Waiting) -> Deadlock | None:
        names = self._turn.nodes(job)
        wanted = job.spec.nodes if isinstance(job.spec.nodes, int) else len(names)
        if wanted > len(names):
            cause = f"{count(wanted, 'node')} are requested and the inventory has {len(names)}"
            return Deadlock(cause, ("add nodes to the inventory",))
        unable = [name for name in names if not self._may_fit(job, name)]
        if len(names) - len(unable) >= wanted:
            return None
        found = [lack for name in unable for lack in lacks(job.spec, name, self._offers.get(name), {})]
        return Deadlock(shortly(found), tuple(dict.fromkeys(self._remedy(lack) for lack in found)))

    def _may_fit(self, job: Waiting, node: str) -> bool:
        offer = self._offers.get(node)
        if offer is not None and offer.error:
            return not offer.error.lasting
        return bool(self._room.parts(job.spec, node))

    def _remedy(self, lack: Lack) -> str:
        offer = self._offers.get(lack.node)
        if offer is None:
            return f"add {lack.node} to the inventory again"
        if lack.kind == Kind.REFUSED and offer.remedy:
            return offer.remedy
        if offer.left_out or offer.error:
            return f"check {lack.node}: ugro check"
        return "launch it again for less"


def _unmet(job: Waiting) -> Deadlock | None:
    """A dependency that can not be met any more."""
    final = next((one for one in job.obstacles if one.final), None)
    return Deadlock(final.text, ("launch it again with another --after",)) if final else None


def _behind(job: Waiting, found: Mapping[str, Deadlock]) -> Deadlock | None:
    """A dependency on a job that will never start itself."""
    first = next((one for one in job.obstacles if one.job in found), None)
    return (
        Deadlock(f"{first.text}, which is unschedulable", (f"look at that one: ugro why {first.job}",))
        if first
        else None
    )


def _dependencies_first(waits_for: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Each job after all those that it waits for; none that waits for itself, be it through others."""
    sorter = TopologicalSorter(waits_for)
    with contextlib.suppress(CycleError):  # it goes on with what is in no circle
        sorter.prepare()
    while ready := sorter.get_ready():
        yield from ready
        sorter.done(*ready)


def _in_words(job_id: str, found: Deadlock) -> str:
    help_ = some(found.remedies, " and ")
    return f"is unschedulable: {found.cause}; to start it: {help_}, or cancel it: ugro cancel {job_id}"
