"""Reads the copies of a job's logs into the series of its training, as they come, and again where series are lost.

How far they were read is kept with the series, so any process continues. A process that begins in the middle of a log
first reads the lines before, since a line may need them: the step of a bar, the header of a table.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from ugro.common.errors import UgroError
from ugro.common.models.job import Job
from ugro.common.models.metrics import Reading, RunProgress
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.job_logs import JobLogs
from ugro.control_plane.metadata_store.metrics_store.training import JobSeries
from ugro.control_plane.metadata_store.records import LONGEST_LINE, state_errors
from ugro.control_plane.scheduler.attempts import attempts
from ugro.control_plane.training_metrics.job_reader import JobReader
from ugro.nodes.remote.logs.log_streamer import PIECES, read_span

PASS = 4 * 2**20
"""Bytes that are read at a time: as much as takes about half a second."""

WARM = 16 * 2**10
"""Bytes before the place where a process continues, which it reads for what later lines need."""

UNSAVED = 2**20
"""Bytes without a value that may be read before it is noted that they were."""

SLICES = 64
SLICE_SECONDS = 0.25
"""A piece of a log that came in one read counts as having come bit by bit, in up to so many slices of so much time."""

UNSURE = 60.0
"""Seconds from the start of an attempt in which its first lines count as having come together."""

BRING_SECONDS = 5.0
"""Seconds in which a tick may fetch the logs of one job, and as many to read them. The next tick continues."""

_RANK = re.compile(r"rank-(\d{1,6})\.log")


@dataclass
class _Log:
    """The log of one rank: what was read of it, and of that, what has no line end."""

    read: int = 0
    unended: int = 0
    at: float | None = None
    decoder: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    def take(self, data: bytes) -> str:
        """Count data, and return its text."""
        self.read += len(data)
        end = max(data.rfind(b"\n"), data.rfind(b"\r"))
        self.unended = len(data) - 1 - end if end >= 0 else self.unended + len(data)
        return self.decoder.decode(data)


class SeriesFeed:
    """Reads the logs of one attempt in `folder` into the series. `began` is when the attempt did.

    Raises (from any method):
        StateError: the series cannot be written.
    """

    def __init__(
        self, kept: JobSeries, folder: Path, attempt: int, began: float | None = None, pattern: str | None = None
    ) -> None:
        self._kept, self._folder, self._attempt = kept, folder, attempt
        self._began, self._pattern = began, pattern
        self._key = f"logs/{attempt}"
        self._noted: Any = None
        self._begin({})

    def _begin(self, noted: dict[str, Any]) -> None:
        """Continue from what is noted."""
        self._reader = JobReader(self._pattern)
        files = noted.get("files", {})
        self._logs = {str(name): _Log(int(read), at=noted.get("at")) for name, read in files.items()}
        self._pieces = int(noted.get("pieces", 0))
        self._unsaved = 0
        self._looked: float | None = None
        for name, log in self._logs.items():
            before = read_span(self._folder / name, max(0, log.read - WARM), log.read)
            self._reader.warm(_rank(name), before.decode("utf-8", "replace"), log.at or self._began or 0.0)

    def read(self, now: float, most: int = PASS, seen: bool = True) -> bool:
        """Read up to so many bytes of what is new, unless another process does; return whether there is more.

        `seen`: all that the ranks had printed by `now` was brought. Otherwise what comes next may be older.
        """
        if not (self._folder / PIECES).exists():
            return False
        with self._kept.writing() as alone, state_errors(self._folder):
            return alone and self._read(now, most, seen)

    def _read(self, now: float, most: int, seen: bool) -> bool:
        noted = self._kept.read_so_far(self._key)
        if noted != self._noted:
            self._begin(noted or {})
            self._noted = noted
        found, left = list[Reading](), most
        for name, at, end, pieces in self._new_pieces():
            log = self._logs.setdefault(name, _Log())
            data = read_span(self._folder / name, log.read, min(end, log.read + left))
            since = self._since(log, at)
            until = since + (at - since) * min(1.0, len(data) / max(1, end - log.read))
            for part, moment in _slices(data, since, until):
                found += self._reader.feed(_rank(name), log.take(part), moment)
            left -= len(data)
            if log.read < end and len(data):
                log.at = until
                break  # the rest of the piece comes next time
            log.read, log.at, self._pieces = max(log.read, end), at, pieces
        self._unsaved += most - left
        if seen and left > 0:
            self._looked = now
        self._note(found)
        return left <= 0

    def _since(self, log: _Log, at: float) -> float:
        """Since when a piece of a log may have come: after the piece before, and after the last look."""
        if log.at is None:  # when a script began is not known to the second, and its pace would depend on that
            return at if self._began is None or at - self._began < UNSURE else self._began
        return min(at, max(log.at, self._looked or log.at))

    def _note(self, found: list[Reading]) -> None:
        known = self._kept.progress if self._noted else None
        progress = _filled(self._reader.progress, known)
        if not found and progress == known and self._unsaved < UNSAVED:
            return
        files = {name: log.read - log.unended for name, log in self._logs.items()}
        last = max((log.at for log in self._logs.values() if log.at is not None), default=None)
        noted = {"pieces": self._pieces, "at": last, "files": files}
        self._kept.add(self._attempt, found, {self._key: noted}, progress)
        self._noted, self._unsaved = noted, 0

    def _new_pieces(self) -> Iterator[tuple[str, float, int, int]]:
        """Yield each new piece of a rank's log: its name, when it came, its end, and the end of the list of pieces.

        Several round trips of one read give one piece. The list counts as read with the last piece of that read.
        """
        begin = self._pieces
        for at, look in groupby(self._listed(), key=lambda piece: piece[1]):
            ends = dict[str, int]()
            for name, _, end, _ in (pieces := list(look)):
                ends[name] = end
            *others, (name, end) = ends.items()
            yield from ((other, at, there, begin) for other, there in others)
            begin = pieces[-1][3]
            yield name, at, end, begin

    def _listed(self) -> Iterator[tuple[str, float, int, int]]:
        """The new pieces as they are listed."""
        with contextlib.suppress(FileNotFoundError), open(self._folder / PIECES, "rb") as file:
            file.seek(self._pieces)
            at = self._pieces
            while (line := file.readline(LONGEST_LINE)).endswith(b"\n"):
                at += len(line)
                with contextlib.suppress(ValueError, KeyError, TypeError):  # a line that a crash cut
                    piece = json.loads(line)
                    name, came, end = str(piece["file"]), float(piece["at"]), int(piece["end"])
                    if _RANK.fullmatch(name):
                        yield name, came, end, at


class SeriesFeeds:
    """The feeds of jobs that are followed. Logs are read in threads, one pass after the other."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store
        self._feeds: dict[tuple[str, int], SeriesFeed] = {}

    async def bring(self, job: Job, logs: JobLogs) -> None:
        """Bring what is new of a job's logs, as far as it comes in a moment, and read it. A full disk is no error."""
        end = self._store.clock.monotonic() + BRING_SECONDS
        with self._store.optional():
            async for _ in logs.rounds(BRING_SECONDS):
                if self._store.clock.monotonic() > end:
                    break
            await self.read(job, BRING_SECONDS, seen=not logs.silent)

    async def read(self, job: Job, within: float, seen: bool = True) -> bool:
        """Read what is here of a job's logs, for up to so many seconds; return whether there is more.

        `seen`: all its nodes were asked just before, and answered.

        Raises:
            StateError: the series cannot be written.
        """
        end = self._store.clock.monotonic() + within
        for feed in await asyncio.to_thread(self._of, job):
            while await asyncio.to_thread(feed.read, self._store.clock.now(), PASS, seen):
                if self._store.clock.monotonic() > end:
                    return True
        if job.state.ended:
            self.forget(job.id)
        return False

    def forget(self, job_id: str) -> None:
        """Let go of a job's feeds: a later read continues from what is noted."""
        self._feeds = {key: feed for key, feed in self._feeds.items() if key[0] != job_id}

    def _of(self, job: Job) -> list[SeriesFeed]:
        """The feeds of the attempts that have logs here, the first one first."""
        files = self._store.jobs.files(job.id)
        known = {one.attempt: one for one in attempts(job)}
        for attempt in sorted(known.keys() - {number for id_, number in self._feeds if id_ == job.id}):
            if (files.logs(attempt) / PIECES).exists():
                began = known[attempt].started_at or known[attempt].launched_at
                kept = self._store.metrics.series(job.id)
                feed = SeriesFeed(kept, files.logs(attempt), attempt, began, self._pattern(job))
                self._feeds[job.id, attempt] = feed
        return [self._feeds[key] for key in sorted(self._feeds) if key[0] == job.id]

    def _pattern(self, job: Job) -> str | None:
        """The job's own pattern for its lines, if it has one; a job without a readable spec is read without."""
        with contextlib.suppress(UgroError):
            return self._store.jobs.spec(job.id).metrics.pattern or None
        return None


def _slices(data: bytes, since: float, at: float) -> Iterator[tuple[bytes, float]]:
    """Return a piece as it may have come between two moments, cut at ends of lines.

    A line has come when its end has.
    """
    gap = max(0.0, at - since)
    count = max(1, min(SLICES, int(gap / SLICE_SECONDS)))
    start = 0
    for number in range(1, count + 1):
        end = len(data) if number == count else data.rfind(b"\n", 0, len(data) * number // count) + 1
        if end > start:
            yield data[start:end], at - gap * (count - number) / count
            start = end


def _filled(now: RunProgress | None, before: RunProgress | None) -> RunProgress | None:
    """Return how far a run is; values that its last lines lack are those of earlier lines."""
    if now is None or before is None:
        return now or before
    missing = ("step", "steps", "epoch", "epochs", "rate")
    return replace(now, **{name: getattr(before, name) for name in missing if getattr(now, name) is None})


def _rank(name: str) -> int:
    match = _RANK.fullmatch(name)
    return int(match[1]) if match else 0
