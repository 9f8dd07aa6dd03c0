"""`cluster.json` as it has to be: what it lacks is made of the timeline and the jobs' folders before it is changed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tinydb import TinyDB

from ugro.common.clock import Clock
from ugro.common.errors import RecordNewer, StateError
from ugro.common.models.event_kind import EventKind
from ugro.control_plane.metadata_store.cluster_file import ClusterFile, has_index, is_damaged, storage_of
from ugro.control_plane.metadata_store.drains import take_drains
from ugro.control_plane.metadata_store.job_index import Indexed, JobIndex
from ugro.control_plane.metadata_store.records import keys_in_words, make_home, state_errors
from ugro.control_plane.metadata_store.rows import DamagedRow, newer_keys
from ugro.control_plane.metadata_store.timeline import Timeline


class ClusterTables:
    """Gives out the transactions that every part of the store with a table there uses.

    Raises (from any method):
        StateError: the file or the directory cannot be read or written, with its name.
    """

    def __init__(self, home: Path, timeline: Timeline, clock: Clock) -> None:
        self.index = JobIndex(home, clock)
        self._home = home
        self._file = ClusterFile(home)
        self._timeline = timeline

    @contextlib.contextmanager
    def look(self) -> Iterator[TinyDB]:
        """The tables as they are; nothing is written."""
        with self._file.look() as db:
            yield db

    @contextlib.contextmanager
    def change(self) -> Iterator[TinyDB]:
        """A transaction; a state directory without an index of its jobs, or with a damaged one, gets it first."""
        with self._opened() as db:
            if not has_index(db):
                take_drains(db, self._timeline.of_cluster())
            if not has_index(db) or is_damaged(db, "jobs"):
                self.index.make(db)
            yield db

    @contextlib.contextmanager
    def _opened(self) -> Iterator[TinyDB]:
        make_home(self._home)
        with self._file.change(self._note_aside) as db:
            if is_damaged(db, "drains"):
                take_drains(db, self._timeline.of_cluster())
            yield db

    def _note_aside(self, row: DamagedRow) -> None:
        self._timeline.note("", EventKind.DAMAGED, f"{self._file.path}: {row}; it is kept in {self._file.aside.path}")

    def problems(self) -> list[StateError]:
        """Return the problems of the indexes that stop no command: lists of ended jobs may lack some."""
        with self.look() as db:
            newer = [RecordNewer(self._file.path, words, {}) for words in _newer_rows(db)]
            with state_errors(self._file.path):
                damaged = self._file.aside.problems(storage_of(db).damaged)
            return [*self.index.damage(db), *newer, *damaged]

    def rebuild(self) -> Indexed:
        """Make both indexes from the jobs' folders.

        A `cluster.json` that cannot be read is put aside first, and its copy of before its last change is taken; which
        nodes are drained is taken from the timeline, which knows that change, too. Damaged rows are put aside, and of
        those that were, the ones that were corrected since are taken back.
        """
        make_home(self._home)
        mended = self._file.mend()
        with self._opened() as db:
            mended += self._file.take_back(db)
            if mended or not has_index(db):
                take_drains(db, self._timeline.of_cluster())
            drained = ", ".join(f"{row['node']} ({row['reason']})" for row in db.table("drains").all()) or "no node"
            mended += [f"drained, as the timeline says: {drained}"] if mended else []
            indexed = self.index.make(db)._replace(mended=mended)
        with state_errors(self._file.path):
            self._file.aside.keep_damaged()
        return indexed


def _newer_rows(db: TinyDB) -> list[str]:
    """The tables in which a newer UGRO keeps what is not known here, with the keys, in words."""
    tables = storage_of(db).read() or {}
    return [f"{table}: {keys_in_words(keys)}" for table, keys in newer_keys(tables).items()]
