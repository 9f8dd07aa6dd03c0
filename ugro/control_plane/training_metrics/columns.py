"""Tables whose values have their names in a header above, as Ultralytics prints them. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ugro.control_plane.training_metrics.pairs import UNIT, Pair, number_in
from ugro.control_plane.training_metrics.steps import Progress

_NO_SERIES = {"Epoch", "GPU_mem", "gpu_mem", "Instances", "Images", "Size", "Class", "targets", "labels", "img_size"}
_EPOCH = re.compile(r"(\d{1,6})/(\d{1,6})")
_COUNT = re.compile(r"(\d{1,9})/(\d{1,9})(?=\s)")
_BOX = re.compile(r"\b(?:Box|Mask|Pose)\(")
_SIZED = re.compile(rf"(\d{{1,9}}(?:\.\d{{1,9}})?)({UNIT}|G)$")


@dataclass(frozen=True)
class Table:
    """The names of a table's columns; `validation`: its rows are results on the validation data."""

    names: tuple[str, ...]
    validation: bool


def header_of(line: str) -> Table | None:
    """Return the table that a line begins; None: it is no header."""
    if "mAP50" in line:
        names = _BOX.sub(" ", line.partition("):")[0]).replace(")", " ").split()
        return Table(tuple(names), validation=True)
    if "GPU_mem" in line or "gpu_mem" in line:
        return Table(tuple(line.split()), validation=False)
    return None


def row_of(table: Table, line: str) -> tuple[list[Pair], Progress | None] | None:
    """Return the values of a row, and how far it says the training is; None: the line is no row of this table."""
    words, _, bar = line.partition(":")
    cells = words.split()
    if len(cells) != len(table.names):
        return None
    if table.validation:
        return (_values(table, cells, "val/"), None) if cells[0] == "all" else None
    match = _EPOCH.fullmatch(cells[0])
    if not match:
        return None
    epoch, epochs = int(match[1]), int(match[2])
    count = _COUNT.search(bar)
    step, total = (int(count[1]), int(count[2])) if count else (None, None)
    progress = Progress(step, total, epoch, bar=True, epochs=epochs, in_epoch=True)
    return _values(table, cells, ""), progress


def _values(table: Table, cells: list[str], prefix: str) -> list[Pair]:
    found = []
    for name, cell in zip(table.names, cells, strict=True):
        if name in _NO_SERIES and name.lower() != "gpu_mem":
            continue
        sized = _SIZED.match(cell)
        value = number_in(sized[1] if sized else cell)
        if value is not None:
            unit = sized[2].replace("G", "GB") if sized and sized[2] == "G" else sized[2] if sized else ""
            found.append(Pair(prefix + name, value, unit))
    return found
