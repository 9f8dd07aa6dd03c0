"""What the ranks of a job print: what there is now, or as it comes, with how the job stands."""

from __future__ import annotations

import asyncio
import contextlib
import math
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

from ugro.common.errors import InputError
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.common.text import printable
from ugro.control_plane.failure_handler.handler import proposal_in_words
from ugro.control_plane.metadata_store.job_logs import JobLogs
from ugro.control_plane.metadata_store.retention import pruned_at
from ugro.control_plane.scheduler.attempts import in_attempt, missing_logs
from ugro.nodes.remote.logs.log_streamer import NO_RANK, LogReader, StreamedLine, setup_copy
from ugro.service.context import Context
from ugro.service.documents import error_document
from ugro.service.ending import progress
from ugro.service.observed import short_reasons
from ugro.service.outputs import await_outputs
from ugro.service.schemas.logs import (
    Follow,
    FollowUpdate,
    GpuUse,
    JobUpdate,
    LogLine,
    LogLines,
    LogsEnd,
    LogUpdate,
    NodeUse,
    PageOfLog,
    ReadLogs,
    SearchLog,
    UnfinishedLine,
)
from ugro.service.starting import last_queue

POLL_SECONDS, TICK_SECONDS = 0.5, 2.0
"""Seconds between two reads of a followed job's logs, and between two ticks, where no other process ticks."""

SYNC_WITHIN = 10.0
"""Seconds that a node has for one round of its logs."""

LINES = 500
"""Lines of one item."""


async def read(context: Context, request: ReadLogs) -> AsyncIterator[LogUpdate]:
    """Yield what the ranks of a job have printed, interleaved.

    Raises:
        InputError: there is no such job, attempt or rank, or `ugro gc` removed the logs.
    """
    job, past = asked(context, request)
    copies = (await context.reach()).controller.logs_of(job)
    async with _shown(context, copies, request.tail) as shown:
        reader = await _reader(shown, request, job)
        if request.tail is not None:
            async for part in _parts(reader, reader.last(request.tail, final=True), job):
                yield part
        else:
            async for part in _rounds(context, shown, reader, job):
                yield part
            async for part in _rest(shown, reader, job, {}):
                yield part
        yield _end(context, job, copies, shown, reader, past)


async def follow(context: Context, request: Follow) -> AsyncIterator[FollowUpdate]:
    """Yield what the ranks of a job print and how it stands, until it has ended. Ticks unless another process does.

    Raises:
        InputError: there is no such job, attempt or rank, the attempt is over, or `ugro gc` removed the logs.
    """
    job, past = asked(context, request)
    if past and request.position is None:
        over = f"attempt {job.attempt} of {job.id} is over, so there is nothing to follow"
        raise InputError(over, f"see what it printed: ugro logs {job.id} --attempt {job.attempt}")
    yield _update(context, job)
    copies = (await context.reach()).controller.logs_of(job)
    async with _shown(context, copies, request.tail, request.position) as shown:
        reader = await _reader(shown, request, job)
        if request.position is not None:
            reader.skip_to(request.position)
        elif request.tail is not None:
            async for part in _parts(reader, reader.last(request.tail), job):
                yield part
            yield _end(context, job, copies, shown, reader, past)
        window = shown if shown is not copies else None
        async for update in _followed(context, job, reader, window, request.position or {}):
            yield update


async def _followed(
    context: Context, job: Job, reader: LogReader, window: JobLogs | None, position: Mapping[str, int]
) -> AsyncIterator[FollowUpdate]:
    """Yield what is new; `window` is what the reader reads, where that is not the copies of the job's logs.

    `position`: how far they were read before.
    """
    controller = (await context.reach()).controller
    ticked, waits, trouble = 0.0, "", ""
    while True:
        if time.monotonic() - ticked >= TICK_SECONDS and not job.state.ended:
            await context.tick_if_free()
            ticked = time.monotonic()
            waits, trouble = _why_it_waits(context, job.id), _trouble(context, job.id)
        job = in_attempt(context.store.jobs.job(job.id), job.attempt)
        logs = window.again() if window else controller.logs_of(job)
        until = math.inf if job.state.ended else ticked + TICK_SECONDS
        async for part in _rounds(context, logs, reader, job, until):
            yield part
        if job.state.ended:
            async for part in _rest(logs, reader, job, position):
                yield part
            await await_outputs(context, job)
            yield _update(context, job)
            return
        yield _update(context, job, waits, trouble, list(logs.silent), reader)
        await asyncio.sleep(POLL_SECONDS if time.monotonic() <= until else 0.0)


def asked(context: Context, request: ReadLogs | Follow | PageOfLog | SearchLog) -> tuple[Job, bool]:
    """Return a job as it was in the attempt that is asked for, and whether another one followed that.

    Raises:
        InputError: there is no such job, attempt or rank, or `ugro gc` removed the logs.
    """
    record = context.store.jobs.find(request.job)
    job = in_attempt(record, request.attempt)
    ranks = job.placement.world_size if job.placement else len(job.ranks)
    if request.rank is not None and ranks and request.rank >= ranks:
        raise InputError(f"{job.id} has no rank {request.rank}", f"its ranks are 0 to {ranks - 1}")
    if (removed := pruned_at(context.store, job.id)) and not context.store.jobs.files(job.id).all_logs.exists():
        raise InputError(f"the logs of {job.id} were removed by `ugro gc` on {removed}", f"see: ugro events {job.id}")
    return job, job.attempt != record.attempt


async def _reader(shown: JobLogs, request: ReadLogs | Follow, job: Job) -> LogReader:
    """Return what reads the logs that are asked for, where their lines begin.

    Raises:
        InputError: the job has nothing on that node, or both a time and a number of lines are named.
    """
    if request.since is not None and request.tail is not None:
        raise InputError("--since and --tail both say where the lines begin", "leave out one of them")
    only = None if request.node is None else _copies_of(job, request.node)
    reader = shown.reader(request.rank, request.torchrun, request.setup, only)
    if request.since is not None:
        await asyncio.to_thread(reader.skip_to_time, request.since)
    return reader


def _copies_of(job: Job, node: str) -> frozenset[str]:
    """Return the names of the copies of what a job prints on a node.

    Raises:
        InputError: it has nothing there.
    """
    shares = job.placement.shares if job.placement else ()
    for share in shares:
        if share.node == node:
            ranks = range(share.first_rank, share.first_rank + share.nproc)
            return frozenset(
                [f"node-{share.node_rank}.log", setup_copy(share.node_rank), *(f"rank-{rank}.log" for rank in ranks)]
            )
    hint = f"its nodes are {', '.join(job.nodes)}" if job.nodes else f"see: ugro why {job.id}"
    raise InputError(f"{job.id} has no rank on {printable(node)!r}", hint)


@contextlib.asynccontextmanager
async def _shown(
    context: Context, copies: JobLogs, tail: int | None, position: Mapping[str, int] | None = None
) -> AsyncIterator[JobLogs]:
    """Give the logs to read: the copies, or where they are far behind a window of the last lines, or of what is new."""
    if tail is None:
        yield copies
        return
    with tempfile.TemporaryDirectory(prefix="ugro-logs-") as folder:
        window = None
        with context.store.optional():
            if position is None:
                window = await copies.window(tail, Path(folder), SYNC_WITHIN)
            else:
                window = copies.window_from(position, Path(folder))
        yield window or copies


async def _rounds(
    context: Context, logs: JobLogs, reader: LogReader, job: Job, until: float = math.inf
) -> AsyncIterator[LogLines]:
    """Yield what there is now of a job's logs as it comes, until a monotonic time."""
    with context.store.optional():  # on a full disk the copies that are there have to do
        async for _ in logs.rounds(SYNC_WITHIN):
            async for part in _parts(reader, reader.lines(), job):
                yield part
            if time.monotonic() > until:
                return


async def _rest(logs: JobLogs, reader: LogReader, job: Job, position: Mapping[str, int]) -> AsyncIterator[LogLines]:
    """Return the last lines, and torchrun's own of a job that failed before its ranks began: no others tell why.

    `position`: how far they were read before.
    """
    async for part in _parts(reader, reader.lines(final=True), job):
        yield part
    failure = job.first_failure
    if failure and failure.rank is None and not (reader.torchrun or reader.setup):
        own = logs.reader(NO_RANK, torchrun=True, only=reader.only)
        own.skip_to({name: offset for name, offset in position.items() if name.startswith("node-")})
        async for part in _parts(own, own.lines(final=True), job, explains=True):
            yield part


async def _parts(
    reader: LogReader, lines: Iterable[StreamedLine], job: Job, explains: bool = False
) -> AsyncIterator[LogLines]:
    """Yield lines in parts. A thread reads them: the event loop has others to serve."""
    found = iter(lines)

    def next_part() -> LogLines | None:
        part = tuple(map(_line, islice(found, LINES)))
        return LogLines(lines=part, nodes=job.nodes, explains=explains, position=reader.position) if part else None

    while part := await asyncio.to_thread(next_part):
        yield part


def _line(line: StreamedLine) -> LogLine:
    return LogLine(rank=line.rank, node_rank=line.node_rank, text=line.text, setup=line.setup)


def _end(context: Context, job: Job, copies: JobLogs, shown: JobLogs, reader: LogReader, past: bool) -> LogsEnd:
    missing = None
    if past and not any(copies.folder.glob("*.log")):
        unknown = [node for node in job.nodes if node not in copies.nodes]
        missing = missing_logs(job, unknown, list(shown.silent))
    return LogsEnd(
        job=context.document(job),
        missing=missing,
        unreadable=tuple(map(error_document, shown.silent.values())),
        position=reader.position,
    )


# --- how a followed job stands ---------------------------------------------------------------------------------------


def _update(
    context: Context,
    job: Job,
    waits: str = "",
    trouble: str = "",
    silent: Sequence[str] = (),
    reader: LogReader | None = None,
) -> JobUpdate:
    begun = reader.unfinished() if reader else None
    return JobUpdate(
        **vars(progress(context, job)),
        waits=waits,
        trouble=trouble,
        nodes=_nodes(context, job, silent),
        unfinished=UnfinishedLine(line=_line(begun.line), number=begun.number) if begun else None,
    )


def _nodes(context: Context, job: Job, silent: Sequence[str]) -> tuple[NodeUse, ...]:
    views = context.store.config.remembered_nodes() if job.nodes else {}
    return tuple(
        NodeUse(
            node=node,
            silent=node in silent,
            gpus=tuple(
                GpuUse(utilization_percent=gpu.utilization_percent, memory_used_mib=gpu.memory_used_mib)
                for gpu in (views[node].gpus if node in views else ())
            ),
        )
        for node in job.nodes
    )


def _why_it_waits(context: Context, job_id: str) -> str:
    """Return in short why a job waits, by the last tick; nothing for a job that does not wait."""
    job = context.store.jobs.job(job_id)
    if job.state == JobState.RUNNING:
        return "" if job.stopping else job.reason  # once its ranks have ended, that names what they left running
    waiting = job.state in (JobState.QUEUED, JobState.HELD) and not job.wish
    return short_reasons(last_queue(context))[job_id] if waiting else ""


def _trouble(context: Context, job_id: str) -> str:
    """Return what is wrong with a job that has not ended, and what is proposed about it; nothing while it is well."""
    job, proposal = context.store.jobs.job(job_id), context.store.decisions.proposals().get(job_id)
    told = (
        job.alert
        or (proposal and proposal.ends)
        or (job.state == JobState.RUNNING and job.reason and not job.first_failure)
    )
    if job.state.ended or not told:
        return ""
    proposed = ""
    if proposal and not proposal.approved:
        proposed = f"; proposed: {proposal_in_words(proposal)}: ugro approve {job_id}, or ugro deny {job_id}"
    return f"{job_id} {job.alert or job.reason}{proposed}"
