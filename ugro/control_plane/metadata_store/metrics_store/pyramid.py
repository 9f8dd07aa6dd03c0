"""One series as bytes: its points and, between them, buckets of 16, 256 and 4,096 points, so that a chart reads few.

Everything has a fixed size, and a bucket follows the last of its points: so where a point or a bucket lies is
arithmetic, a series grows by appending, and the first `size(count)` bytes are the series as it was with `count` points.
A bucket keeps which of its points are lowest and highest. A query takes whole buckets inside a pixel and single points
at its edges: it gives each pixel's first, lowest, highest and last point (M4), so the line drawn has the same pixels as
that of all points, whatever the width.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import inf, isfinite
from operator import itemgetter
from typing import Any, cast

FAN = 16
"""Points, or buckets of the level below, in a bucket."""

LEVELS = 3
SPANS = tuple(FAN**level for level in range(1, LEVELS + 1))
"""Points in a bucket of each level: 16, 256, 4,096."""

Point = tuple[float, float, float]
"""x (the step, counted on where the counter began again), time in seconds since the epoch, value."""

Bucket = tuple[float, float, int, int, int]
"""Lowest and highest finite value, the numbers of these points, and how many points are not finite."""

_POINT, _BUCKET = struct.Struct("<ddd"), struct.Struct("<ddqqq")
_LOW, _HIGH = itemgetter(0), itemgetter(1)
_NOTHING: Bucket = (inf, -inf, -1, -1, 0)

STEP, TIME = 0, 1
"""The axes, by their place in a point."""


def size(count: int) -> int:
    """Return the bytes of a series with so many points."""
    return 24 * count + 40 * ((count >> 4) + (count >> 8) + (count >> 12))


def _bucket_at(level: int, number: int) -> int:
    """The offset of a bucket: behind its points and the lower buckets that end with it, before the higher ones."""
    points = (number + 1) * SPANS[level]
    return size(points) - 40 * (1 + (level < 1 and points % 256 == 0) + (level < 2 and points % 4096 == 0))


def _level(start: int, end: int) -> int:
    """The highest level that has a bucket from `start` on, which ends by `end`; one of the lowest does."""
    if start % 256 or start + 256 > end:
        return 0
    return 1 if start % 4096 or start + 4096 > end else 2


def _bucket(values: Sequence[float], start: int) -> Bucket:
    finite = values if all(map(isfinite, values)) else [value for value in values if isfinite(value)]
    if not finite:
        return (*_NOTHING[:4], len(values))
    low, high = min(finite), max(finite)
    return low, high, start + values.index(low), start + values.index(high), len(values) - len(finite)


def _merged(buckets: Iterable[Bucket]) -> Bucket:
    """One bucket of several. Of equal values the first counts."""
    buckets = list(buckets) or [_NOTHING]
    low, high = min(buckets, key=_LOW), max(buckets, key=_HIGH)
    return low[0], high[1], low[2], high[3], sum(one[4] for one in buckets)


@dataclass
class Growing:
    """The end of a series: how many points it has, and those of its buckets that are not full."""

    count: int = 0
    _values: list[float] = field(default_factory=list)
    _full: tuple[list[Bucket], ...] = field(default_factory=lambda: tuple([] for _ in SPANS[1:]))
    """The buckets of each level but the last that wait for the one above to be full."""

    @classmethod
    def of(cls, series: Series) -> Growing:
        """Return the end of a series that was written before."""
        made, count = cls(series.count), series.count
        made._values = [point[2] for point in series.points(count - count % FAN, count)]
        for level, waiting in enumerate(made._full):
            full = count // SPANS[level]
            waiting += [series.bucket(level, number) for number in range(full - full % FAN, full)]
        return made

    def add(self, points: Sequence[Point]) -> bytes:
        """Add points; return the bytes that follow those of before."""
        out, values, start = [], self._values, 0
        while start < len(points):
            part = points[start : start + FAN - len(values)]
            out.append(struct.pack(f"<{3 * len(part)}d", *chain.from_iterable(part)))
            values += [point[2] for point in part]
            start, self.count = start + len(part), self.count + len(part)
            if len(values) == FAN:
                out.append(self._close(_bucket(values, self.count - FAN)))
                values.clear()
        return b"".join(out)

    def _close(self, bucket: Bucket) -> bytes:
        out = _BUCKET.pack(*bucket)
        for waiting in self._full:
            waiting.append(bucket)
            if len(waiting) < FAN:
                break
            bucket = _merged(waiting)
            waiting.clear()
            out += _BUCKET.pack(*bucket)
        return out


@dataclass(frozen=True)
class Series:
    """A series of `count` points in `data`, which has at least `size(count)` bytes."""

    data: bytes | memoryview
    count: int

    def point(self, number: int) -> Point:
        """Return one point."""
        found: Any = _POINT.unpack_from(self.data, size(number))
        return cast(Point, found)

    def points(self, start: int, end: int) -> Iterator[Point]:
        """Yield the points from one number to another."""
        while start < end:
            until = min(end, start - start % FAN + FAN)
            offset = size(start)
            yield from _POINT.iter_unpack(self.data[offset : offset + _POINT.size * (until - start)])
            start = until

    def bucket(self, level: int, number: int) -> Bucket:
        """Return one bucket."""
        found: Any = _BUCKET.unpack_from(self.data, _bucket_at(level, number))
        return cast(Bucket, found)

    def first(self, start: int, end: int, holds: Callable[[Point], bool]) -> int:
        """Return the number of the first point from which on something holds; it does for all that follow, if any."""
        while start < end:
            middle = (start + end) // 2
            if holds(self.point(middle)):
                end = middle
            else:
                start = middle + 1
        return start

    def extremes(self, start: int, end: int) -> Bucket:
        """Return the lowest and highest of the points from one number to another, from as few reads as it takes."""
        return _merged(self._cover(start, end))

    def _cover(self, start: int, end: int) -> Iterator[Bucket]:
        while start < end:
            if start % FAN or start + FAN > end:
                until = min(end, start - start % FAN + FAN)
                yield _bucket([point[2] for point in self.points(start, until)], start)
                start = until
                continue
            level = _level(start, end)
            yield self.bucket(level, start // SPANS[level])
            start += SPANS[level]

    def first_bad(self, start: int, end: int) -> int | None:
        """Return the number of the first point that is not finite."""
        while start < end:
            level = -1 if start % FAN or start + FAN > end else _level(start, end)
            if level >= 0 and self.bucket(level, start // SPANS[level])[4] == 0:
                start += SPANS[level]
            elif isfinite(self.point(start)[2]):
                start += 1
            else:
                return start
        return None

    def thinned(self, start: int, end: int, axis: int, bounds: tuple[float, float], pixels: int) -> Iterator[int]:
        """Yield the numbers of the points to draw: of each pixel the first, lowest, highest and last one (M4).

        A pixel with points that are not finite has the first of these, too. Along `axis` the points from `start` to
        `end` must not go back; `bounds` is what the pixels show of it.
        """
        left, width = bounds[0], max(bounds[1] - bounds[0], 1e-300)

        def pixel(point: Point) -> int:
            return min(pixels - 1, int((point[axis] - left) / width * pixels))

        while start < end:
            shown = pixel(self.point(start))
            until = self._next_pixel(start, end, shown, pixel)
            _, _, low, high, bad = self.extremes(start, until)
            chosen = {start, until - 1, low, high} - {-1}
            if bad and (first := self.first_bad(start, until)) is not None:
                chosen.add(first)
            yield from sorted(chosen)
            start = until

    def _next_pixel(self, start: int, end: int, shown: int, pixel: Callable[[Point], int]) -> int:
        """The first point of a later pixel. Searched near the start first: there are many pixels."""
        reach = FAN
        while start + reach < end and pixel(self.point(start + reach)) <= shown:
            start, reach = start + reach, reach * 2
        return self.first(start, min(end, start + reach + 1), lambda point: pixel(point) > shown)
