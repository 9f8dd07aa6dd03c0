"""Brings the declared outputs of jobs that succeeded to the master, in slices that any later tick continues."""

from __future__ import annotations

import asyncio

from ugro.common.config import Inventory
from ugro.common.errors import InputError, RecordUnreadable, StateError
from ugro.common.models.event_kind import EventKind
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.common.models.outputs import OutputsRecord
from ugro.common.models.outputs_state import OutputsState
from ugro.common.text import bytes_in_words, count, printable, visible
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.locks import alone_on
from ugro.control_plane.metadata_store.output_store.choosing import one_of_each_storage
from ugro.control_plane.metadata_store.output_store.files import (
    FetchedFiles,
    JobFilesOnNodes,
    NodeFiles,
    Progress,
    places,
)
from ugro.control_plane.metadata_store.records import state_errors
from ugro.nodes.pool import Pool
from ugro.nodes.remote.files.listing import MOST_FILES

OUTPUTS_LIMIT = 10 * 2**30
"""Bytes of a job's outputs that come without being asked for; more than that waits for `ugro pull`."""

SLICE_SECONDS = 300.0
"""Seconds that one try may take; the next one continues it."""

LOOK_WITHIN = 60.0
"""Seconds that a node has to list what it has."""

TRIES = 3
"""Number of requests for a file that its node does not give."""

OWED_FOR = 7 * 86400.0
"""Seconds after which an unreachable node is not asked any more."""


async def bring_owed(
    store: MetadataStore, inventory: Inventory, pool: Pool, job_id: str, progress: Progress | None = None
) -> None:
    """Bring what is still to come of a job's outputs, unless another process does; what came of it is recorded.

    Raises:
        StateError: the state directory cannot be written.
    """
    files = store.jobs.files(job_id)
    if not files.record.exists():  # it was removed
        await store.write(lambda: store.outputs.settle(job_id))
        return
    try:
        job = store.jobs.job(job_id)
    except RecordUnreadable as error:  # its outputs come once the record is repaired
        store.tell(error)
        return
    if job.state != JobState.SUCCEEDED:
        if job.state.ended:  # its success was noted and never recorded
            await store.write(lambda: store.outputs.settle(job_id))
        return
    with state_errors(files.outputs):
        files.outputs.mkdir(mode=0o700, exist_ok=True)
    with alone_on(files.outputs) as alone:
        if alone and job_id in store.outputs.owed():
            await _bring(store, inventory, pool, job, progress)


async def _bring(store: MetadataStore, inventory: Inventory, pool: Pool, job: Job, progress: Progress | None) -> None:
    before = store.outputs.record(job.id) or OutputsRecord(state=OutputsState.OWED, since=store.clock.now())
    try:
        async with asyncio.timeout(SLICE_SECONDS):
            record = await _one_try(store, inventory, pool, job, before, progress)
    except TimeoutError:
        record = before.model_copy(update={"problem": "they are being copied"})
    except (InputError, StateError) as error:  # no node is known any more, or the disk is full
        record = before.model_copy(update={"problem": error.message})
    late = store.clock.now() - before.since > OWED_FOR
    if record.state == OutputsState.OWED and late:
        record = record.model_copy(update={"state": OutputsState.PARTIAL})
    await store.write(lambda: _keep(store, job, before, record))


async def _one_try(
    store: MetadataStore,
    inventory: Inventory,
    pool: Pool,
    job: Job,
    before: OutputsRecord,
    progress: Progress | None,
) -> OutputsRecord:
    nodes = JobFilesOnNodes(pool, job, places(inventory, job))
    globs, folder = store.jobs.spec(job.id).outputs, store.jobs.files(job.id).outputs
    found = await nodes.find(globs, LOOK_WITHIN)
    asked = before.model_copy(update={"tries": before.tries + 1})
    many, taken = _extent(found)
    if taken > OUTPUTS_LIMIT or many >= MOST_FILES:
        update = {"state": OutputsState.TOO_LARGE, "files": many, "bytes": taken}
        return asked.model_copy(update=update)
    odd = any(listing.odd for listing in found.listings.values())
    if not (many or odd or found.silent):
        return asked.model_copy(update={"state": OutputsState.NONE})
    brought = await nodes.bring(found, folder, progress, trusted=True)
    done = [one for _, one in brought.done]
    here = {"files": len(done), "bytes": sum(one.size for one in done), "problem": _problem(brought)}
    state = OutputsState.HERE if brought.complete else OutputsState.OWED
    if brought.missing and not brought.errors and asked.tries >= TRIES:
        state = OutputsState.PARTIAL
    return asked.model_copy(update={**here, "state": state})


def _extent(found: NodeFiles) -> tuple[int, int]:
    """Return how many files there are, and their bytes; all that a full listing says where there are more."""
    entries = [
        entry
        for listing in one_of_each_storage(found.listings).values()
        for entry in listing.entries
        if entry.kind == "file"
    ]
    more = any(listing.more for listing in found.listings.values())
    return (MOST_FILES if more else len(entries)), sum(entry.size for entry in entries)


def _problem(brought: FetchedFiles) -> str:
    if brought.errors:
        return brought.errors[0].message
    return f"{brought.missing[0].node}: {brought.missing[0].path}: {brought.missing[0].why}" if brought.missing else ""


def _keep(store: MetadataStore, job: Job, before: OutputsRecord, record: OutputsRecord) -> None:
    """Write down what came of a try; what is new in it is an event."""
    store.outputs.keep(job.id, record)
    if (record.state, bool(record.problem)) != (before.state, bool(before.problem)):
        store.timeline.note("", EventKind.OUTPUTS, in_words(store, job, record), job.id)
    if record.state != OutputsState.OWED:
        store.outputs.settle(job.id)


def in_words(store: MetadataStore, job: Job, record: OutputsRecord) -> str:
    """Return what became of a job's outputs, for its timeline."""
    folder, files = store.jobs.files(job.id).outputs, count(record.files, "output")
    taken = bytes_in_words(record.bytes)
    match record.state:
        case OutputsState.HERE:
            return f"{files} ({taken}) copied to {folder}"
        case OutputsState.NONE:
            return f"no file has a name that it declares: {', '.join(map(visible, store.jobs.spec(job.id).outputs))}"
        case OutputsState.TOO_LARGE:
            limit, there = bytes_in_words(OUTPUTS_LIMIT), count(record.files, "file")
            return f"its outputs ({there}, {taken}) stay on its nodes: only up to {limit} come by themselves"
        case OutputsState.PARTIAL:
            return f"{files} ({taken}) copied to {folder}; the others cannot be: {printable(record.problem)}"
        case OutputsState.OWED:
            return f"its outputs are still to come: {printable(record.problem)}"
