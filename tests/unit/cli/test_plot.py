"""Curves of braille characters: where dots are, what is a gap, and that no line is too long."""

from __future__ import annotations

from math import inf, nan

from hypothesis import given
from hypothesis import strategies as st

from ugro.cli.render.plot import Canvas, plot, short

NUMBERS = st.one_of(st.none(), st.floats(), st.integers(-5, 5).map(float))


def test_a_canvas_has_eight_dots_a_character() -> None:
    canvas = Canvas(2, 1)
    for row in range(4):
        canvas.set(0, row)
    canvas.line((2, 0), (3, 3))
    assert canvas.lines() == ["⡇⡜"]
    assert Canvas(3, 2).lines() == ["", ""]


def test_a_falling_curve() -> None:
    drawn = plot([(float(x), 10.0 - x) for x in range(11)], 30, rows=3)
    assert [line.split("┤")[0] for line in drawn[:3]] == ["10 ", "   ", " 0 "]
    lengths = [len(line) for line in drawn[:3]]
    assert lengths == sorted(lengths) and lengths[2] == 30, "it ends at the bottom right"
    assert drawn[3].split() == ["0", "10"] and len(drawn) == 4


def test_draws_a_gap_for_values_that_are_no_numbers() -> None:
    points = [(0.0, 1.0), (1.0, 1.0), (2.0, None), (3.0, nan), (4.0, 1.0), (5.0, 1.0)]
    drawn = "".join(line.partition("┤")[2] for line in plot(points, 40, rows=2)[:2]).strip()
    assert "   " in drawn, "nothing joins the two runs"
    assert len(plot([(0.0, -1.7e308), (1.0, 1.7e308)], 40)) == 11
    assert plot([(0.0, None), (1.0, inf)], 40) == [] == plot([], 40)


def test_a_logarithmic_axis_has_no_place_for_zero() -> None:
    drawn = plot([(0.0, 100.0), (1.0, 0.0), (2.0, -3.0), (3.0, 1.0)], 30, log=True)
    assert drawn[0].startswith("100 ┤") and drawn[9].startswith("  1 ┤")
    assert plot([(0.0, 0.0)], 30, log=True) == []
    assert plot([(0.0, 1.7976931348623157e308)], 30, log=True), "10 to the power of its logarithm is no float"


@given(st.lists(st.tuples(st.integers(0, 1000).map(float), NUMBERS), max_size=40), st.integers(20, 200), st.booleans())
def test_every_curve_fits_its_width(points: list[tuple[float, float | None]], width: int, log: bool) -> None:
    for line in plot(sorted(points, key=lambda point: point[0]), width, log):
        assert len(line) <= max(width, 40)


def test_numbers_are_short() -> None:
    assert [short(value) for value in (0.0, 2.5, 1234567.0, 1e-5, 1.5e12, -0.123456, 3.0)] == [
        "0", "2.5", "1234567", "1.000e-05", "1.500e+12", "-0.1235", "3",
    ]  # fmt: skip
