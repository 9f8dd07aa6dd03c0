"""Both indexes of jobs: the live ones in `cluster.json`, and in `finished.jsonl` those that ended, which it seals."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError
from tinydb import TinyDB
from tinydb.table import Document

from ugro.common.clock import Clock
from ugro.common.errors import RecordNewer, RecordUnreadable, StateError, UgroError
from ugro.common.job_spec import JobSpec
from ugro.common.models.job import Job, Summary
from ugro.control_plane.metadata_store.archive import Archive
from ugro.control_plane.metadata_store.cluster_file import CLUSTER_VERSION, is_certain
from ugro.control_plane.metadata_store.history import run_of
from ugro.control_plane.metadata_store.job_folders import JobFolders, number_of
from ugro.control_plane.metadata_store.records import known_part, read_record


class Indexed(NamedTuple):
    """Result of a rebuild of the indexes: the number of jobs, and those whose record cannot be read.

    An unreadable one that had ended before keeps its line among the ended; any other counts as live, so that nothing
    is started on what it may hold. The last field says in words how a broken `cluster.json` was repaired.
    """

    live: int
    ended: int
    unreadable: list[RecordUnreadable]
    mended: list[str]


class JobIndex:
    """Works within a transaction on `cluster.json` that its caller opened.

    Raises (from any method):
        StateError: a file cannot be read or written, with its name.
    """

    def __init__(self, home: Path, clock: Clock) -> None:
        self._clock = clock
        self._folders = JobFolders(home)
        self._archive = Archive(home)

    def live(self, db: TinyDB) -> set[str] | None:
        """Return the ids of the live jobs; None: this state directory has no index of them yet, or a damaged one."""
        return {str(row["id"]) for row in db.table("jobs").all()} if is_certain(db, "jobs") else None

    def ended(self) -> list[Summary]:
        """Return every job that ended, in the order of their ends, also those that were resumed since."""
        return self._archive.all()

    def ended_last(self, count: int) -> list[Summary]:
        """Return the last of them, without reading the whole file."""
        return self._archive.recent(count)

    def ended_ids(self) -> set[str]:
        """Return the ids of all of them."""
        return self._archive.ids()

    def enter(self, db: TinyDB, job_id: str) -> None:
        """Count a job among the live ones."""
        db.table("jobs").upsert(Document({"id": job_id}, doc_id=number_of(job_id)))

    def leave(self, db: TinyDB, ids: Collection[str]) -> None:
        """Count jobs among the live ones no more."""
        db.table("jobs").remove(lambda row: row.get("id") in ids)

    def end(self, db: TinyDB, job: Job) -> None:
        """Move a job from the live ones to those that ended. The archive first: a job in both is still found."""
        whole = not self.damage(db)
        self._archive.add(self._summary(job))
        self.leave(db, [job.id])
        if whole:
            self._seal(db)

    def forget(self, db: TinyDB, job_id: str) -> None:
        """Take a job out of both."""
        self.leave(db, [job_id])
        whole = not self.damage(db)
        self._archive.replace([row for row in self._archive.all() if row.id != job_id])
        if whole:
            self._seal(db)

    def damage(self, db: TinyDB) -> list[StateError]:
        """Return what is wrong with the archive, if it says less than when it was sealed."""
        meta = db.table("meta").get(doc_id=1)
        return self._archive.damage(meta["archive"]) if isinstance(meta, dict) and meta.get("archive") else []

    def make(self, db: TinyDB) -> Indexed:
        """Make both from the jobs' folders."""
        unreadable: list[RecordUnreadable] = []
        jobs = self._folders.all(on_unreadable=unreadable.append)
        live, ended = [job.id for job in jobs if not job.state.ended], [job for job in jobs if job.state.ended]
        broken = {error.path.parent.name for error in unreadable}
        known = [row for row in self._archive.all() if row.id in broken]
        there = {row.id for row in known}
        newer = [error for error in unreadable if isinstance(error, RecordNewer) and error.ended]
        known += [row for error in newer if error.path.parent.name not in there for row in self._known_summary(error)]
        rows = [*known, *map(self._summary, ended)]
        self._archive.replace(sorted(rows, key=lambda row: (row.ended_at, number_of(row.id))))
        table = db.table("jobs")
        table.truncate()
        names = [*live, *broken.difference(row.id for row in known)]
        table.insert_multiple(Document({"id": name}, doc_id=number_of(name)) for name in names)
        meta = {"indexed_at": self._clock.now(), "schema_version": CLUSTER_VERSION}
        db.table("meta").upsert(Document(meta, doc_id=1))
        self._seal(db)
        return Indexed(len(live), len(ended), unreadable, [])

    def _seal(self, db: TinyDB) -> None:
        db.table("meta").update({"archive": self._archive.seal()}, doc_ids=[1])

    def _summary(self, job: Job) -> Summary:
        try:
            run = run_of(read_record(JobSpec, self._folders.files(job.id).spec))
        except UgroError:  # a job may have failed for having lost its spec
            run = ""
        return Summary(
            id=job.id,
            name=job.name,
            state=job.state,
            run=run,
            submitted_at=job.submitted_at,
            started_at=job.started_at,
            ended_at=job.ended_at or job.submitted_at,
            predicted_mib=job.predicted_mib,
            peak_mib=job.peak_mib,
            sweep_id=job.sweep_id,
        )

    def _known_summary(self, error: RecordNewer) -> list[Summary]:
        """The line of a job that ended, from a record of a newer UGRO; none if too little of it is known here."""
        with contextlib.suppress(ValidationError):
            return [self._summary(known_part(Job, error.fields))]
        return []
