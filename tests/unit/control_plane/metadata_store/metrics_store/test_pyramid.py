"""Series with buckets between their points: where things lie, and that a thinned curve shows what all points show."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import inf, isfinite, nan

from hypothesis import example, given
from hypothesis import strategies as st

from ugro.control_plane.metadata_store.metrics_store.pyramid import STEP, TIME, Growing, Point, Series, size

VALUES = st.one_of(st.floats(-10, 10), st.sampled_from((nan, inf, -inf, 1e300, -1e300, 0.0)))


def made(points: Sequence[Point]) -> Series:
    return Series(Growing().add(points), len(points))


def spread(values: Sequence[float], steps: Sequence[int] = ()) -> list[Point]:
    """Points whose step grows by these steps (by 1 where there are none), two seconds apart."""
    x, found = 0.0, []
    for number, value in enumerate(values):
        x += steps[number % len(steps)] if steps else 1
        found.append((x, 1000.0 + 2 * number, value))
    return found


def drawn(points: Sequence[Point], axis: int, bounds: tuple[float, float], pixels: int) -> dict[int, tuple[float, ...]]:
    """What each pixel shows: its first, lowest, highest and last finite value."""
    columns = defaultdict(list)
    for point in points:
        part = (point[axis] - bounds[0]) / max(bounds[1] - bounds[0], 1e-300)
        if isfinite(point[2]):
            columns[min(pixels - 1, int(part * pixels))].append(point[2])
    return {column: (values[0], min(values), max(values), values[-1]) for column, values in columns.items()}


@given(st.lists(VALUES, min_size=1, max_size=700), st.lists(st.integers(0, 50), max_size=5), st.integers(1, 40))
@example([0.0] * 5000 + [9.0] + [0.0] * 5000, [1], 7)
def test_a_thinned_curve_has_the_pixels_of_all_points(values: list[float], steps: list[int], pixels: int) -> None:
    points = spread(values, steps)
    series = made(points)
    for axis in (STEP, TIME):
        bounds = points[0][axis], points[-1][axis]
        numbers = list(series.thinned(0, len(points), axis, bounds, pixels))
        assert numbers == sorted(set(numbers)) and len(numbers) <= 5 * pixels
        chosen = [points[number] for number in numbers]
        found, expected = drawn(chosen, axis, bounds, pixels), drawn(points, axis, bounds, pixels)
        assert {column: one[1:3] for column, one in found.items()} == {
            column: one[1:3] for column, one in expected.items()
        }
        if all(map(isfinite, values)):
            assert found == expected
        elif any(not isfinite(value) for value in values):
            assert any(not isfinite(point[2]) for point in chosen), "a gap stays a gap"


@given(st.lists(VALUES, max_size=600), st.data())
def test_extremes_are_those_of_the_points(values: list[float], data: st.DataObject) -> None:
    series = made(spread(values))
    start = data.draw(st.integers(0, len(values)))
    end = data.draw(st.integers(start, len(values)))
    low, high, lowest, highest, bad = series.extremes(start, end)
    finite = [value for value in values[start:end] if isfinite(value)]
    assert bad == end - start - len(finite)
    if finite:
        assert (low, high) == (min(finite), max(finite)) == (values[lowest], values[highest])
        assert start <= lowest < end and start <= highest < end
    found = next((number for number in range(start, end) if not isfinite(values[number])), None)
    assert series.first_bad(start, end) == found


@given(st.lists(st.lists(st.floats(-1, 1), max_size=300), max_size=6))
def test_a_series_grows_by_appending(batches: list[list[float]]) -> None:
    points = spread([value for batch in batches for value in batch])
    whole, data, count = Growing().add(points), b"", 0
    for batch in batches:
        growing = Growing.of(Series(data, count))
        data += growing.add(points[count : count + len(batch)])
        count += len(batch)
        assert len(data) == size(count) and growing.count == count
    assert data == whole
    assert list(Series(data, count).points(0, count)) == points
    assert [Series(data, count).point(number) for number in range(count)] == points


def test_buckets_of_every_level_lie_where_they_are_looked_for() -> None:
    values = [float(number % 1000) for number in range(9000)]
    series = made(spread(values))
    for level, span in enumerate((16, 256, 4096)):
        for number in range(9000 // span):
            part = values[number * span : (number + 1) * span]
            low, high, lowest, highest, bad = series.bucket(level, number)
            assert (low, high, values[lowest], values[highest], bad) == (min(part), max(part), low, high, 0)
