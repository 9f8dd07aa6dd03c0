"""Reads numbered lines of a job's logs: a page or a search at a time, rank by rank."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

from ugro.cli.app import App
from ugro.service.schemas.logs import LogPart, NumberedLine, PageOfLog, SearchLog

COUNT = 1000
"""Lines of one answer."""


@dataclass(frozen=True)
class Numbered:
    """What is asked for: lines of one `rank` or of all, from a number on, all of them or those with a text."""

    job: str
    attempt: int | None
    rank: int | None
    since: int
    text: str | None
    regex: bool


def numbered_lines(app: App, wanted: Numbered, left_out: list[LogPart]) -> Iterator[NumberedLine]:
    """Yield the lines of one rank after the other; `left_out` takes how a log stands of which something is missing."""
    rank, last = wanted.rank or 0, wanted.rank or 0
    while rank <= last:
        part = yield from _pages(app, wanted, rank) if wanted.text is None else _hits(app, wanted, rank, wanted.text)
        if part.unreadable or part.behind or not part.size:
            left_out.append(part)
        last = part.ranks - 1 if wanted.rank is None else last
        rank += 1


def _pages(app: App, wanted: Numbered, rank: int) -> Generator[NumberedLine, None, LogPart]:
    number, size = wanted.since, -1
    while True:
        asked = PageOfLog(job=wanted.job, attempt=wanted.attempt, rank=rank, from_line=number, count=COUNT)
        page = app.call(asked)
        more, shown = bool(page.behind) and page.size > size, page.shown
        if more and page.unfinished and shown and shown[-1].number == page.lines:
            shown = shown[:-1]  # its end comes with the next page
        yield from shown
        number, size = number + len(shown), page.size
        if number > page.lines and not more:
            return page


def _hits(app: App, wanted: Numbered, rank: int, text: str) -> Generator[NumberedLine, None, LogPart]:
    offset, size = 0, -1
    while True:
        asked = SearchLog(
            job=wanted.job,
            attempt=wanted.attempt,
            rank=rank,
            query=text,
            regex=wanted.regex,
            from_offset=offset,
            limit=COUNT,
        )
        found = app.call(asked)
        yield from (hit for hit in found.hits if (hit.number or 0) >= wanted.since)
        if found.next_offset is None or (found.next_offset == offset and found.size == size):
            return found
        offset, size = found.next_offset, found.size
