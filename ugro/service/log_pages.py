"""Shows a log of any size page by page, and searches it: only what is shown is read.

The copy on the master is what is numbered and searched. The node is asked for more where the end of the copy is to be
shown, or all of it searched. Where the copy is far behind, its log's end is brought alone, as for `ugro logs --tail`.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ugro.common.errors import InputError, NodeError
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.common.sgr import runs
from ugro.common.text import printable
from ugro.control_plane.metadata_store.job_logs import JobLogs
from ugro.control_plane.metadata_store.log_index import FoundLines, IndexedLog, KeptLine, on_log
from ugro.control_plane.metadata_store.log_regex import matches
from ugro.nodes.remote.logs.log_streamer import TOTAL
from ugro.service.context import Context
from ugro.service.documents import error_document
from ugro.service.logs import asked
from ugro.service.schemas.logs import LogHits, LogPage, NumberedLine, PageOfLog, SearchLog, Span

T = TypeVar("T")

BRING_SECONDS, ANSWER_WITHIN = 1.0, 5.0
"""Seconds after which no further round of a log is begun, and that its node has for each."""

SEARCH_SECONDS = 2.0
"""Seconds that one search may take."""

PIECE = 262_144
"""Bytes of a complete log that are in memory at a time."""

LONGEST_QUERY = 1000
"""Characters that are searched for."""

FRESH, SILENT_FOR = 0.3, 30.0
"""Seconds for which what a node said last will do, and for which one that did not answer is not asked again: a page
that is looked at in ten tabs costs the node no more than one."""

MOST_REMEMBERED = 1000
"""Logs of which it is remembered when they were brought."""


@dataclass(frozen=True)
class _Brought:
    """When a node was asked for more of its logs last, the bytes that are left there, and why it did not answer.

    `behind` is None where that is unknown: it did not answer, or the disk here takes no more.
    """

    at: float
    behind: int | None
    silent: NodeError | None

    @property
    def will_do(self) -> bool:
        return time.monotonic() - self.at < (SILENT_FOR if self.silent else FRESH)


_brought: dict[tuple[Path, int, JobState], _Brought] = {}
"""By the folder of the copies, the rank, and the state of the job: its last lines are not missed."""


async def page(context: Context, request: PageOfLog) -> LogPage:
    """Return lines of one rank's log by their number.

    Raises:
        InputError: there is no such job, attempt or rank, or `ugro gc` removed the logs.
        StateError: the copy of the log cannot be read.
    """
    job, _ = asked(context, request)
    logs, copy = await _copy_of(context, job, request.rank)
    to_end = request.direction == "backward" and request.from_line is None

    def read(log: IndexedLog | None) -> tuple[dict[str, Any], bool]:
        found = _lines(log, request)
        last = found[-1].number if found else 0
        told = _told(job, request.rank, log) | {"shown": _numbered(found, request.rank)}
        return told, to_end or log is None or last in (0, log.count)

    told, at_end = await asyncio.to_thread(_on, copy, read)
    if not at_end:
        return LogPage.checked(told | {"behind": None, "unreadable": None})
    brought = await _bring(context, job, logs, request.rank, TOTAL if to_end else None)
    told, _ = await asyncio.to_thread(_on, copy, read)
    if to_end and (brought.behind or 0) > TOTAL:
        told["shown"] = await _end_alone(context, logs, copy, request) or told["shown"]
    return LogPage.checked(told | _of_node(brought))


async def search(context: Context, request: SearchLog) -> LogHits:
    """Return lines of one rank's log that contain a text, or match a regular expression.

    Raises:
        InputError: there is no such job, attempt or rank, `ugro gc` removed the logs, the query is empty or has control
            characters, or the regular expression is none or takes too long.
        StateError: the copy of the log cannot be read.
    """
    job, _ = asked(context, request)
    _check(request.query)
    logs, copy = await _copy_of(context, job, request.rank)
    brought = await _bring(context, job, logs, request.rank, None)

    def read(log: IndexedLog | None) -> dict[str, Any]:
        found = _found(log, copy, request) if log else FoundLines((), None)
        if log and found.next is None and brought.behind:
            found = _as_far_as_lines_are_whole(log, found, request.from_offset)
        hits = {"hits": _numbered(found.lines, request.rank), "next_offset": found.next}
        return _told(job, request.rank, log) | hits

    return LogHits.checked(await asyncio.to_thread(_on, copy, read) | _of_node(brought))


async def raw(context: Context, request: PageOfLog) -> tuple[str, AsyncIterator[bytes]]:
    """Return a name for a rank's log, and all its bytes: the copy first, then what its node still has, if it answers.

    Secrets are masked in it.

    Raises:
        InputError: there is no such job, attempt or rank, or `ugro gc` removed the logs.
    """
    job, _ = asked(context, request)
    logs, copy = await _copy_of(context, job, request.rank)

    async def pieces() -> AsyncIterator[bytes]:
        offset = 0
        while piece := await asyncio.to_thread(_piece, copy, offset):
            offset += len(piece)
            yield piece
        with context.store.optional():  # on a full disk the copy that is there has to do
            async for _ in logs.rounds(ANSWER_WITHIN):
                while piece := await asyncio.to_thread(_piece, copy, offset):
                    offset += len(piece)
                    yield piece

    masked = context.store.secrets.masker.stream(pieces())
    return f"{job.id}-attempt-{job.attempt}-rank-{request.rank}.log", masked


def _piece(copy: Path, offset: int) -> bytes:
    """Return what follows in a copy; nothing at its end, or where it is gone."""
    try:
        with copy.open("rb") as file:
            file.seek(offset)
            return file.read(PIECE)
    except OSError:
        return b""


def _check(query: str) -> None:
    if not query or any(unicodedata.category(one) in ("Cc", "Cs") and one != "\t" for one in query):
        raise InputError("a search needs a text without line ends and control characters")
    if len(query) > LONGEST_QUERY:
        raise InputError(f"a search takes at most {LONGEST_QUERY} characters")


# --- what is on the master -------------------------------------------------------------------------------------------


def _on(copy: Path, read: Callable[[IndexedLog | None], T]) -> T:
    try:
        return on_log(copy, read)
    except FileNotFoundError:  # nothing came so far
        return read(None)


def _lines(log: IndexedLog | None, request: PageOfLog) -> list[KeptLine]:
    if log is None:
        return []
    if request.direction == "backward":
        return log.tail(request.count, request.from_line)
    return log.lines(request.from_line or 1, request.count)


def _found(log: IndexedLog, copy: Path, request: SearchLog) -> FoundLines:
    if not request.regex:
        until = time.monotonic() + SEARCH_SECONDS
        return log.grep(request.query.encode(), request.from_offset, request.limit, until)
    said = matches(copy, request.query, request.from_offset, request.limit, SEARCH_SECONDS)
    if said.error:
        raise InputError(f"{printable(request.query)!r} is no regular expression: {printable(said.error)}")
    if said.next == request.from_offset and not said.places:
        raise InputError(
            f"the regular expression took longer than {SEARCH_SECONDS:g} s and was stopped",
            "repeats inside repeats, as in (a+)+, take forever: use a simpler one, or search for a text",
        )
    return FoundLines(tuple(log.around(*place) for place in said.places if place[0] < log.size), said.next)


def _as_far_as_lines_are_whole(log: IndexedLog, found: FoundLines, start: int) -> FoundLines:
    """Return what was found, but for a last line of which more is to come: the search continues with it."""
    if not log.unfinished:
        return FoundLines(found.lines, log.size)
    [last] = log.tail(1)
    return FoundLines(tuple(line for line in found.lines if line.number < last.number), max(start, last.offset))


def _told(job: Job, rank: int, log: IndexedLog | None) -> dict[str, Any]:
    return {
        "job": job.id,
        "attempt": job.attempt,
        "rank": rank,
        "ranks": _ranks(job),
        "size": log.size if log else 0,
        "lines": log.count if log else 0,
        "unfinished": bool(log and log.unfinished),
    }


def _numbered(lines: Iterable[KeptLine], rank: int) -> tuple[NumberedLine, ...]:
    return tuple(_document(line, rank) for line in lines)


def _document(line: KeptLine, rank: int) -> NumberedLine:
    found = runs(line.text)
    plain = all(not run.style for run in found)
    return NumberedLine(
        rank=rank,
        number=line.number,
        offset=line.offset,
        text="".join(run.text for run in found),
        before=line.before,
        after=line.after,
        spans=() if plain else tuple(Span(text=run.text, class_=run.style) for run in found),
    )


# --- what is on the node ---------------------------------------------------------------------------------------------


async def _copy_of(context: Context, job: Job, rank: int) -> tuple[JobLogs, Path]:
    """Return how a rank's log is brought, and its copy."""
    nodes = [one.node for one in job.ranks if one.rank == rank]
    logs = (await context.reach()).controller.logs_of(job, nodes or None)
    return logs, logs.folder / f"rank-{rank}.log"


async def _bring(context: Context, job: Job, logs: JobLogs, rank: int, most: int | None) -> _Brought:
    """Bring what is new, for a second; only its beginning where more than `most` bytes are missing."""
    key = (logs.folder, rank, job.state)
    if (known := _brought.get(key)) and known.will_do and (known.silent or not known.behind):
        return known
    behind: int | None = None
    until = time.monotonic() + BRING_SECONDS
    with context.store.optional():  # on a full disk the copies that are there have to do
        async for one in logs.rounds(ANSWER_WITHIN):
            behind = one.left if one.left or not logs.silent else behind
            if time.monotonic() > until or (most is not None and one.left > most):
                break
    while len(_brought) >= MOST_REMEMBERED:
        _brought.pop(next(iter(_brought)))
    _brought[key] = said = _Brought(time.monotonic(), behind, next(iter(logs.silent.values()), None))
    return said


async def _end_alone(context: Context, logs: JobLogs, copy: Path, request: PageOfLog) -> tuple[NumberedLine, ...]:
    """Return the last lines of a log whose copy is far behind: without numbers, since nothing counted the others."""
    with tempfile.TemporaryDirectory(prefix="ugro-logs-") as folder:
        window = None
        with context.store.optional():
            window = await logs.window(request.count, Path(folder), ANSWER_WITHIN)
        if window is None or window.silent:
            return ()
        end, start = window.folder / copy.name, window.start_of(copy)
        found = await asyncio.to_thread(_on, end, lambda log: log.tail(request.count) if log else [])
    lines = _numbered(found, request.rank)
    return tuple(replace(line, number=None, offset=start + line.offset) for line in lines)


def _ranks(job: Job) -> int:
    return job.placement.world_size if job.placement else len(job.ranks)


def _of_node(brought: _Brought) -> dict[str, Any]:
    return {
        "behind": brought.behind,
        "unreadable": error_document(brought.silent) if brought.silent else None,
    }
