"""The chart of one series: its valid points, those that a resumed attempt computed again, and its gaps.

Pure, but for the reads of the series.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf, isfinite

from ugro.common.models.metrics import Axis
from ugro.control_plane.metadata_store.metrics_store.pyramid import STEP, TIME, Point, Series
from ugro.control_plane.metadata_store.metrics_store.training import Known, Part

PER_PIXEL = 4
"""Points that one pixel shows; a series with fewer is shown in full."""


@dataclass(frozen=True)
class Window:
    """The requested part: from `start` to `end` of the axis, on so many `pixels` (None: every point).

    `origin` is the time from which elapsed seconds count. Without `attempts` all are shown.
    """

    axis: Axis = Axis.STEP
    pixels: int | None = None
    start: float | None = None
    end: float | None = None
    attempts: Collection[int] = ()
    origin: float = 0.0

    @property
    def column(self) -> int:
        """The field of a point that is on the axis."""
        return STEP if self.axis == Axis.STEP else TIME

    def x(self, point: Point) -> float:
        """Return where a point is on the axis."""
        return point[self.column] - (self.origin if self.axis == Axis.ELAPSED else 0.0)

    def bound(self, x: float | None) -> float | None:
        """Return what a limit of the axis is in the column."""
        return x + self.origin if x is not None and self.axis == Axis.ELAPSED else x


@dataclass(frozen=True)
class Segment:
    """One run of steps: its first and last x, how many points it has, and how many of them were computed again."""

    attempt: int
    start: float
    end: float
    count: int
    overwritten: int


XY = tuple[float, float | None]


@dataclass(frozen=True)
class Curve:
    """Points in the order of x; `bad` says what the values are that no number can show. `thinned`: not every point."""

    points: list[XY]
    bad: list[tuple[float, str]]
    overwritten: list[XY]
    segments: list[Segment]
    thinned: bool


Span = tuple[int, int]
"""Points from one number to another."""


def curve(series: Series, known: Known, window: Window) -> Curve:
    """Return what a window shows of a series."""
    parts = list(_parts(known, window.attempts))
    valid, lost = list[Span](), list[Span]()
    segments = list[Segment]()
    ahead = inf  # the first step of the attempts that follow: from there on they count
    for part, end in reversed(parts):
        cut = _first_at(series, part.start, end, STEP, ahead)
        ahead = min(ahead, series.point(part.start)[STEP])
        valid.insert(0, (part.start, cut))
        lost.insert(0, (cut, end))
        first, last = window.x(series.point(part.start)), window.x(series.point(end - 1))
        segments.insert(0, Segment(part.attempt, first, last, end - part.start, end - cut))
    valid, lost = _within(series, valid, window), _within(series, lost, window)
    count = sum(end - start for start, end in (*valid, *lost))
    pixels = window.pixels if window.pixels and count > PER_PIXEL * window.pixels else None
    chosen, again = _points(series, valid, window, pixels), _points(series, lost, window, pixels)
    bad = [(window.x(point), str(point[2])) for point in chosen if not isfinite(point[2])]
    return Curve(_xy(chosen, window), bad, _xy(again, window), segments, pixels is not None)


def _parts(known: Known, attempts: Collection[int]) -> Iterator[tuple[Part, int]]:
    """The parts of these attempts in order, each with the number behind its last point."""
    ends = [*(part.start for part in known.parts[1:]), known.count]
    for part, end in sorted(zip(known.parts, ends, strict=True), key=lambda one: one[0].attempt):
        if part.start < end and (not attempts or part.attempt in attempts):
            yield part, end


def _first_at(series: Series, start: int, end: int, column: int, x: float) -> int:
    return series.first(start, end, lambda point: point[column] >= x)


def _within(series: Series, spans: Iterable[Span], window: Window) -> list[Span]:
    """Return the parts of the spans between the limits of the window."""
    low, high, column = window.bound(window.start), window.bound(window.end), window.column
    found = []
    for start, end in spans:
        if low is not None:
            start = _first_at(series, start, end, column, low)
        if high is not None:
            end = series.first(start, end, lambda point: point[column] > high)
        if start < end:
            found.append((start, end))
    return found


def _points(series: Series, spans: Sequence[Span], window: Window, pixels: int | None) -> list[Point]:
    if pixels is None or not spans:
        return [point for start, end in spans for point in series.points(start, end)]
    column, low, high = window.column, window.bound(window.start), window.bound(window.end)
    left = min(series.point(start)[column] for start, _ in spans) if low is None else low
    right = max(series.point(end - 1)[column] for _, end in spans) if high is None else high
    chosen = (series.thinned(start, end, column, (left, right), pixels) for start, end in spans)
    return [series.point(number) for part in chosen for number in part]


def _xy(points: Iterable[Point], window: Window) -> list[XY]:
    return [(window.x(point), point[2] if isfinite(point[2]) else None) for point in points]
