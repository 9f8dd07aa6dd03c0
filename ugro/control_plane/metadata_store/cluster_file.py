"""`cluster.json`: TinyDB over a storage that reads once and writes once a transaction, atomically, under a lock."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock
from tinydb import TinyDB
from tinydb.storages import Storage

from ugro.control_plane.metadata_store.records import broken, replace_record, state_errors

Tables = dict[str, dict[str, Any]]


class TransactionStorage(Storage):
    """The file as it was when the transaction began; `commit` replaces it. Without a commit nothing happened."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._tables = self._load()
        self._dirty = False

    def _load(self) -> Tables | None:
        try:
            tables = json.loads(self._path.read_bytes())
            if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
                raise ValueError("an object of tables is expected")
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as error:
            raise broken(self._path, str(error)) from None
        return tables

    def read(self) -> Tables | None:
        return self._tables

    def write(self, data: Tables) -> None:
        self._tables, self._dirty = data, True

    def commit(self) -> None:
        """Replace the file if anything changed.

        Raises:
            OSError: the disk is full or not writable; the old content stays.
        """
        if self._dirty:
            replace_record(self._path, json.dumps(self._tables))


class ClusterFile:
    """Gives out transactions over `cluster.json`, one at a time among all processes."""

    def __init__(self, home: Path) -> None:
        self.path = home / "cluster.json"
        self._lock = home / "cluster.lock"
        self._read: tuple[tuple[int, int, int] | None, TinyDB] | None = None

    @contextlib.contextmanager
    def change(self) -> Iterator[TinyDB]:
        """A transaction that is written when the block ends well."""
        with state_errors(self.path), FileLock(self._lock), TinyDB(str(self.path), storage=TransactionStorage) as db:
            yield db
            storage = db.storage
            assert isinstance(storage, TransactionStorage)
            storage.commit()

    @contextlib.contextmanager
    def look(self) -> Iterator[TinyDB]:
        """The tables as they are, parsed again only when the file changed; nothing is written, not even a lock file."""
        with state_errors(self.path):
            found = self.path.stat() if self.path.exists() else None
            seen = found and (found.st_mtime_ns, found.st_ino, found.st_size)
            if self._read is None or self._read[0] != seen:
                self._read = (seen, TinyDB(str(self.path), storage=TransactionStorage))
            yield self._read[1]
