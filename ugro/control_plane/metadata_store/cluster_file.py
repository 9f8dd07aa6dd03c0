"""`cluster.json`: TinyDB over a storage that reads once and writes once a transaction, atomically, under a lock."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock
from tinydb import TinyDB
from tinydb.storages import Storage

from ugro.common.errors import RecordNewer, RecordUnreadable
from ugro.common.files import write_atomic
from ugro.common.text import clock
from ugro.control_plane.metadata_store.records import (
    broken,
    copy_before,
    lost,
    put_aside,
    refuse_newer,
    replace_record,
    state_errors,
    unparsed,
)
from ugro.control_plane.metadata_store.rows import Aside, DamagedRow, Tables, sift

CLUSTER_VERSION = 1
"""The schema of the tables, which `meta` names. One without a number is of this version, too."""


def read_tables(path: Path, sound: Tables | None = None) -> tuple[Tables | None, list[DamagedRow]]:
    """Return the file's tables, and the damaged rows that are left out; None: there is no file, and never was.

    `sound` are its tables as they were last read or written.

    Raises:
        RecordUnreadable: it is incomplete, no object of tables, or gone, and only its copy is there.
        RecordNewer: it is of a newer UGRO.
    """
    try:
        tables = json.loads(path.read_bytes())
        _refuse_newer(path, tables)
        if not isinstance(tables, dict):
            raise ValueError("an object of tables is expected")
        return sift(tables, sound or {})
    except FileNotFoundError:
        if copy_before(path).exists():
            raise lost(path) from None
        return None, []
    except (ValueError, RecursionError) as error:
        raise broken(path, unparsed(path, error)) from None


def _refuse_newer(path: Path, tables: Any) -> None:
    refuse_newer(path, tables, CLUSTER_VERSION)
    with contextlib.suppress(AttributeError, KeyError, TypeError):  # the form is judged next
        refuse_newer(path, tables["meta"]["1"], CLUSTER_VERSION)


class TransactionStorage(Storage):
    """The file as it was when the transaction began; `commit` replaces it. Without a commit nothing happened."""

    def __init__(self, path: str, sound: Tables | None = None) -> None:
        self._path = Path(path)
        self._tables, self.damaged = read_tables(self._path, sound)
        self._dirty = False

    def read(self) -> Tables | None:
        return self._tables

    def write(self, data: Tables) -> None:
        self._tables, self._dirty = data, True

    def commit(self) -> bool:
        """Replace the file if anything changed; damaged rows are put aside before. Returns whether any were.

        Raises:
            OSError: the disk is full or not writable; the old content stays.
        """
        if not self._dirty:
            return False
        Aside(self._path).add(self.damaged)
        replace_record(self._path, json.dumps(self._tables))
        return bool(self.damaged)


def storage_of(db: TinyDB) -> TransactionStorage:
    """Return the storage of a transaction."""
    assert isinstance(db.storage, TransactionStorage)
    return db.storage


def is_damaged(db: TinyDB, table: str) -> bool:
    """Whether rows of a table are left out."""
    return any(row.table == table for row in storage_of(db).damaged)


def has_index(db: TinyDB) -> bool:
    """Whether the file was made together with the index of the live jobs, and so stands for all there is."""
    return db.table("meta").contains(doc_id=1)


def is_certain(db: TinyDB, table: str) -> bool:
    """Whether a table says all there is."""
    return has_index(db) and not is_damaged(db, table)


class ClusterFile:
    """Gives out transactions over `cluster.json`, one at a time among all processes."""

    def __init__(self, home: Path) -> None:
        self.path = home / "cluster.json"
        self.aside = Aside(self.path)
        self._lock = home / "cluster.lock"
        self._read: tuple[tuple[int, int, int] | None, TinyDB] | None = None
        self._sound: Tables | None = None

    @contextlib.contextmanager
    def change(self, on_aside: Callable[[DamagedRow], None]) -> Iterator[TinyDB]:
        """A transaction that is written when the block ends well. Each row that this puts aside is reported."""
        with state_errors(self.path), FileLock(self._lock), self._opened() as db:
            yield db
            self._sound = storage_of(db).read()
            if storage_of(db).commit():
                for row in storage_of(db).damaged:
                    on_aside(row)

    @contextlib.contextmanager
    def look(self) -> Iterator[TinyDB]:
        """The tables as they are, parsed again only when the file changed; nothing is written, not even a lock file."""
        with state_errors(self.path):
            found = self.path.stat() if self.path.exists() else None
            seen = found and (found.st_mtime_ns, found.st_ino, found.st_size)
            read = self._read  # another thread may look, too
            if read is None or read[0] != seen:
                read = self._read = (seen, self._opened())
            yield read[1]

    def _opened(self) -> TinyDB:
        db = TinyDB(str(self.path), storage=TransactionStorage, sound=self._sound)
        self._sound = storage_of(db).read()
        return db

    def take_back(self, db: TinyDB) -> list[str]:
        """Put damaged rows aside, and take back those that were corrected since. Returns which, in words."""
        self.aside.add(storage_of(db).damaged)
        return self.aside.take_back(db)

    def mend(self) -> list[str]:
        """Take the copy of before its last change where the file cannot be used; a broken one is put aside.

        Returns what was done, in words; nothing where the file is as it should be.
        """
        with state_errors(self.path), FileLock(self._lock):
            try:
                read_tables(self.path)
            except RecordNewer:
                raise
            except RecordUnreadable as error:
                return [error.message, *self._put_aside(), self._take_copy()]
        return []

    def _put_aside(self) -> list[str]:
        if not self.path.exists():
            return []
        return [f"the broken file is kept: {put_aside(self.path)}"]

    def _take_copy(self) -> str:
        spare = copy_before(self.path)
        with contextlib.suppress(RecordUnreadable):
            if read_tables(spare)[0] is not None:
                write_atomic(self.path, spare.read_text(encoding="utf-8"))
                return f"nodes, speeds and what ended jobs left are those of {clock(spare.stat().st_mtime)}: {spare}"
        spare.unlink(missing_ok=True)
        return (
            "without a copy, speeds (`ugro measure` finds them) and what jobs left on unreachable nodes are lost; "
            "observations of nodes come back with the next scheduling pass"
        )
