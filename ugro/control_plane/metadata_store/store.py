"""Reads and writes the state directory; the package's docstring shows what lies where."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError
from tinydb import TinyDB
from tinydb.table import Document

from ugro.common.config import JOB_ID, JobSpec, NodeConfig
from ugro.common.errors import InputError, StateLocked, UgroError
from ugro.common.files import append_line, write_atomic
from ugro.common.models import CodeVersion, Drain, Event, GpuSample, Job, JobState, NodeView, Silence, Summary
from ugro.common.paths import JOBS, JobFiles
from ugro.common.text import printable
from ugro.control_plane.history import run_of
from ugro.control_plane.metadata_store.archive import Archive
from ugro.control_plane.metadata_store.cluster_file import ClusterFile
from ugro.control_plane.metadata_store.records import read_lines, read_record, replace_record, state_errors

LOCK_PATIENCE = 60.0
"""Seconds a command waits for another controller before it gives up with exit code 4."""

EVENTS_LIMIT = 4 * 2**20
"""Bytes of the cluster's event log before its older half is put aside."""


class MetadataStore:
    """One state directory.

    Raises (from any method):
        StateError: a file or the directory cannot be read or written, with its name.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.changes: list[Event] = []
        """What this process changed, in order."""
        self._jobs = home / JOBS
        self._cluster = ClusterFile(home)
        self._archive = Archive(home)
        self._parsed: dict[str, tuple[tuple[int, int, int], Job]] = {}
        self._specs: dict[str, JobSpec] = {}
        self._whole: set[str] = set()

    def _make_home(self) -> None:
        with state_errors(self._jobs):
            self._jobs.mkdir(mode=0o700, parents=True, exist_ok=True)

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

    def master(self) -> str:
        """This master's line in the owner files of its nodes; the first word is its id."""
        self._make_home()
        path = self.home / "master"
        with state_errors(path):
            if not path.exists():
                fresh = path.with_name(f".master-{os.getpid()}")
                write_atomic(fresh, f"{uuid.uuid4().hex}\n")
                with contextlib.suppress(FileExistsError):
                    os.link(fresh, path)
                fresh.unlink()
            since = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(path.stat().st_mtime))
            return f"{path.read_text().split()[0]} {getpass.getuser()}@{socket.gethostname()} since {since}"

    def known_master(self) -> str:
        """This master's id, or nothing when it has none yet; nothing is written."""
        path = self.home / "master"
        with state_errors(path):
            return path.read_text().split()[0] if path.exists() else ""

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
            while True:
                folder = self._jobs / self.next_id()
                with contextlib.suppress(FileExistsError):
                    folder.mkdir(mode=0o700)
                    return JobFiles(folder)

    def next_id(self) -> str:
        """The id that the next submission would get, were it the only one."""
        return f"job-{max((int(name[4:]) for name in self._folders()), default=0) + 1:03d}"

    def _folders(self) -> list[str]:
        with state_errors(self._jobs):
            names = os.listdir(self._jobs) if self._jobs.exists() else []
        return [name for name in names if name.startswith("job-") and name[4:].isdecimal()]

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
        with self._change() as db:
            db.table("jobs").upsert(Document({"id": job_id}, doc_id=_number(job_id)))
        # The event first: a tick beside us that sees the record must not take its event for one that a crash lost.
        event = Event(at=time.time(), job=job_id, kind="submitted", message=" ".join(job.command))
        self._note(event)
        return self._write(job, event)

    def save(self, job: Job, kind: str, message: str) -> Job:
        """Replace a job's record and add the change to its events. The record first: it is the truth."""
        event = Event(at=time.time(), job=job.id, kind=kind, message=message)
        job = self._write(job, event)
        self._note(event)
        self._whole.add(job.id)
        if job.state.ended:
            self._settle(job)
        return job

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
        """Finish what a crash left between a record and its timeline or the indexes. The caller holds the lock."""
        for job in self._indexed():
            if job.id not in self._whole and job.last_event and job.last_event not in self.events(job.id)[-1:]:
                self._note(job.last_event)
            self._whole.add(job.id)
            if job.state.ended:
                self._settle(job)

    def _settle(self, job: Job) -> None:
        for cache in (self._parsed, self._specs):  # a resident process must not grow with every job that ends
            cache.pop(job.id, None)
        self._archive.add(self._summary(job))
        with self._change() as db:
            table = db.table("jobs")
            if table.contains(doc_id=_number(job.id)):
                table.remove(doc_ids=[_number(job.id)])

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
        """What was asked for when the job was submitted; it never changes."""
        if job_id not in self._specs:
            self._specs[job_id] = read_record(JobSpec, self.files(job_id).spec)
        return self._specs[job_id]

    def live(self) -> list[Job]:
        """The jobs that have not ended, in the order of their ids."""
        return [job for job in self._indexed() if not job.state.ended]

    def _indexed(self) -> list[Job]:
        with self._cluster.look() as db:
            names = [str(row.get("id")) for row in db.table("jobs").all()] if _has_index(db) else self._folders()
        ids = sorted({name for name in names if JOB_ID.fullmatch(name)}, key=_number)
        return [job for job_id in ids if (job := self._known_job(job_id))]

    def _known_job(self, job_id: str) -> Job | None:
        """A job's record, parsed again only when its file changed; None if there is none."""
        try:
            found = os.stat(f"{self._jobs}/{job_id}/job.json")  # a thousand times a tick: no pathlib
        except FileNotFoundError:
            return None
        except OSError:
            return self.job(job_id)  # which says what is wrong
        seen = (found.st_mtime_ns, found.st_ino, found.st_size)
        known = self._parsed.get(job_id)
        if known is None or known[0] != seen:
            known = self._parsed[job_id] = (seen, read_record(Job, self.files(job_id).record))
        return known[1]

    def jobs(self, ids: Iterable[str] | None = None) -> list[Job]:
        """The jobs of these ids, or all that ever were, in the order of their ids. Opens every folder."""
        names = sorted(self._folders() if ids is None else ids, key=_number)
        return [self.job(name) for name in names if self.files(name).record.exists()]

    def summaries(self) -> list[Summary]:
        """Every job that ended."""
        return self._archive.all()

    def recent(self, count: int) -> list[Job]:
        """The jobs that ended last."""
        ids = {job.id for job in self._indexed() if job.state.ended} | {row.id for row in self._archive.recent(count)}
        return self.jobs(ids)[-count:]

    def find(self, reference: str) -> Job:
        """The job of that id or name; of several with one name, the newest.

        Raises:
            InputError: there is none.
        """
        if JOB_ID.fullmatch(reference) and self.files(reference).record.exists():
            return self.job(reference)
        named = [job.id for job in self._indexed() if job.name == reference]
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

    # --- events ------------------------------------------------------------------------------------------------------

    def note(self, node: str, kind: str, message: str) -> None:
        """Add an event about a node."""
        self._note(Event(at=time.time(), node=node, kind=kind, message=message))

    def _note(self, event: Event) -> None:
        """To the job's own timeline, and to the cluster's."""
        line = event.model_dump_json()
        if event.job:
            with state_errors(path := self.files(event.job).events):
                append_line(path, line)
        path = self.home / "events.jsonl"
        with state_errors(path):
            append_line(path, line)
            if path.stat().st_size > EVENTS_LIMIT:
                os.replace(path, self.home / "events.1.jsonl")
        self.changes.append(event)

    def events(self, job_id: str | None = None) -> list[Event]:
        """A job's timeline, or the cluster's; a torn line is passed over."""
        if job_id is not None:
            paths = [self.files(job_id).events]
        else:
            paths = [self.home / "events.1.jsonl", self.home / "events.jsonl"]
        with state_errors(paths[-1]):
            return [event for path in paths for event in read_lines(path, Event)]

    # --- nodes -------------------------------------------------------------------------------------------------------

    def remember_nodes(
        self,
        views: Iterable[NodeView],
        configs: Iterable[NodeConfig] = (),
        silences: Mapping[str, Silence] | None = None,
    ) -> None:
        """Keep what nodes said and how they were reached, for when they do not answer or left the inventory.

        `silences` names all that did not answer at this look.
        """
        with self._change() as db:
            table = db.table("nodes")
            rows = {str(row["name"]): dict(row) for row in table.all() if "name" in row}
            for config in configs:
                rows.setdefault(config.name, {"name": config.name})["config"] = config.model_dump(mode="json")
            for view in views:
                row = rows.setdefault(view.node, {"name": view.node})
                row["view"] = view.model_dump(mode="json")
                row["gpus"] = row.get("gpus", {}) | {gpu.uuid: gpu.name for gpu in view.gpus if gpu.uuid}
            if silences is not None:
                for name, row in rows.items():
                    row["silence"] = silences[name].model_dump() if name in silences else None
            table.truncate()
            table.insert_multiple(rows.values())

    def _node_rows(self) -> dict[str, Any]:
        with self._cluster.look() as db:
            return {str(row.get("name")): dict(row) for row in db.table("nodes").all()}

    def remembered_nodes(self) -> dict[str, NodeView]:
        """What each node said last."""
        views = {}
        for name, row in self._node_rows().items():
            with contextlib.suppress(ValidationError):
                views[name] = NodeView.model_validate(row.get("view"))
        return views

    def remembered_node(self, name: str) -> NodeView | None:
        """What a node said last, or None."""
        return self.remembered_nodes().get(name)

    def remembered_configs(self) -> dict[str, NodeConfig]:
        """How each node was reached last, also those that left the inventory since."""
        configs = {}
        for name, row in self._node_rows().items():
            with contextlib.suppress(ValidationError):
                configs[name] = NodeConfig.model_validate(row.get("config"))
        return configs

    def known_gpus(self) -> dict[str, dict[str, str]]:
        """The GPUs each node ever showed: UUID and name."""
        return {name: dict(row.get("gpus", {})) for name, row in self._node_rows().items()}

    def silences(self) -> dict[str, Silence]:
        """The nodes that did not answer at the last look."""
        rows = self._node_rows().items()
        return {name: Silence.model_validate(row["silence"]) for name, row in rows if row.get("silence")}

    def leftovers(self) -> dict[str, tuple[str, ...]]:
        """Jobs that ended without the word of these nodes, which are asked again when they answer."""
        with self._cluster.look() as db:
            return {str(row["job"]): tuple(row["nodes"]) for row in db.table("leftovers").all()}

    def remember_leftovers(self, job_id: str, nodes: Sequence[str]) -> None:
        """Keep which nodes still owe their word about an ended job; none lets go of it."""
        with self._change() as db:
            table = db.table("leftovers")
            table.remove(lambda row: row.get("job") == job_id)
            if nodes:
                table.insert({"job": job_id, "nodes": list(nodes)})

    def speeds(self) -> dict[str, tuple[str, float]]:
        """The measured speed of GPUs: name and steps a second by UUID."""
        with self._cluster.look() as db:
            return {str(row["uuid"]): (str(row["name"]), float(row["speed"])) for row in db.table("speeds").all()}

    def remember_speed(self, uuid: str, name: str, speed: float) -> None:
        """Keep how fast a GPU was measured to be, in steps a second."""
        with self._change() as db:
            table = db.table("speeds")
            table.remove(lambda row: row.get("uuid") == uuid)
            table.insert({"uuid": uuid, "name": name, "speed": speed})

    def drain(self, drain: Drain) -> None:
        """Give a node no new jobs; a second reason replaces the first."""
        with self._change() as db:
            table = db.table("drains")
            table.remove(lambda row: row.get("node") == drain.node)
            table.insert(drain.model_dump())
        self.note(drain.node, "drained", drain.reason)

    def undrain(self, node: str) -> bool:
        """Give a node jobs again. Returns whether it was drained."""
        with self._change() as db:
            removed = bool(db.table("drains").remove(lambda row: row.get("node") == node))
        if removed:
            self.note(node, "undrained", "")
        return removed

    def drains(self) -> dict[str, Drain]:
        """The nodes that get no new jobs."""
        with self._cluster.look() as db:
            rows = [dict(row) for row in db.table("drains").all()]
        return {row["node"]: Drain.model_validate(row) for row in rows}

    # --- the indexes -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _change(self) -> Iterator[TinyDB]:
        """A transaction on cluster.json; a state directory without an index of its jobs gets one first."""
        self._make_home()
        with self._cluster.change() as db:
            if not _has_index(db):
                self._index(db)
            yield db

    def _index(self, db: TinyDB) -> None:
        jobs = self.jobs()
        table = db.table("jobs")
        table.truncate()
        live = [job for job in jobs if not job.state.ended]
        table.insert_multiple(Document({"id": job.id}, doc_id=_number(job.id)) for job in live)
        ended = sorted((job for job in jobs if job.state.ended), key=lambda job: (job.ended_at or 0.0, _number(job.id)))
        self._archive.replace(map(self._summary, ended))
        db.table("meta").upsert(Document({"indexed_at": time.time()}, doc_id=1))

    def rebuild(self) -> tuple[int, int]:
        """Make both indexes anew from the jobs' folders. Returns how many live and ended jobs there are.

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
        with self._cluster.change() as db:
            self._index(db)
            return len(db.table("jobs")), len(self._archive.all())


def _has_index(db: TinyDB) -> bool:
    return db.table("meta").contains(doc_id=1)


def _number(job_id: str) -> int:
    return int(re.sub(r"\D", "", job_id))


def _own_command() -> str:
    with open("/proc/self/cmdline", "rb") as file:
        return printable(file.read().replace(b"\0", b" ").decode("utf-8", "replace").strip())
