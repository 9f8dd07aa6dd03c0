"""Draws curves with braille characters: two columns and four rows of dots in each. Pure, text alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

XY = tuple[float, float | None]

ROWS = 10
"""Rows of characters of a plot."""

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bit of each dot in a braille character, by row and column."""


@dataclass(frozen=True)
class Scale:
    """What a row or column of dots stands for: from `low` to `high`, in `count` dots."""

    low: float
    high: float
    count: int

    def dot(self, value: float) -> int:
        """Return the dot of a value, within the axis."""
        span = self.high / 2 - self.low / 2  # halves, since the difference of huge numbers is infinite
        part = (value / 2 - self.low / 2) / span if span > 0 else 0.5
        return max(0, min(self.count - 1, round(part * (self.count - 1))))


class Canvas:
    """Dots in characters, from the bottom left."""

    def __init__(self, width: int, height: int) -> None:
        self.columns, self.rows = 2 * width, 4 * height
        self._cells = [[0] * width for _ in range(height)]

    def set(self, column: int, row: int) -> None:
        """Set a dot."""
        down = self.rows - 1 - row
        self._cells[down // 4][column // 2] |= _DOTS[down % 4][column % 2]

    def line(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        """Set the dots between two of them, both included."""
        steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
        for step in range(steps + 1):
            part = step / steps
            self.set(round(start[0] + (end[0] - start[0]) * part), round(start[1] + (end[1] - start[1]) * part))

    def lines(self) -> list[str]:
        """Return the rows of characters; a cell without dots is a space."""
        return ["".join(chr(0x2800 + cell) if cell else " " for cell in row).rstrip() for row in self._cells]


def plot(
    points: Sequence[XY], width: int, log: bool = False, rows: int = ROWS, x_text: Callable[[float], str] | None = None
) -> list[str]:
    """Return a curve as lines of at most `width` characters, with its limits beside it; none without a point.

    What is no number is a gap. On a `log` axis so is what is not positive.
    """
    shown = [(x, _on_axis(y, log)) for x, y in points]
    values = [y for _, y in shown if y is not None]
    if not values:
        return []
    low, high = min(values), max(values)
    told = [raw for (_, raw), (_, y) in zip(points, shown, strict=True) if raw is not None and y is not None]
    labels = [short(max(told)), short(min(told))]  # as they are: the largest float is no power of its own logarithm
    margin = max(map(len, labels)) + 2
    canvas = Canvas(max(4, width - margin), rows)
    across, up = Scale(shown[0][0], shown[-1][0], canvas.columns), Scale(low, high, canvas.rows)
    for run in _runs(shown):
        dots = [(across.dot(x), up.dot(y)) for x, y in run]
        for start, end in zip(dots, dots[1:] or dots, strict=False):
            canvas.line(start, end)
    drawn = canvas.lines()
    beside = [labels[0], *[""] * (rows - 2), labels[1]]
    made = [f"{label:>{margin - 2}} ┤{line}" for label, line in zip(beside, drawn, strict=True)]
    tell = x_text or short
    left, right = tell(shown[0][0]), tell(shown[-1][0])
    gap = max(1, width - margin - len(left) - len(right))
    return [*made, " " * margin + left + " " * gap + right]


def short(value: float) -> str:
    """Return a number in at most nine characters or so: 4 digits that count."""
    if value and not 1e-3 <= abs(value) < 1e7:
        return f"{value:.3e}"
    return f"{value:.0f}" if value == int(value) else f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


def _on_axis(y: float | None, log: bool) -> float | None:
    if y is None or not math.isfinite(y):
        return None
    return y if not log else math.log10(y) if y > 0 else None


def _runs(points: Iterable[XY]) -> Iterator[list[tuple[float, float]]]:
    run: list[tuple[float, float]] = []
    for x, y in points:
        if y is not None:
            run.append((x, y))
        elif run:
            yield run
            run = []
    if run:
        yield run
