"""The schemas of the tables of `cluster.json`. A row that does not match is put aside, and the others are used.

A damaged row counts as not there. Before `cluster.json` is next written without it, it is kept in `cluster.json.aside`,
one JSON line a row, from which `ugro state rebuild` takes back what is valid by then. A row with unknown keys is one of
a newer UGRO, and no damage.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, model_validator
from tinydb import TinyDB

from ugro.common.config import NodeConfig
from ugro.common.errors import StateError
from ugro.common.fields import Name
from ugro.common.files import append_line, write_atomic
from ugro.common.job_spec import JOB_ID
from ugro.common.mistakes import UNKNOWN_KEY, first_mistake, shown
from ugro.common.models.drain import Drain
from ugro.common.models.node import NodeView, Silence
from ugro.common.models.owed import Owed
from ugro.common.models.proposal import Proposal
from ugro.common.models.record import Record
from ugro.common.text import count, printable, some
from ugro.control_plane.metadata_store.records import known_part, unknown_keys

Tables = dict[str, Any]

LARGEST_NUMBER = 2**63
"""No number in a record comes near it, and far larger ones cannot be a float."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_ROW_ID = re.compile(r"[1-9][0-9]{0,17}")


def _job_id(value: str) -> str:
    if not JOB_ID.fullmatch(value):
        raise ValueError("the id of a job is expected")
    return value


JobId = Annotated[str, AfterValidator(_job_id)]


class NodeRow(Record):
    """One node's last view, how it was reached, the GPUs it ever showed, and since when it is unreachable."""

    name: Name
    config: NodeConfig | None = None
    view: NodeView | None = None
    gpus: dict[str, str] = Field(default_factory=dict)
    silence: Silence | None = None

    @model_validator(mode="after")
    def _of_one_node(self) -> NodeRow:
        if any(name != self.name for name in (self.view and self.view.node, self.config and self.config.name) if name):
            raise ValueError(f"what is known of {self.name} alone is expected")
        return self


class JobRow(Record):
    """A live job."""

    id: JobId


class UndecidedRow(Record):
    """A job whose failure is to be decided about."""

    job: JobId


class OutputsRow(Record):
    """A job whose outputs are still to come to the master."""

    job: JobId


class ProposalRow(Proposal):
    job: JobId


class OwedRow(Owed):
    job: JobId


class DrainRow(Drain):
    node: Name


class LeftoverRow(Record):
    """The nodes that have not confirmed the end of an attempt."""

    job: JobId
    attempt: Annotated[int, Field(ge=1)] = 1
    nodes: tuple[Name, ...]


class SpeedRow(Record):
    """Measured speed of a GPU, in steps a second."""

    uuid: str
    name: str
    speed: Annotated[float, Field(gt=0)]


class Seal(Record):
    """The length of the archive at some moment, and the CRC-32 of what it said then."""

    bytes: Annotated[int, Field(ge=0)]
    crc32: int


class MetaRow(Record):
    """About the file itself."""

    indexed_at: float
    schema_version: int = 1
    archive: Seal | None = None


ROWS: Mapping[str, type[Record]] = {
    "nodes": NodeRow,
    "jobs": JobRow,
    "drains": DrainRow,
    "undecided": UndecidedRow,
    "proposals": ProposalRow,
    "removals": OwedRow,
    "leftovers": LeftoverRow,
    "outputs": OutputsRow,
    "speeds": SpeedRow,
    "meta": MetaRow,
}

_KEYS: Mapping[str, tuple[str, ...]] = {
    "nodes": ("name",),
    "drains": ("node",),
    "undecided": ("job",),
    "proposals": ("job",),
    "removals": ("job", "uid", "config"),
    "leftovers": ("job", "attempt"),
    "outputs": ("job",),
    "speeds": ("uuid",),
}
"""The key of each table. The other tables are rebuilt from the jobs' folders."""

_PARTS = ("config", "view", "gpus", "silence")
"""Parts of a node's row that are valid without the others."""


@dataclass(frozen=True)
class DamagedRow:
    """A damaged row as it was, and why it is damaged. Without an `id` it is an entire table."""

    table: str
    id: str | None
    row: Any
    why: str

    def __str__(self) -> str:
        place = (
            f"row {shown(self.id)} of the table {self.table!r}" if self.id is not None else f"the table {self.table!r}"
        )
        return f"{place} is damaged: {printable(self.why)}"

    @property
    def line(self) -> str:
        """As it is kept."""
        return json.dumps({"table": self.table, "id": self.id, "row": self.row, "why": self.why})


def sift(tables: Tables, sound: Tables) -> tuple[Tables, list[DamagedRow]]:
    """The tables without their damaged rows, and those. What tables only a newer UGRO has stays as it is.

    `sound` are tables that were sifted before: a row that is the same as there is not judged again.
    """
    damaged: list[DamagedRow] = []
    sifted = {name: _sifted(name, tables[name], sound.get(name, {}), damaged) for name in ROWS if name in tables}
    return {**tables, **sifted}, damaged


def _sifted(name: str, table: Any, sound: Tables, damaged: list[DamagedRow]) -> Any:
    if not isinstance(table, dict):
        damaged.append(DamagedRow(name, None, table, "numbered rows are expected"))
        return {}
    rows = {}
    for key, row in table.items():
        fit, why = (row, "") if key in sound and sound[key] == row else fitting(name, key, row)
        if why:
            damaged.append(DamagedRow(name, key, row, why))
        if fit is not None:
            rows[key] = fit
    return rows


def fitting(table: str, key: str, row: Any) -> tuple[dict[str, Any] | None, str]:
    """As much of a row as is valid, and what is wrong with the rest."""
    if not _ROW_ID.fullmatch(key):
        return None, "a number is expected as the row's name"
    if not _is_plausible(row):
        return None, "it has a number that nothing is measured in, or text that is no Unicode"
    try:
        found = known_part(ROWS[table], row)
    except ValidationError as error:
        why = str(first_mistake(error))
        bad = {found["loc"][:1] for found in error.errors(include_url=False) if found["type"] not in UNKNOWN_KEY}
        parts = {str(first[0]) for first in bad if first}
        if table != "nodes" or not isinstance(row, dict) or len(bad) != len(parts) or not parts <= {*_PARTS}:
            return None, why
        return fitting(table, key, {column: value for column, value in row.items() if column not in parts})[0], why
    if isinstance(found, JobRow) and int(found.id.removeprefix("job-")) != int(key):
        return None, f"id: found {found.id!r}: the job of that number is expected"
    return row, ""


def _is_plausible(value: Any) -> bool:
    match value:
        case dict():
            return all(map(_is_plausible, [*value, *value.values()]))
        case list():
            return all(map(_is_plausible, value))
        case str():
            return not _SURROGATE.search(value)
        case int() | float():
            return abs(value) < LARGEST_NUMBER  # which NaN is not
        case _:
            return True


def newer_keys(tables: Tables) -> dict[str, list[tuple[str | int, ...]]]:
    """The keys, by table, that only a newer UGRO knows."""
    found: dict[str, dict[tuple[str | int, ...], None]] = {}
    for name, model in ROWS.items():
        for row in tables.get(name, {}).values():
            try:
                model.model_validate(row)
            except ValidationError as error:
                found.setdefault(name, {}).update(dict.fromkeys(unknown_keys(error)))
    return {name: list(keys) for name, keys in found.items() if keys}


class Aside:
    """`cluster.json.aside`: the rows that were put aside, for the user to correct."""

    def __init__(self, cluster: Path) -> None:
        self._cluster = cluster
        self.path = cluster.with_name(f"{cluster.name}.aside")

    def add(self, damaged: Iterable[DamagedRow]) -> None:
        """Keep rows, once each. Raises OSError."""
        there = self._lines()
        for row in damaged:
            if row.line not in there:
                append_line(self.path, row.line)

    def problems(self, damaged: Iterable[DamagedRow]) -> list[StateError]:
        """Return the damage in the file just now, and the rows that lie aside. Raises OSError."""
        found = [
            StateError(
                f"{self._cluster}: {one}; it counts as not there",
                f"correct it by hand, or move it to {self.path.name} and continue without it: ugro state rebuild",
            )
            for one in damaged
        ]
        if lines := self._lines():
            tables = [str(entry.get("table")) if (entry := _entry(line)) else "a line that is no row" for line in lines]
            words = some([printable(table) for table in dict.fromkeys(tables)])
            hint = f"correct each `row` there and restore it: ugro state rebuild; or discard it: rm {self.path}"
            found.append(StateError(f"{self.path} has {count(len(lines), 'damaged row')} ({words})", hint))
        return found

    def take_back(self, db: TinyDB) -> list[str]:
        """Insert what is valid by now of the rows that lie aside, and say which. Raises OSError.

        A row is not needed any more where there is a later one of the same thing, or its table is rebuilt.
        """
        entries = filter(None, map(_entry, self._lines()))
        found = [(table, row) for entry in entries for table, row in _rows(entry) if table in _KEYS]
        back = [(table, row) for table, row in found if _put(db, table, row)]
        return [f"taken back into the table {table!r}: {_name(table, row)}" for table, row in back]

    def keep_damaged(self) -> None:
        """Let go of what was taken back, or is not needed any more. Raises OSError."""
        if not (lines := self._lines()):
            return
        left: list[str] = []
        for line in lines:
            if (entry := _entry(line)) is None:
                left.append(line)
                continue
            rows = [(table, row, fitting(table, "1", row)[1]) for table, row in _rows(entry) if table in _KEYS]
            left += [DamagedRow(table, _id_of(entry), row, why).line for table, row, why in rows if why]
        if left:
            write_atomic(self.path, "".join(f"{line}\n" for line in left))
        else:
            self.path.unlink()

    def _lines(self) -> list[str]:
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8", errors="surrogateescape")
        return [line for line in text.split("\n") if line.strip()]


def _entry(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    known = isinstance(entry, dict) and {"table", "id", "row"} <= entry.keys() and entry["table"] in [*ROWS]
    return entry if known else None


def _id_of(entry: dict[str, Any]) -> str | None:
    return None if entry["id"] is None else str(entry["id"])


def _rows(entry: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the rows of a line; those of an entire table may stand in a list, too."""
    table, rows = entry["table"], entry["row"]
    if _id_of(entry) is None and isinstance(rows, (dict, list)):
        return [(table, row) for row in (rows.values() if isinstance(rows, dict) else rows)]
    return [(table, rows)]


def _put(db: TinyDB, table: str, row: Any) -> bool:
    if fitting(table, "1", row)[1]:
        return False
    rows = db.table(table)
    same = next((other for other in rows.all() if _name(table, other) == _name(table, row)), None)
    if same is None:
        rows.insert(row)
        return True
    missing = {
        column: row[column] for column in _PARTS if table == "nodes" and row.get(column) and not same.get(column)
    }
    rows.update(missing, doc_ids=[same.doc_id])
    return bool(missing)


def _name(table: str, row: Mapping[str, Any]) -> str:
    """Return the subject of a row, in words."""
    values = (row.get(column, 1) for column in _KEYS[table])
    return printable(" ".join(str(value.get("name") if isinstance(value, dict) else value) for value in values))
