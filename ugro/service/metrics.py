"""The series that a job's training reports: loss, learning rate and whatever else its logs and files say."""

from __future__ import annotations

import asyncio
import fnmatch
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from math import isfinite
from typing import TYPE_CHECKING, TextIO

from ugro.common.errors import InputError
from ugro.common.models.job import Job
from ugro.control_plane.controller.series_feed import SeriesFeeds
from ugro.control_plane.metadata_store import RESIDENT_LOCK
from ugro.control_plane.metadata_store.metrics_store.curves import Curve, Segment, Window, curve
from ugro.control_plane.metadata_store.metrics_store.training import Index, JobSeries, Known
from ugro.control_plane.metadata_store.retention import pruned_at
from ugro.control_plane.scheduler.attempts import attempts
from ugro.control_plane.training_metrics.quantities import shown_names
from ugro.service.context import Context
from ugro.service.documents import progress_document
from ugro.service.schemas.metrics import (
    Metrics,
    MetricsDocument,
    SegmentDocument,
    SeriesDocument,
    TriedDocument,
    TriedLine,
    TriedValue,
    TryPattern,
)

if TYPE_CHECKING:
    from ugro.control_plane.training_metrics.pattern import Pattern

LOSS = "loss"

TRIED_LINES, TRIED_SHOWN, LINE = 1_000_000, 20, 2000
"""Lines of a file that a pattern is tried on, those that are shown, and characters of each.
Each further LINE characters of a line count as a line."""

READ_SECONDS = 3.0
"""Seconds that the logs of a job that ended may be read for, where its series are not complete."""


async def show(context: Context, request: Metrics) -> MetricsDocument:
    """Return the series of a job.

    Raises:
        InputError: there is no such job, or none of its series has such a name.
    """
    job = context.store.jobs.find(request.job)
    more = await _catch_up(context, job)
    kept = context.store.metrics.series(job.id)
    index = await asyncio.to_thread(kept.index)
    series = await asyncio.to_thread(lambda: tuple(_series(kept, index, request, _window(job, request))))
    if not series and index.series:
        known = ", ".join(dict.fromkeys(shown_names(index.series).values()))
        raise InputError(f"{job.id} has no series called {' or '.join(request.names)}", f"its series are: {known}")
    return MetricsDocument(
        id=job.id,
        x=request.x,
        series=series,
        progress=progress_document(index.progress) if index.progress else None,
        dropped=tuple(index.dropped),
        reading=more,
        hint="" if series else await asyncio.to_thread(_why_none, context, job),
    )


async def _catch_up(context: Context, job: Job) -> bool:
    """Read what the job's logs say beyond its series; return whether there is more. Ticks do it for a job that runs."""
    with context.store.optional():
        if not job.state.on_nodes:
            return await SeriesFeeds(context.store).read(job, READ_SECONDS)
        if not context.store.is_locked(RESIDENT_LOCK):
            logs = (await context.reach()).controller.logs_of(job)
            await SeriesFeeds(context.store).bring(job, logs)
    return False


async def try_pattern(_: Context, request: TryPattern) -> TriedDocument:
    """Return what a pattern reads in a file.

    Raises:
        InputError: the pattern is refused, or the file cannot be read.
    """
    return await asyncio.to_thread(_tried, request)


def _tried(request: TryPattern) -> TriedDocument:
    from ugro.common.metric_pattern import try_out  # these here, since few functions have a use for them
    from ugro.control_plane.training_metrics.pattern import Pattern

    try:
        try_out(request.pattern)
        own = Pattern(request.pattern)
    except ValueError as error:
        raise InputError(
            f"the pattern {request.pattern!r} is refused: {error}", "what a pattern is: ugro metrics --help"
        ) from None
    try:
        with open(request.path, encoding="utf-8", errors="replace") as file:
            return _read_by(own, file)
    except OSError as error:
        raise InputError(
            f"{request.path}: {error.strerror}", "name a log, such as one of `ugro logs JOB > log`"
        ) from None


def _read_by(own: Pattern, file: TextIO) -> TriedDocument:
    found, matched, number = list[TriedLine](), 0, 0
    for number, line in enumerate(_lines(file), 1):
        if read := own.read(line):
            matched += 1
            pairs, progress = read
            if len(found) < TRIED_SHOWN:
                values = tuple(_tried_value(pair.name, pair.value, progress.step) for pair in pairs)
                found.append(TriedLine(number=number, text=line, values=values))
    return TriedDocument(lines=tuple(found), matched=matched, read=number)


def _lines(file: TextIO) -> Iterator[str]:
    """The beginning of each line. A file of one endless line, such as /dev/zero, takes no more memory than another."""
    begins = True
    for piece in islice(iter(partial(file.readline, LINE), ""), TRIED_LINES):
        if begins:
            yield piece.rstrip("\r\n")
        begins = piece.endswith("\n")


def _tried_value(name: str, value: float, step: int | None) -> TriedValue:
    finite = isfinite(value)
    return TriedValue(name=name, step=step, value=value if finite else None, bad=None if finite else str(value))


def _window(job: Job, request: Metrics) -> Window:
    starts = [one.started_at or one.launched_at for one in attempts(job)]
    origin = min((at for at in starts if at is not None), default=job.submitted_at)
    return Window(request.x, request.pixels, request.start, request.end, request.attempts, origin)


def _series(kept: JobSeries, index: Index, request: Metrics, window: Window) -> Iterator[SeriesDocument]:
    """The series that are asked for, the loss first; one that several sources have is shown by the most exact one.

    They are asked for by the name that is shown, or the one that a source has.
    """
    shown = shown_names(index.series)
    by_name: dict[str, list[Known]] = defaultdict(list)
    for key, known in index.series.items():
        by_name[shown[key]].append(known)
    for name in sorted(by_name, key=lambda name: (name != LOSS, name)):
        sources = sorted(by_name[name], key=lambda known: known.source.exactness)
        if not request.names or _is_asked({name, *(known.name for known in sources)}, request.names):
            yield _document(kept, name, sources, window, request.points)


def _is_asked(names: Iterable[str], patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _document(kept: JobSeries, name: str, sources: Sequence[Known], window: Window, points: bool) -> SeriesDocument:
    known = sources[0]
    found = _curve(kept, known, window) if points else Curve([], [], [], [], True)
    for other in sources[1:] if points else ():
        found = _continued(found, _curve(kept, other, window))
    return SeriesDocument(
        name=name,
        unit=known.unit,
        source=known.source,
        points=tuple(found.points),
        bad=tuple(found.bad),
        overwritten=tuple(found.overwritten),
        segments=tuple(map(_segment, found.segments)),
        thinned=found.thinned,
        count=known.count,
        last=known.last,
        min=known.low,
        max=known.high,
    )


def _curve(kept: JobSeries, known: Known, window: Window) -> Curve:
    with kept.opened(known) as series:
        return curve(series, known, window)


def _continued(exact: Curve, other: Curve) -> Curve:
    """A curve, continued by what a less exact source says beyond its end: files may lag behind the log."""
    if not exact.points:
        return other
    end = exact.points[-1][0]
    points, bad = [one for one in other.points if one[0] > end], [one for one in other.bad if one[0] > end]
    thinned = exact.thinned or other.thinned
    return Curve(exact.points + points, exact.bad + bad, exact.overwritten, exact.segments, thinned)


def _segment(one: Segment) -> SegmentDocument:
    return SegmentDocument(
        attempt=one.attempt, start=one.start, end=one.end, count=one.count, overwritten=one.overwritten
    )


def _why_none(context: Context, job: Job) -> str:
    if job.started_at is None:
        return "it has not started"
    if removed := pruned_at(context.store, job.id):
        return f"its logs were removed by `ugro gc` on {removed}, and no series had been read before"
    if not any(path.stat().st_size for path in context.store.jobs.files(job.id).all_logs.rglob("rank-*.log")):
        return (
            f"no rank printed anything: see `ugro explain {job.id}`"
            if job.state.ended
            else "no rank printed anything yet"
        )
    return (
        "nothing in its logs reads as a series: print lines such as `step=10 loss=0.5`, or write TensorBoard event "
        "files or a CSV file below the working directory"
    )
