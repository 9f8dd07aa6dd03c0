"""The master's memory: one folder per job, whose `job.json` is that job's truth, and TinyDB for the cluster's records.

    $UGRO_HOME/
      lock                who acts now (flock; readable text)
      cluster.json        TinyDB: the last view of each node
      jobs/job-001/       job.json, spec.json, events.jsonl, snapshot/, logs/<attempt>/

Everything is plain JSON that `cat` and `jq` read. Writes are atomic; see docs/architecture.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError
from tinydb import TinyDB, where
from tinydb.storages import Storage

from ugro.common.config import JOB_ID, JobSpec
from ugro.common.errors import InputError, StateError, StateLocked
from ugro.common.files import append_line, write_atomic
from ugro.common.models import CodeVersion, Event, Job, NodeView
from ugro.common.paths import JOBS, JobFiles
from ugro.common.text import printable

LOCK_PATIENCE = 60.0
"""Seconds a command waits for another controller before it gives up with exit code 4."""

Model = TypeVar("Model", bound=BaseModel)


class AtomicStorage(Storage):
    """TinyDB's file, replaced atomically. The lock around each transaction is the store's."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def read(self) -> dict[str, dict[str, Any]] | None:
        try:
            document = json.loads(self._path.read_bytes())
            if not isinstance(document, dict):
                raise ValueError("an object is expected")
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as error:
            hint = "it only remembers what the nodes said last: delete it, and it is made anew"
            raise StateError(f"{self._path} is not valid JSON ({error})", hint) from None
        return document

    def write(self, data: dict[str, dict[str, Any]]) -> None:
        write_atomic(self._path, json.dumps(data, indent=1))


class MetadataStore:
    """Reads and writes the state directory.

    Raises (from any method):
        StateError: a file or the directory cannot be read or written, with its name.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.changes: list[Event] = []
        """What this process changed, in order."""
        self._jobs = home / JOBS

    def _make_home(self) -> None:
        with _state_errors(self._jobs):
            self._jobs.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextlib.contextmanager
    def lock(self, patience: float = LOCK_PATIENCE) -> Iterator[None]:
        """Be the one controller that acts.

        Raises:
            StateLocked: somebody else acts and did not finish within `patience` seconds; the message says who.
        """
        self._make_home()
        path = self.home / "lock"
        lock = FileLock(path, timeout=patience)
        with _state_errors(path):
            try:
                lock.acquire(poll_interval=0.05)
            except Timeout:
                holder = printable(path.read_text(errors="replace").strip()) or "somebody"
                hint = "wait for it, or look why it takes so long"
                raise StateLocked(f"{path} is held by {holder}", hint) from None
        try:
            with _state_errors(path):
                path.write_text(f"{_own_command()} (pid {os.getpid()}) since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
            yield
        finally:
            lock.release()

    def files(self, job_id: str) -> JobFiles:
        """Where a job's files are."""
        return JobFiles(self._jobs / job_id)

    def reserve(self) -> JobFiles:
        """Make the folder of a new job; its name is the id. Safe against any number of submissions at once.

        The job exists once `submit` has written its record: a folder without one is a submission that was cut short.
        """
        self._make_home()
        with _state_errors(self._jobs):
            while True:
                folder = self._jobs / self.next_id()
                with contextlib.suppress(FileExistsError):
                    folder.mkdir(mode=0o700)
                    return JobFiles(folder)

    def next_id(self) -> str:
        """The id that the next submission would get, were it the only one."""
        taken = (path.name for path in self._jobs.glob("job-*") if JOB_ID.fullmatch(path.name))
        return f"job-{max((int(name[4:]) for name in taken), default=0) + 1:03d}"

    def submit(self, files: JobFiles, spec: JobSpec, code: CodeVersion, now: float) -> Job:
        """Write a new job's frozen spec and its first record."""
        job_id = files.folder.name
        job = Job(
            id=job_id,
            uid=uuid.uuid4().hex,
            name=spec.name or job_id,
            submitted_at=now,
            command=(spec.script, *spec.args),
            code=code,
        )
        with _state_errors(files.folder):
            write_atomic(files.spec, spec.model_dump_json(indent=1))
        self.save(job, "submitted", f"{' '.join(job.command)}")
        return job

    def save(self, job: Job, kind: str, message: str) -> None:
        """Replace a job's record and add the change to its events. The record first: it is the truth."""
        files = self.files(job.id)
        event = Event(at=time.time(), job=job.id, kind=kind, message=message)
        with _state_errors(files.folder):
            write_atomic(files.record, job.model_dump_json(indent=1))
            append_line(files.events, event.model_dump_json())
        self.changes.append(event)

    def update(self, job_id: str, change: Callable[[Job], Job], kind: str, message: str) -> Job:
        """Read a job, change it and save it. The caller holds the lock."""
        job = change(self.job(job_id))
        self.save(job, kind, message)
        return job

    def job(self, job_id: str) -> Job:
        """A job's record."""
        return _parse(Job, self.files(job_id).record)

    def spec(self, job_id: str) -> JobSpec:
        """What was asked for when the job was submitted."""
        return _parse(JobSpec, self.files(job_id).spec)

    def events(self, job_id: str) -> list[Event]:
        """A job's timeline; a torn line is passed over."""
        path = self.files(job_id).events
        events: list[Event] = []
        with _state_errors(path):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        for line in lines:
            with contextlib.suppress(ValidationError):
                events.append(Event.model_validate_json(line))
        return events

    def jobs(self) -> list[Job]:
        """All jobs in the order of their ids."""
        if not self._jobs.exists():
            return []
        with _state_errors(self._jobs):
            names = [path.parent.name for path in self._jobs.glob("job-*/job.json")]
        ids = sorted((name for name in names if JOB_ID.fullmatch(name)), key=lambda name: int(name[4:]))
        return [self.job(job_id) for job_id in ids]

    def find(self, reference: str) -> Job:
        """The job of that id or name; of several with one name, the newest.

        Raises:
            InputError: there is none.
        """
        jobs = self.jobs()
        found = [job for job in jobs if job.id == reference] or [job for job in jobs if job.name == reference]
        if not found:
            hint = "`ugro status` lists the jobs" if jobs else "no job was submitted yet: `ugro launch` does that"
            raise InputError(f"there is no job {printable(reference)!r}", hint)
        return found[-1]

    def remember_nodes(self, views: list[NodeView]) -> None:
        """Keep what nodes said, for the time when they do not answer."""
        self._make_home()
        path = self.home / "cluster.json"
        with _state_errors(path), FileLock(self.home / "cluster.lock"), TinyDB(str(path), storage=AtomicStorage) as db:
            table = db.table("nodes")
            for view in views:
                table.upsert(view.model_dump(mode="json"), where("node") == view.node)

    def remembered_node(self, name: str) -> NodeView | None:
        """What a node said last, or None."""
        path = self.home / "cluster.json"
        if not path.exists():
            return None
        with _state_errors(path), TinyDB(str(path), storage=AtomicStorage) as db:
            row = db.table("nodes").get(where("node") == name)
        try:
            return NodeView.model_validate(row) if isinstance(row, dict) else None
        except ValidationError:
            return None


def _own_command() -> str:
    with open("/proc/self/cmdline", "rb") as file:
        return printable(file.read().replace(b"\0", b" ").decode("utf-8", "replace").strip())


def _parse(model: type[Model], path: Path) -> Model:
    try:
        return model.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no {path}", "`ugro status` lists the jobs") from None
    except OSError as error:
        raise StateError(f"{path} cannot be read: {error.strerror}") from None
    except (ValidationError, UnicodeDecodeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        detail = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".lstrip(": ") if first else str(error)
        hint = f"mend it by hand, or put the folder {path.parent} elsewhere"
        raise StateError(f"{path} is not a valid record: {detail}", hint) from None


@contextlib.contextmanager
def _state_errors(path: Path) -> Iterator[None]:
    """Turn what the disk says into an error that names the file."""
    try:
        yield
    except OSError as error:
        where_ = error.filename or path
        hint = "free some space" if error.errno == 28 else "set UGRO_HOME to a directory on a local disk you can write"
        raise StateError(f"{where_}: {error.strerror or error}", hint) from None
