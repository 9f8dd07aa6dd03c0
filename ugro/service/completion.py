"""Finds the words that a shell offers to complete, from the records alone: no node is reached."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from ugro.common.errors import UgroError
from ugro.common.job_names import LAST, LAST_FAILED
from ugro.common.models.job import Job
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.job_folders import number_of
from ugro.control_plane.metadata_store.records import pass_over
from ugro.control_plane.scheduler.accepted import accepts
from ugro.service.context import Context
from ugro.service.naming import ANSWERS
from ugro.service.schemas.completion import CompleteJobs, CompleteNodes, Words
from ugro.service.schemas.queries import RECENT


async def jobs(context: Context, request: CompleteJobs) -> Words:
    """Return the ids and names of the jobs of which a command can be asked."""
    store, given = context.store, set(request.given)
    fitting = set(store.decisions.unanswered()) - given if request.command in ANSWERS else None

    def fits(job: Job) -> bool:
        if request.command is None:
            return not job.state.ended
        if fitting is not None:
            return job.id in fitting
        return accepts(request.command, job) and not given & {job.id, job.name}

    found = [*store.jobs.live(pass_over), *store.jobs.recent(RECENT, pass_over)]
    offered = [word for word, job in _by_reference(found) if fits(job)]
    return Words(words=(*offered, *(word for word, job in _relative(store) if request.command and fits(job))))


def _relative(store: MetadataStore) -> Iterator[tuple[str, Job]]:
    """Yield the job that was submitted last, and the one that failed last, by these references."""
    for reference in (LAST, LAST_FAILED):
        with contextlib.suppress(UgroError):
            yield reference, store.jobs.find(reference)


def _by_reference(jobs: Iterable[Job]) -> Iterator[tuple[str, Job]]:
    """Yield each job by its id, and by its name where that means this job: the newest one that has it."""
    named: dict[str, Job] = {}
    for job in jobs:  # live ones first, as a name is looked up
        yield job.id, job
        first = named.setdefault(job.name, job)
        if first.state.ended == job.state.ended and number_of(first.id) < number_of(job.id):
            named[job.name] = job
    yield from named.items()


async def nodes(context: Context, request: CompleteNodes) -> Words:
    """Return the names of nodes.

    Raises:
        InventoryError: the inventory does not exist, or has a mistake.
    """
    return Words(words=tuple(context.store.config.drains() if request.drained else context.inventory.nodes))
