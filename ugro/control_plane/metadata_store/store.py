"""Reads and writes the state directory; the package's docstring shows what lies where."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout
from tinydb import TinyDB
from tinydb.table import Document, Table

from ugro.common.config import JOB_ID, JobSpec
from ugro.common.errors import InputError, RecordUnreadable, StateLocked, UgroError
from ugro.common.files import append_line, write_atomic
from ugro.common.models import CodeVersion, Event, GpuSample, Job, JobState, Summary
from ugro.common.paths import JobFiles
from ugro.common.text import clock, printable
from ugro.control_plane.history import run_of
from ugro.control_plane.metadata_store.archive import Archive
from ugro.control_plane.metadata_store.cluster_records import ClusterRecords
from ugro.control_plane.metadata_store.records import (
    OnUnreadable,
    pass_over,
    read_lines,
    read_record,
    replace_record,
    state_errors,
    stop_at,
)

LOCK_PATIENCE = 60.0
"""Seconds a command waits for another controller before it gives up with exit code 4."""

RESIDENT_LOCK = "serve.lock"
"""The lock that `ugro serve` holds as long as it stays."""


_Seen = tuple[int, int, int]


class Indexed(NamedTuple):
    """What the indexes were made of: how many jobs, and those whose record cannot be read.

    An unreadable one that had ended before keeps its line among the ended; any other counts as live, so that nothing
    is started on what it may hold.
    """

    live: int
    ended: int
    unreadable: list[RecordUnreadable]


class MetadataStore(ClusterRecords):
    """One state directory: its jobs, and what is known of the cluster.

    Raises (from any method):
        StateError: a file or the directory cannot be read or written, with its name.
    """

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self._archive = Archive(home)
        self._parsed: dict[str, tuple[_Seen, Job]] = {}
        self._specs: dict[str, tuple[_Seen, JobSpec]] = {}
        self._told: dict[str, Event] = {}

    @property
    def changes(self) -> list[Event]:
        """What this process changed, in order."""
        return self._timeline.added

    # --- who acts ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lock(self, patience: float = LOCK_PATIENCE, name: str = "lock") -> Iterator[None]:
        """Be the one controller that acts.

        Raises:
            StateLocked: somebody else acts and did not finish within `patience` seconds; the message says who.
        """
        self._make_home()
        path = self.home / name
        lock = FileLock(path, timeout=patience)
        with state_errors(path):
            try:
                lock.acquire(poll_interval=0.05)
            except Timeout:
                holder = printable(path.read_text(errors="replace").strip()) or "somebody"
                hint = "wait for it, or look why it takes so long"
                raise StateLocked(f"{path} is held by {holder}", hint) from None
        try:
            with state_errors(path):
                path.write_text(f"{_own_command()} (pid {os.getpid()}) since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
            yield
        finally:
            lock.release()

    def is_locked(self, name: str) -> bool:
        """Whether somebody holds a lock just now. Nothing is written, but whoever takes it meanwhile has to wait."""
        try:
            with open(self.home / name) as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    # --- submitting and changing jobs --------------------------------------------------------------------------------

    def files(self, job_id: str) -> JobFiles:
        """Where a job's files are."""
        return JobFiles(self._jobs / job_id)

    def reserve(self) -> JobFiles:
        """Make the folder of a new job; its name is the id. Safe against any number of submissions at once.

        The job exists once `submit` has written its record: a folder without one is a submission that was cut short.
        """
        self._make_home()
        with state_errors(self._jobs):
            for number in itertools.count(self._next_number()):
                folder = self._jobs / _id(number)
                with contextlib.suppress(FileExistsError):
                    folder.mkdir(mode=0o700)
                    return JobFiles(folder)
        raise AssertionError("numbers do not end")

    def next_id(self) -> str:
        """The id that the next submission would get, were it the only one."""
        return _id(self._next_number())

    def _next_number(self) -> int:
        names = self._listed()
        for length in sorted(set(map(len, names)), reverse=True):  # so that ten thousand ids need not be parsed
            if ids := [name for name in names if len(name) == length and JOB_ID.fullmatch(name)]:
                return _number(max(ids)) + 1
        return 1

    def _folders(self) -> list[str]:
        return list(filter(JOB_ID.fullmatch, self._listed()))

    def _listed(self) -> list[str]:
        with state_errors(self._jobs):
            return os.listdir(self._jobs) if self._jobs.exists() else []

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
            command=(spec.script, *spec.args),
            code=code,
        )
        with state_errors(files.folder):
            write_atomic(files.spec, spec.model_dump_json(indent=1))
        with self._index() as live:
            live.upsert(Document({"id": job_id}, doc_id=_number(job_id)))
        # The event first: a tick beside us that sees the record must not take its event for one that a crash lost.
        event = Event(at=time.time(), job=job_id, kind="submitted", message=" ".join(job.command))
        self._timeline.add(event)
        return self._write(job, event)

    def save(self, job: Job, kind: str, message: str) -> Job:
        """Replace a job's record and add the change to its events. The record first: it is the truth."""
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
        """Take a job that ended back among the live ones, for the attempt its record says. The caller holds the lock.

        What the attempt before was asked stays beside, as `spec-<attempt>.json`.
        """
        files = self.files(job.id)
        with state_errors(files.folder):
            before = files.spec_of(job.attempt - 1)
            if not before.exists():
                write_atomic(before, files.spec.read_text(encoding="utf-8"))
            write_atomic(files.spec, spec.model_dump_json(indent=1))
        with self._index() as live:
            live.upsert(Document({"id": job.id}, doc_id=_number(job.id)))
        return self.save(job, "resumed", message)

    def _write(self, job: Job, event: Event) -> Job:
        files = self.files(job.id)
        job = job.model_copy(update={"last_event": event})
        with state_errors(files.folder):
            replace_record(files.record, job.model_dump_json(indent=1))
        return job

    def update(self, job_id: str, change: Callable[[Job], Job], kind: str, message: str) -> Job:
        """Read a job, change it and save it. The caller holds the lock."""
        return self.save(change(self.job(job_id)), kind, message)

    def settle(self) -> None:
        """Finish what a crash left between a record and the timelines or the indexes. The caller holds the lock.

        A record that somebody put back is an older one than its timeline; that gets an event of its own.
        """
        for job in self._indexed(pass_over):
            if (last := job.last_event) and self._told.get(job.id) != last and self._catch_up(job):
                self.save(job, "restored", f"its record is again that of {clock(last.at)}: {last.kind}")
            elif job.state.ended:
                self._settle(job)

    def _catch_up(self, job: Job) -> bool:
        """Give the timelines the event of a job's record. Returns whether the record is older than its timeline."""
        if job.last_event is None:
            return False
        self._told[job.id] = job.last_event
        return self._timeline.catch_up(job.last_event)

    def _settle(self, job: Job) -> None:
        for cache in (self._parsed, self._specs, self._told):  # a resident process must not grow with every job
            cache.pop(job.id, None)
        self._archive.add(self._summary(job))
        with self._index() as live:
            if live.contains(doc_id=_number(job.id)):
                live.remove(doc_ids=[_number(job.id)])

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

    def job(self, job_id: str) -> Job:
        """A job's record."""
        return read_record(Job, self.files(job_id).record)

    def spec(self, job_id: str) -> JobSpec:
        """What was asked for when the job was submitted, or for its present attempt."""
        seen = _seen(f"{self._jobs}/{job_id}/spec.json")
        known = self._specs.get(job_id)
        if seen is None or known is None or known[0] != seen:
            spec = read_record(JobSpec, self.files(job_id).spec)
            known = self._specs[job_id] = (seen or (0, 0, 0), spec)
        return known[1]

    def live(self, on_unreadable: OnUnreadable = stop_at) -> list[Job]:
        """The jobs that have not ended, in the order of their ids.

        What an unreadable one holds is not known, so whoever gives out GPUs has to stop there; whoever looks may go on.
        """
        return [job for job in self._indexed(on_unreadable) if not job.state.ended]

    def _indexed(self, on_unreadable: OnUnreadable) -> list[Job]:
        with self._cluster.look() as db:
            names = [str(row.get("id")) for row in db.table("jobs").all()] if _has_index(db) else self._folders()
        ids = sorted({name for name in names if JOB_ID.fullmatch(name)}, key=_number)
        return list(_readable(ids, self._known_job, on_unreadable))

    def _known_job(self, job_id: str) -> Job | None:
        """A job's record, parsed again only when its file changed; None if there is none."""
        seen = _seen(f"{self._jobs}/{job_id}/job.json")
        if seen is None:
            return self._job_if_any(job_id)  # which says what is wrong
        known = self._parsed.get(job_id)
        if known is None or known[0] != seen:
            known = self._parsed[job_id] = (seen, read_record(Job, self.files(job_id).record))
        return known[1]

    def jobs(self, ids: Iterable[str] | None = None, on_unreadable: OnUnreadable = stop_at) -> list[Job]:
        """The jobs of these ids, or all that ever were, in the order of their ids. Opens every folder."""
        names = sorted(self._folders() if ids is None else ids, key=_number)
        return list(_readable(names, self._job_if_any, on_unreadable))

    def _job_if_any(self, job_id: str) -> Job | None:
        return self.job(job_id) if self.files(job_id).record.exists() else None

    def summaries(self) -> list[Summary]:
        """Every job that ended."""
        return self._archive.all()

    def recent(self, count: int, on_unreadable: OnUnreadable = stop_at) -> list[Job]:
        """The jobs that ended last. `live` tells of unreadable ones whose end is not known."""
        ids = {job.id for job in self._indexed(pass_over) if job.state.ended}
        return self.jobs(ids | {row.id for row in self._archive.recent(count)}, on_unreadable)[-count:]

    def find(self, reference: str) -> Job:
        """The job of that id or name; of several with one name, the newest.

        Raises:
            InputError: there is none.
        """
        if JOB_ID.fullmatch(reference) and self.files(reference).record.exists():
            return self.job(reference)
        named = [job.id for job in self._indexed(stop_at) if job.name == reference]
        named = named or [row.id for row in self.summaries() if row.name == reference]
        if not named:
            hint = "`ugro status` lists the jobs" if self._folders() else "`ugro launch` submits a first job"
            raise InputError(f"there is no job {printable(reference)!r}", hint)
        return self.job(max(named, key=_number))

    def add_samples(self, job_id: str, samples: Iterable[GpuSample]) -> None:
        """Add what a job's GPUs showed to its metrics."""
        lines = [sample.model_dump_json() for sample in samples]
        if lines:
            with state_errors(path := self.files(job_id).metrics):
                append_line(path, "\n".join(lines))

    def samples(self, job_id: str) -> list[GpuSample]:
        """What a job's GPUs showed while it ran."""
        with state_errors(path := self.files(job_id).metrics):
            return list(read_lines(path, GpuSample))

    def events(self, job_id: str | None = None) -> list[Event]:
        """A job's timeline, or the cluster's; a torn line is passed over."""
        return self._timeline.of_cluster() if job_id is None else self._timeline.of_job(job_id)

    # --- the indexes -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _index(self) -> Iterator[Table]:
        """A transaction on the index of the live jobs; a state directory without one gets it first."""
        with self._change() as db:
            if not _has_index(db):
                self._index_anew(db)
            yield db.table("jobs")

    def _index_anew(self, db: TinyDB) -> Indexed:
        unreadable: list[RecordUnreadable] = []
        jobs = self.jobs(on_unreadable=unreadable.append)
        live, ended = [job.id for job in jobs if not job.state.ended], [job for job in jobs if job.state.ended]
        broken = {error.path.parent.name for error in unreadable}
        known = [row for row in self._archive.all() if row.id in broken]
        rows = [*known, *map(self._summary, ended)]
        self._archive.replace(sorted(rows, key=lambda row: (row.ended_at, _number(row.id))))
        table = db.table("jobs")
        table.truncate()
        names = [*live, *broken.difference(row.id for row in known)]
        table.insert_multiple(Document({"id": name}, doc_id=_number(name)) for name in names)
        db.table("meta").upsert(Document({"indexed_at": time.time()}, doc_id=1))
        return Indexed(len(live), len(ended), unreadable)

    def rebuild(self) -> Indexed:
        """Make both indexes anew from the jobs' folders.

        A `cluster.json` that cannot be read is put aside first: the last views of the nodes are then gone, and come
        back with the next look; drains have to be said again.
        """
        self._make_home()
        path = self._cluster.path
        with state_errors(path):
            try:
                json.loads(path.read_bytes() if path.exists() else b"{}")
            except ValueError:
                os.replace(path, path.with_name(f"cluster.json.broken-{time.strftime('%Y%m%d-%H%M%S')}"))
        with self._change() as db:
            return self._index_anew(db)


def _seen(path: str) -> _Seen | None:
    """What changes with every change of a file; None: it cannot be seen. Called a thousand times a tick: no pathlib."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _has_index(db: TinyDB) -> bool:
    return db.table("meta").contains(doc_id=1)


def _readable(ids: Iterable[str], read: Callable[[str], Job | None], on_unreadable: OnUnreadable) -> Iterator[Job]:
    for job_id in ids:
        try:
            if job := read(job_id):
                yield job
        except RecordUnreadable as error:
            on_unreadable(error)


def _id(number: int) -> str:
    return f"job-{number:03d}"


def _number(job_id: str) -> int:
    return int(re.sub(r"\D", "", job_id))


def _own_command() -> str:
    with open("/proc/self/cmdline", "rb") as file:
        return printable(file.read().replace(b"\0", b" ").decode("utf-8", "replace").strip())
