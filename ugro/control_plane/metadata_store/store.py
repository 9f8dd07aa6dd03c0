"""Reads and writes the state directory; the package's docstring shows what lies where."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import ValidationError
from tinydb import TinyDB
from tinydb.table import Document

import ugro.control_plane.metadata_store.locks as locks
from ugro.common.errors import InputError, InternalError, RecordNewer, RecordUnreadable, StateError, UgroError
from ugro.common.files import write_atomic
from ugro.common.job_spec import JOB_ID, JobSpec
from ugro.common.models.event import Event
from ugro.common.models.job import CodeVersion, Job, JobState, Summary
from ugro.common.paths import JobFiles
from ugro.common.text import clock, printable
from ugro.control_plane.metadata_store.archive import Archive
from ugro.control_plane.metadata_store.cluster_file import CLUSTER_VERSION, is_damaged, storage_of
from ugro.control_plane.metadata_store.cluster_records import ClusterRecords, has_index, newer_rows
from ugro.control_plane.metadata_store.history import run_of
from ugro.control_plane.metadata_store.job_folders import JobFolders, number_of
from ugro.control_plane.metadata_store.records import (
    OnUnreadable,
    known_part,
    lost,
    pass_over,
    replace_record,
    state_errors,
    stop_at,
)
from ugro.control_plane.troubles import Troubles

log = logging.getLogger(__name__)

T = TypeVar("T")

LOCK_PATIENCE = 60.0
"""Seconds a command waits for another controller before it gives up with exit code 4."""

TURN_LOCK = "tick.lock"
"""The lock of whoever observes the cluster and decides. Slow work on nodes is done without it."""

RESIDENT_LOCK = "serve.lock"
"""The lock that `ugro serve` holds as long as it stays."""


class Indexed(NamedTuple):
    """What the indexes were made of: how many jobs, and those whose record cannot be read.

    An unreadable one that had ended before keeps its line among the ended; any other counts as live, so that nothing
    is started on what it may hold. `mended` says in words what was done about a `cluster.json` that was broken.
    """

    live: int
    ended: int
    unreadable: list[RecordUnreadable]
    mended: list[str]


class MetadataStore(ClusterRecords, JobFolders):
    """One state directory: its jobs, and what is known of the cluster.

    Raises (from any method):
        StateError: a file or the directory cannot be read or written, with its name.
    """

    def __init__(self, home: Path) -> None:
        ClusterRecords.__init__(self, home)
        JobFolders.__init__(self, home)
        self._archive = Archive(home)
        self._told: dict[str, Event] = {}
        self._writer = locks.WriterLock(home / "lock", self._make_home)

    # --- who acts ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lock(self, patience: float = LOCK_PATIENCE) -> Iterator[None]:
        """Around reading records and writing what follows from them; may be nested.

        Held for moments only, by anybody who changes a record, and never while a node is waited for: so a request is
        recorded at once, whatever else is under way. For plain commands: coroutines use `write`.

        Raises:
            StateLocked: another process holds it for longer than `patience` seconds; the message says which.
        """
        with self._writer.held(patience):
            yield

    async def write(self, change: Callable[[], T], patience: float = LOCK_PATIENCE) -> T:
        """Run what reads records and writes what follows from them, with the lock held, in a thread.

        The event loop goes on whatever the disk and other processes do. Once begun a change is finished, also where
        its caller is cancelled.

        Raises:
            StateLocked: another process holds the lock for longer than `patience` seconds; the message says which.
        """
        return await self._writer.run(change, patience)

    @contextlib.contextmanager
    def exclusive(self, name: str, patience: float) -> Iterator[None]:
        """Be the only one who does what a lock of its own stands for, for as long as that takes.

        Raises:
            StateLocked: another process holds it for longer than `patience` seconds; the message says which.
        """
        self._make_home()
        with locks.held(self.home / name, patience):
            yield

    @contextlib.asynccontextmanager
    async def turn(self, patience: float = LOCK_PATIENCE) -> AsyncIterator[None]:
        """Be the one who observes the cluster and decides what comes next.

        Raises:
            StateLocked: another process is at it for longer than `patience` seconds; the message says which.
        """
        self._make_home()
        async with locks.held_in_turn(self.home / TURN_LOCK, patience):
            yield

    def alone_with(self, job_id: str) -> contextlib.AbstractContextManager[bool]:
        """Be the only one who takes a job's next step on its nodes, for as long as that takes; False: another is."""
        return locks.alone_on(self.files(job_id).folder)

    def is_locked(self, name: str) -> bool:
        """Whether somebody holds a lock just now. Nothing is written, but whoever takes it meanwhile has to wait."""
        return locks.is_held(self.home / name)

    @contextlib.contextmanager
    def optional(self) -> Iterator[None]:
        """Around what is good to have and no reason to stop: what the disk refuses is told on the bus."""
        try:
            yield
        except RecordNewer as error:
            self.tell(error)
        except RecordUnreadable:
            raise
        except StateError as error:
            self.tell(error)

    def tell(self, error: UgroError) -> None:
        """Tell what this process goes on without; one of each kind, since a full disk refuses much."""
        if not any(_is_told(error, known) for known in self.bus.troubles):
            self.bus.tell(error)

    # --- submitting and changing jobs --------------------------------------------------------------------------------

    def submit(
        self, files: JobFiles, spec: JobSpec, code: CodeVersion, now: float, predicted_mib: int | None = None
    ) -> Job:
        """Write a new job's frozen spec and its first record."""
        job_id = files.folder.name
        job = Job(
            id=job_id,
            uid=uuid.uuid4().hex,
            name=spec.name or job_id,
            state=JobState.HELD if spec.hold else JobState.QUEUED,
            reason="held at its submission" if spec.hold else "",
            priority=spec.priority,
            predicted_mib=predicted_mib,
            submitted_at=now,
            command=spec.command,
            code=code,
        )
        with state_errors(files.folder):
            write_atomic(files.spec, spec.model_dump_json(indent=1))
        self._enter(job_id)
        # The event first: a tick beside us that sees the record must not take its event for one that a crash lost.
        event = Event(at=time.time(), job=job_id, kind="submitted", message=" ".join(job.command))
        self._timeline.add(event)
        return self._write(job, event)

    def save(self, job: Job, kind: str, message: str) -> Job:
        """Replace a job's record by what came of a step, and add the change to its events.

        What was asked of the job while the step was under way is kept.
        """
        with self.lock():
            before = self._job_if_any(job.id)
            return self._save(with_requests(job, before) if before else job, kind, message)

    def _save(self, job: Job, kind: str, message: str) -> Job:
        """The record first: it is the truth."""
        if job.id not in self._told:
            self._catch_up(job)
        event = Event(at=time.time(), job=job.id, kind=kind, message=message)
        job = self._write(job, event)
        self._timeline.add(event)
        self._told[job.id] = event
        if job.state.ended:
            self._settle(job)
        return job

    def reopen(self, job: Job, spec: JobSpec, message: str) -> Job:
        """Take a job that ended back among the live ones, for the attempt its record says.

        What the attempt before was asked stays beside, as `spec-<attempt>.json`.

        Raises:
            InputError: its last attempt is not the one before any more.
        """
        files = self.files(job.id)
        with self.lock(), state_errors(files.folder):
            now = self.job(job.id)
            if locks.is_held(files.events):
                raise InputError(f"what {job.id} left is being removed just now", f"see: ugro status {job.id}")
            if now.attempt != job.attempt - 1 or not now.state.ended:
                raise InputError(
                    f"{job.id} was resumed meanwhile: it is {now.state.value}", f"see: ugro status {job.id}"
                )
            before = files.spec_of(job.attempt - 1)
            if not before.exists():
                write_atomic(before, files.spec.read_text(encoding="utf-8"))
            write_atomic(files.spec, spec.model_dump_json(indent=1))
            self._enter(job.id)
            return self._save(job, "resumed", message)

    def respecify(self, job_id: str, spec: JobSpec, kind: str, message: str) -> Job:
        """Change what a job was asked for, and add that to its events. The spec first: a lost event is no lost wish."""
        files = self.files(job_id)
        with self.lock(), state_errors(files.folder):
            write_atomic(files.spec, spec.model_dump_json(indent=1))
            return self._save(self.job(job_id), kind, message)

    @contextlib.contextmanager
    def removing(self, job: Job) -> Iterator[bool]:
        """Be the one who removes what an ended job left; False: another is at it, or the job is as it was no more.

        It cannot be resumed meanwhile. Slow work on nodes may be done inside. What is locked is its timeline, which is
        never replaced, so that nothing has to be written on a full disk.
        """
        events = self.files(job.id).events
        with contextlib.ExitStack() as stack:
            with self.lock(), state_errors(events):
                now = self._job_if_any(job.id)
                free = now is not None and now.state.ended and now.last_event == job.last_event
                if free:
                    if not events.exists():
                        events.touch(mode=0o600)
                    free = stack.enter_context(locks.alone_on(events))
            yield free

    def forget(self, job: Job) -> None:
        """Remove the record of an ended job and all that is beside it. The caller is `removing` it.

        Killed half-way the job is there as before, or only its folder is, under a name that `ugro gc` knows.
        """
        files = self.files(job.id)
        gone = files.folder.with_name(f".tmp-{job.id}-{job.uid}")
        with self.lock(), state_errors(files.folder):
            self._keep_number(job.id)
            self.note("", "removed", job.name, job.id)
            with self._change() as db:
                db.table("jobs").remove(lambda row: row.get("id") == job.id)
                whole = not self._archive_damage(db)
                self._archive.replace([row for row in self._archive.all() if row.id != job.id])
                if whole:
                    _seal(db, self._archive)
            os.rename(files.folder, gone)
        with state_errors(gone):
            shutil.rmtree(gone)

    def _write(self, job: Job, event: Event) -> Job:
        files = self.files(job.id)
        job = job.model_copy(update={"last_event": event})
        with state_errors(files.folder):
            replace_record(files.record, job.model_dump_json(indent=1))
        return job

    def update(self, job_id: str, change: Callable[[Job], Job], kind: str, message: str) -> Job:
        """Read a job, change it and save it."""
        with self.lock():
            return self._save(change(self.job(job_id)), kind, message)

    def settle(self) -> list[UgroError]:
        """Finish what a crash left between a record and the timelines or the indexes. Returns what went wrong.

        A record that somebody put back is an older one than its timeline; that gets an event of its own.
        """
        troubles = Troubles()
        with self.lock():
            jobs = self._indexed(pass_over)
            with troubles.boundary("submissions that were cut short"):
                self._let_go_of_failed_submissions(jobs)
            for job in jobs:
                with troubles.boundary(f"{job.id}: its timeline"):
                    if (last := job.last_event) and self._told.get(job.id) != last and self._catch_up(job):
                        self._save(job, "restored", f"its record is again that of {clock(last.at)}: {last.kind}")
                    elif job.state.ended:
                        self._settle(job)
        return troubles.found

    def _catch_up(self, job: Job) -> bool:
        """Give the timelines the event of a job's record. Returns whether the record is older than its timeline."""
        if job.last_event is None:
            return False
        self._told[job.id] = job.last_event
        return self._timeline.catch_up(job.last_event)

    def _settle(self, job: Job) -> None:
        for cache in (self._parsed, self._specs, self._told):  # a resident process must not grow with every job
            cache.pop(job.id, None)
        with self._change() as db:
            whole = not self._archive_damage(db)
            self._archive.add(self._summary(job))
            db.table("jobs").remove(lambda row: row.get("id") == job.id)
            if whole:
                _seal(db, self._archive)

    def _summary(self, job: Job) -> Summary:
        try:
            run = run_of(self.spec(job.id))
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
        )

    # --- reading jobs ------------------------------------------------------------------------------------------------

    def live(self, on_unreadable: OnUnreadable = stop_at) -> list[Job]:
        """The jobs that have not ended, in the order of their ids.

        What an unreadable one holds is not known, so whoever gives out GPUs has to stop there; whoever looks may go on.
        """
        return [job for job in self._indexed(on_unreadable) if not job.state.ended]

    def _indexed(self, on_unreadable: OnUnreadable) -> list[Job]:
        names = self._index()
        return self._known_jobs(self._folders() if names is None else names, on_unreadable)

    def _index(self) -> set[str] | None:
        """The ids in the index of the live jobs; None: this state directory has none yet."""
        with self._cluster.look() as db:
            certain = has_index(db) and not is_damaged(db, "jobs")
            return {str(row["id"]) for row in db.table("jobs").all()} if certain else None

    def _known_job(self, job_id: str) -> Job | None:
        found = super()._known_job(job_id)
        if found is None and not self.files(job_id).folder.exists() and self._began(job_id):
            raise lost(self.files(job_id).record)
        return found

    def _began(self, job_id: str) -> bool:
        """Whether the cluster's timeline knows more of a job than that it was to be submitted."""
        return any(event.job == job_id and event.kind != "submitted" for event in self.events())

    def summaries(self) -> list[Summary]:
        """Every job that ended, but for those that were resumed since."""
        rows, live = self._archive.all(), self._index()
        return [row for row in rows if row.id not in live] if live else rows

    def recent(self, count: int, on_unreadable: OnUnreadable = stop_at) -> list[Job]:
        """The jobs that ended last. `live` tells of unreadable ones whose end is not known."""
        ended = {job.id for job in self._indexed(pass_over) if job.state.ended}
        past = {row.id for row in self._archive.recent(count)} - (self._index() or set())
        return self.jobs(ended | past, on_unreadable)[-count:]

    def find(self, reference: str) -> Job:
        """The job of that id or name; of several with one name, the newest.

        Raises:
            InputError: there is none.
        """
        if JOB_ID.fullmatch(reference) and (found := self._job_if_any(reference)):
            return found

        def stop_at_namesake(error: RecordUnreadable) -> None:
            if not isinstance(error, RecordNewer) or error.fields.get("name") == reference:
                raise error

        named = [job.id for job in self._indexed(stop_at_namesake) if job.name == reference]
        named = named or [row.id for row in self.summaries() if row.name == reference]
        if not named:
            hint = "`ugro status` lists the jobs" if self._folders() else "`ugro launch` submits a first job"
            raise InputError(f"there is no job {printable(reference)!r}", hint)
        return self.job(max(named, key=number_of))

    def is_unchanged(self, job: Job) -> bool:
        """Whether the record of a job is the one that this was read from."""
        with contextlib.suppress(RecordUnreadable):
            found = self._known_job(job.id)
            return found is not None and found.last_event == job.last_event
        return False

    def events(self, job_id: str | None = None) -> list[Event]:
        """A job's timeline, or the cluster's; a torn line is passed over."""
        return self._timeline.of_cluster() if job_id is None else self._timeline.of_job(job_id)

    # --- the indexes -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _change(self) -> Iterator[TinyDB]:
        """A transaction on cluster.json; a state directory without an index, or with a damaged one, gets it first."""
        with super()._change() as db:
            if not has_index(db):
                self._drains_as_told(db)
            if not has_index(db) or is_damaged(db, "jobs"):
                self._index_anew(db)
            yield db

    def _enter(self, job_id: str) -> None:
        with self._change() as db:
            db.table("jobs").upsert(Document({"id": job_id}, doc_id=number_of(job_id)))

    def _let_go_of_failed_submissions(self, jobs: Iterable[Job]) -> None:
        """Take out of the index what was entered there before its submission failed, and took its folder along."""
        unread = (self._index() or set()) - {job.id for job in jobs}
        gone = {name for name in unread if not self.files(name).folder.exists()}
        if failed := {name for name in gone if not self._began(name)}:
            with self._change() as db:
                db.table("jobs").remove(lambda row: row.get("id") in failed)

    def problems(self) -> list[StateError]:
        """What is wrong with the indexes and stops nobody: lists of ended jobs may lack some."""
        with self._cluster.look() as db:
            newer = [RecordNewer(self._cluster.path, words, {}) for words in newer_rows(db)]
            with state_errors(self._cluster.path):
                damaged = self._cluster.aside.problems(storage_of(db).damaged)
            return [*self._archive_damage(db), *newer, *damaged]

    def _archive_damage(self, db: TinyDB) -> list[StateError]:
        meta = db.table("meta").get(doc_id=1)
        return self._archive.damage(meta["archive"]) if isinstance(meta, dict) and meta.get("archive") else []

    def _index_anew(self, db: TinyDB) -> Indexed:
        unreadable: list[RecordUnreadable] = []
        jobs = self.jobs(on_unreadable=unreadable.append)
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
        meta = {"indexed_at": time.time(), "schema_version": CLUSTER_VERSION}
        db.table("meta").upsert(Document(meta, doc_id=1))
        _seal(db, self._archive)
        return Indexed(len(live), len(ended), unreadable, [])

    def _known_summary(self, error: RecordNewer) -> list[Summary]:
        """The line of a job that ended, from a record of a newer UGRO; none if too little of it is known here."""
        with contextlib.suppress(ValidationError):
            return [self._summary(known_part(Job, error.fields))]
        return []

    def rebuild(self) -> Indexed:
        """Make both indexes anew from the jobs' folders.

        A `cluster.json` that cannot be read is put aside first, and its copy of before its last change is taken; which
        nodes are drained is taken from the timeline, which knows that change, too. Damaged rows are put aside, and of
        those that were, the ones that somebody corrected since are taken back.
        """
        self._make_home()
        mended = self._cluster.mend()
        with super()._change() as db:
            mended += self._cluster.take_back(db)
            if mended or not has_index(db):
                self._drains_as_told(db)
            drained = ", ".join(f"{row['node']} ({row['reason']})" for row in db.table("drains").all()) or "no node"
            mended += [f"drained, as the timeline says: {drained}"] if mended else []
            indexed = self._index_anew(db)._replace(mended=mended)
        with state_errors(self._cluster.path):
            self._cluster.aside.keep_damaged()
        return indexed


def with_requests(job: Job, before: Job) -> Job:
    """A job after a step, with what was asked of it meanwhile: its end, or another priority."""
    if job.attempt != before.attempt or job.state.ended:
        return job
    changed: dict[str, object] = {"priority": before.priority, "wish": job.wish or before.wish}
    if before.first_failure and not job.first_failure:  # an end that was approved, for a hang
        changed |= {"first_failure": before.first_failure, "alert": before.alert}
    return job.model_copy(update=changed)


def _is_told(error: UgroError, known: UgroError) -> bool:
    """Whether people who were told the one need not be told the other, too."""
    if isinstance(error, InternalError) or isinstance(known, InternalError):
        return error.message == known.message
    return error.hint == known.hint


def _seal(db: TinyDB, archive: Archive) -> None:
    db.table("meta").update({"archive": archive.seal()}, doc_ids=[1])
