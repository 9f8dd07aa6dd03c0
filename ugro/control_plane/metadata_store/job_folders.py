"""The jobs' folders: which there are, and what lies in each. They are the truth; the indexes are made of them."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ugro.common.errors import RecordUnreadable, StateError
from ugro.common.files import write_atomic
from ugro.common.job_spec import JOB_ID, JobSpec
from ugro.common.models.event import Event
from ugro.common.models.event_kind import EventKind
from ugro.common.models.job import Job
from ugro.common.paths import JOBS, JobFiles
from ugro.common.text import printable
from ugro.control_plane.metadata_store.locks import alone_on
from ugro.control_plane.metadata_store.records import (
    OnUnreadable,
    broken,
    copy_before,
    lost,
    read_lines,
    read_record,
    state_errors,
    stop_at,
)

REMOVED = ".removed"
"""The file beside the jobs' folders with the highest number of a job that was removed."""

SNAPSHOTS = "snapshots"
"""The folder of the state directory that says of each working directory where its last snapshot is."""

SNAPSHOT = re.compile(rf"{JOB_ID.pattern}/snapshot(-\d+)?")

Seen = tuple[int, int, int]


class JobFolders:
    """Read the jobs' folders; `JobRegistry` adds the changes of jobs, and the indexes.

    Raises (from any method):
        StateError: a file or folder cannot be read or written, with its name.
        RecordUnreadable: a job's record is incomplete, that of another job, or gone.
    """

    def __init__(self, home: Path) -> None:
        self._jobs = home / JOBS
        self._specs: dict[str, tuple[Seen, JobSpec]] = {}

    def files(self, job_id: str) -> JobFiles:
        """Return the paths of a job's files."""
        return JobFiles(self._jobs / job_id)

    # --- ids ---------------------------------------------------------------------------------------------------------

    def reserve(self) -> JobFiles:
        """Make the folder of a new job; its name is the id. Safe against any number of submissions at once.

        The job exists once its record is written: a folder without one is a submission that was cut short.
        """
        with state_errors(self._jobs):
            self._jobs.mkdir(mode=0o700, parents=True, exist_ok=True)
            for number in itertools.count(self._next_number()):
                folder = self._jobs / id_of(number)
                with contextlib.suppress(FileExistsError):
                    folder.mkdir(mode=0o700)
                    return JobFiles(folder)
        raise AssertionError("numbers do not end")

    def next_id(self) -> str:
        """The id that the next submission would get, were it the only one."""
        return id_of(self._next_number())

    def _next_number(self) -> int:
        names = self._listed()
        return max(self._after(names), self._removed_up_to() + 1 if REMOVED in names else 1)

    def _after(self, names: list[str]) -> int:
        for length in sorted(set(map(len, names)), reverse=True):  # so that ten thousand ids need not be parsed
            if ids := [name for name in names if len(name) == length and JOB_ID.fullmatch(name)]:
                return number_of(max(ids)) + 1
        return 1

    def cut_short(self) -> list[str]:
        """Return the folders of submissions that were interrupted before their record, and that no process uses."""
        found = []
        for name in self._folders():
            if not self.files(name).record.exists() and not self._had_record(name):
                with contextlib.suppress(StateError), alone_on(self.files(name).folder) as alone:
                    found += [name] if alone else []
        return found

    def _keep_number(self, job_id: str) -> None:
        """See that the number of a job that is removed is not given again: its folders on nodes may outlive it."""
        write_atomic(self._jobs / REMOVED, f"{max(self._removed_up_to(), number_of(job_id))}\n")

    def _removed_up_to(self) -> int:
        path = self._jobs / REMOVED
        with state_errors(path):
            text = path.read_text(errors="replace").strip() if path.exists() else ""
        return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else 0

    def _folders(self) -> list[str]:
        return list(filter(JOB_ID.fullmatch, self._listed()))

    def _listed(self) -> list[str]:
        with state_errors(self._jobs):
            return os.listdir(self._jobs) if self._jobs.exists() else []

    # --- records -----------------------------------------------------------------------------------------------------

    def job(self, job_id: str) -> Job:
        """A job's record."""
        job = read_record(Job, path := self.files(job_id).record)
        if job.id != job_id:
            raise broken(path, f"it is that of {printable(job.id)}")
        return job

    def spec(self, job_id: str) -> JobSpec:
        """Return the spec of a job, as it was submitted or for its present attempt."""
        seen = seen_as(f"{self._jobs}/{job_id}/spec.json")
        known = self._specs.get(job_id)
        if seen is None or known is None or known[0] != seen:
            spec = read_record(JobSpec, self.files(job_id).spec)
            known = self._specs[job_id] = (seen or (0, 0, 0), spec)
        return known[1]

    def all(self, ids: Iterable[str] | None = None, on_unreadable: OnUnreadable = stop_at) -> list[Job]:
        """The jobs of these ids, or all that ever were, in the order of their ids. Opens every folder."""
        names = sorted(self._folders() if ids is None else ids, key=number_of)
        return list(readable(names, self._job_if_any, on_unreadable))

    def _job_if_any(self, job_id: str) -> Job | None:
        record = self.files(job_id).record
        if record.exists():
            return self.job(job_id)
        if self._had_record(job_id):
            raise lost(record)
        return None

    def _had_record(self, job_id: str) -> bool:
        """Whether a folder without a record is more than a submission that was cut short before its first one."""
        files = self.files(job_id)
        with state_errors(files.folder):
            told = (event.kind for event in read_lines(files.events, Event))
            return copy_before(files.record).exists() or any(kind != EventKind.SUBMITTED for kind in told)

    # --- code --------------------------------------------------------------------------------------------------------

    def last_snapshot(self, directory: Path) -> Path | None:
        """The last snapshot of a working directory, which the next one shares files with; None: none is known."""
        with contextlib.suppress(OSError):
            noted = SNAPSHOT.fullmatch(self._note_of(directory).read_text(errors="replace").strip())
            return self._jobs / noted.group() if noted else None
        return None

    def note_snapshot(self, directory: Path, snapshot: Path) -> None:
        """Keep which one it is. It only saves work and space, so that nothing is lost where it cannot be written."""
        note = self._note_of(directory)
        with contextlib.suppress(OSError):
            note.parent.mkdir(mode=0o700, exist_ok=True)
            write_atomic(note, f"{snapshot.relative_to(self._jobs)}\n")

    def _note_of(self, directory: Path) -> Path:
        name = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:32]
        return self._jobs.parent / SNAPSHOTS / name


def number_of(job_id: str) -> int:
    """The number in a job's id."""
    return int(re.sub(r"\D", "", job_id))


def id_of(number: int) -> str:
    """The id of the job with a number."""
    return f"job-{number:03d}"


def seen_as(path: str) -> Seen | None:
    """Return what changes with every change of a file; None: it cannot be seen.

    Called a thousand times a tick, so without pathlib.
    """
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def readable(ids: Iterable[str], read: Callable[[str], Job | None], on_unreadable: OnUnreadable) -> Iterator[Job]:
    """Yield what is read of each job; an unreadable record goes to `on_unreadable`."""
    for job_id in ids:
        try:
            if job := read(job_id):
                yield job
        except RecordUnreadable as error:
            on_unreadable(error)
