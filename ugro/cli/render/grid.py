"""Tables with one line a row: in a terminal they get fewer columns and shorter cells, elsewhere nothing is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len
from rich.text import Text

from ugro.cli.output import console, terminal_width

GAP = 2
"""Cells between two columns."""

LONG_NAME = 28
"""Cells beyond which a first name of several is cut."""

NARROW = 12
"""Cells that are left of what may be cut in a terminal that is too narrow even for the columns that stay."""


@dataclass(frozen=True)
class Column:
    """A column and what becomes of it where there is no room.

    It may be cut to `least` cells (None: never). Of the columns that `leaves` is not 0 for, the highest are left out
    first, as soon as the others do not even fit in their least widths.
    """

    title: str
    least: int | None = None
    leaves: int = 0


@dataclass(frozen=True)
class Names:
    """A cell with several names, of which none is broken: `gpu-master, gpu1 +2`."""

    names: Sequence[str]
    separator: str = ", "

    def __str__(self) -> str:
        return self.separator.join(self.names)

    @property
    def least(self) -> int:
        """The cells for the first name and how many more there are."""
        more = len(f" +{len(self.names) - 1}") if len(self.names) > 1 else 0
        return min(cell_len("".join(self.names[:1])) + more, LONG_NAME)

    def within(self, width: int) -> str:
        """As many of them as there is room for, the first one cut if need be, and how many more there are."""
        for shown in range(len(self.names), 0, -1):
            more = f" +{len(self.names) - shown}" if shown < len(self.names) else ""
            if cell_len(text := self.separator.join(self.names[:shown]) + more) <= width:
                return text
        first, more = Text("".join(self.names[:1])), f" +{len(self.names) - 1}" if len(self.names) > 1 else ""
        first.truncate(max(1, width - len(more)), overflow="ellipsis")
        return first.plain + more


@dataclass(frozen=True)
class Tail:
    """A cell whose end says most, as that of a path does: `…/step-200.pt`."""

    text: str

    def __str__(self) -> str:
        return self.text

    def within(self, width: int) -> str:
        """As much of its end as there is room for."""
        if cell_len(self.text) <= width:
            return self.text
        kept = self.text[-width + 1 :] if width > 1 else ""
        while cell_len(kept) >= width:
            kept = kept[1:]
        return f"…{kept}"


Cell = str | Text | Names | Tail


class Grid:
    """Rows of cells under columns."""

    def __init__(self, *columns: Column, title: str = "") -> None:
        self.columns = columns
        self.title = title
        self.rows: list[tuple[Cell, ...]] = []

    def add(self, *cells: Cell) -> None:
        """Add a row."""
        assert len(cells) == len(self.columns)
        self.rows.append(cells)

    def lines(self, width: int | None) -> list[Text]:
        """Its lines, none wider than `width` cells; None: however wide they are."""
        columns = [self._spared(number, column) for number, column in enumerate(self.columns)]
        shown = fit(columns, self._natural(), width, self._empty())
        heads = [Text(column.title, "bold") for column in self.columns]
        title = [_cut(Text(self.title, "bold"), width)] if self.title else []
        return [*title, *(_line(row, shown) for row in [heads, *self.rows])]

    def print(self, wide: bool = False) -> None:
        """Print it as the terminal is wide, or, if `wide`, with all that it has."""
        out, width = console(), None if wide else terminal_width()
        for line in self.lines(width):
            out.print(line, soft_wrap=True)

    def _spared(self, number: int, column: Column) -> Column:
        """The column, with as much room at least as its lists of names need."""
        lists = [cell.least for row in self.rows if isinstance(cell := row[number], Names)]
        return replace(column, least=max([column.least or 0, *lists])) if lists else column

    def _natural(self) -> list[int]:
        heads = [cell_len(column.title) for column in self.columns]
        cells = [[_width(cell) for cell in row] for row in self.rows]
        return [max(column) for column in zip(heads, *cells, strict=True)]

    def _empty(self) -> frozenset[int]:
        numbers = range(len(self.columns))
        return frozenset(number for number in numbers if all(str(row[number]) in ("", "-") for row in self.rows))


def fit(
    columns: Sequence[Column], natural: Sequence[int], width: int | None, empty: frozenset[int] = frozenset()
) -> dict[int, int]:
    """The columns to show, by number, and how wide each is; those that are `empty` are the first to be left out."""
    found = dict(enumerate(natural))
    if width is None:
        return found

    def least(number: int) -> int:
        limit = columns[number].least
        return natural[number] if limit is None else min(limit, natural[number])

    def over(widths: Sequence[int]) -> int:
        return sum(widths) + GAP * (len(widths) - 1) - width

    while over([least(number) for number in found]) > 0:
        leaving = [number for number in found if columns[number].leaves]
        if not leaving:
            break
        del found[max(leaving, key=lambda number: (number in empty, columns[number].leaves))]
    for limits in (
        {number: least(number) for number in found},
        {number: min(least(number), NARROW) for number in found if columns[number].least},
        dict.fromkeys(found, 1),  # rather no word whole than a line broken
    ):
        while over(list(found.values())) > 0:
            wider = [number for number, limit in limits.items() if found[number] > limit]
            if not wider:
                break
            found[max(wider, key=lambda number: found[number])] -= 1
    return found


def _width(cell: Cell) -> int:
    return cell_len(str(cell))


def _cut(cell: Cell, width: int | None) -> Text:
    if width is not None and isinstance(cell, Names | Tail):
        cell = cell.within(width)
    text = cell.copy() if isinstance(cell, Text) else Text(str(cell))
    if width is not None:
        text.truncate(width, overflow="ellipsis")
    return text


def _line(cells: Sequence[Cell], shown: dict[int, int]) -> Text:
    line, at = Text(), 0
    for number, width in shown.items():
        cell = _cut(cells[number], width)
        line.append(" " * (at - line.cell_len)).append_text(cell)
        at += width + GAP
    line.rstrip()
    return line
