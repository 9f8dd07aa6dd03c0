"""What is known of the cluster apart from its jobs: what nodes said, who is silent or drained, how fast GPUs are."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tinydb import TinyDB

from ugro.common.config import NodeConfig
from ugro.common.errors import RecordUnreadable
from ugro.common.files import write_atomic
from ugro.common.models.event import Event
from ugro.common.models.job import Job
from ugro.common.models.node import Drain, NodeView, Owed, Silence
from ugro.common.models.proposal import Proposal
from ugro.common.paths import JOBS
from ugro.control_plane.bus import Bus
from ugro.control_plane.metadata_store.cluster_file import ClusterFile, is_damaged, storage_of
from ugro.control_plane.metadata_store.records import keys_in_words, known_part, state_errors
from ugro.control_plane.metadata_store.rows import Damaged, NodeRow, newer_keys
from ugro.control_plane.metadata_store.timeline import Timeline

_MASTER_ID = re.compile(r"[\x21-\x7e]{1,64}")


class ClusterRecords:
    """The tables of `cluster.json` that are not about live jobs. Complete by itself; `MetadataStore` adds the jobs.

    Raises (from any method):
        StateError: a file or the directory cannot be read or written, with its name.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._jobs = home / JOBS
        self._cluster = ClusterFile(home)
        self.bus = Bus()
        """What this process changes, and what it goes on without."""
        self._timeline = Timeline(home, self.bus.publish)

    def _make_home(self) -> None:
        with state_errors(self._jobs):
            self._jobs.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextlib.contextmanager
    def _change(self) -> Iterator[TinyDB]:
        """A transaction on cluster.json."""
        self._make_home()
        with self._cluster.change(self._note_aside) as db:
            if is_damaged(db, "drains"):
                self._drains_as_told(db)
            yield db

    def _note_aside(self, row: Damaged) -> None:
        self.note("", "damaged", f"{self._cluster.path}: {row}; it is kept in {self._cluster.aside.path}")

    def note(self, node: str, kind: str, message: str, job: str = "") -> None:
        """Add an event about a node, or of a job there that is no change of its record."""
        self._timeline.add(Event(at=time.time(), job=job, node=node, kind=kind, message=message, noted=True))

    # --- this master -------------------------------------------------------------------------------------------------

    def master(self) -> str:
        """This master's line in the owner files of its nodes; the first word is its id."""
        import psutil  # here, since most commands have no use for it

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
            return f"{_id_in(path)} {psutil.Process().username()}@{socket.gethostname()} since {since}"

    def known_master(self) -> str:
        """This master's id, or nothing when it has none yet; nothing is written."""
        path = self.home / "master"
        with state_errors(path):
            return _id_in(path) if path.exists() else ""

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
            rows = {str(row["name"]): dict(row) for row in table.all()}
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

    def _node_rows(self) -> dict[str, NodeRow]:
        with self._cluster.look() as db:
            rows = [known_part(NodeRow, dict(row)) for row in db.table("nodes").all()]
        return {row.name: row for row in rows}

    def remembered_nodes(self) -> dict[str, NodeView]:
        """What each node said last."""
        return {name: row.view for name, row in self._node_rows().items() if row.view}

    def remembered_node(self, name: str) -> NodeView | None:
        """What a node said last, or None."""
        return self.remembered_nodes().get(name)

    def remembered_configs(self) -> dict[str, NodeConfig]:
        """How each node was reached last, also those that left the inventory since."""
        return {name: row.config for name, row in self._node_rows().items() if row.config}

    def known_gpus(self) -> dict[str, dict[str, str]]:
        """The GPUs each node ever showed: UUID and name."""
        return {name: row.gpus for name, row in self._node_rows().items()}

    def silences(self) -> dict[str, Silence]:
        """The nodes that did not answer at the last look."""
        return {name: row.silence for name, row in self._node_rows().items() if row.silence}

    # --- drains ------------------------------------------------------------------------------------------------------

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
            drains, certain = _drains(db), has_index(db) and not is_damaged(db, "drains")
        return drains if certain else drains_told(drains, self._timeline.of_cluster())

    def _drains_as_told(self, db: TinyDB) -> None:
        """Take the drains from the timeline, where `cluster.json` is new or an older copy."""
        known = _drains(db)
        told = drains_told(known, self._timeline.of_cluster())
        changed = {node for node in {*known, *told} if known.get(node) != told.get(node)}
        db.table("drains").remove(lambda row: row.get("node") in changed)
        db.table("drains").insert_multiple(told[node].model_dump() for node in told if node in changed)

    # --- failures to decide about ------------------------------------------------------------------------------------

    def undecided(self) -> list[str]:
        """Jobs that failed, or are about to, and of which nobody said yet whether they are tried again."""
        with self._cluster.look() as db:
            return [str(row["job"]) for row in db.table("undecided").all()]

    def remember_undecided(self, job_id: str, undecided: bool = True) -> None:
        """Keep that something is to be decided about a job's failure, or that it was."""
        with self._change() as db:
            table = db.table("undecided")
            table.remove(lambda row: row.get("job") == job_id)
            if undecided:
                table.insert({"job": job_id})

    def proposals(self) -> dict[str, Proposal]:
        """What waits for a person's yes or no, by job."""
        with self._cluster.look() as db:
            rows = [dict(row) for row in db.table("proposals").all()]
        found = [known_part(Proposal, row) for row in rows]
        return {proposal.job: proposal for proposal in sorted(found, key=lambda proposal: proposal.at)}

    def propose(self, proposal: Proposal) -> None:
        """Keep a proposal; an earlier one about the same job is replaced."""
        with self._change() as db:
            table = db.table("proposals")
            table.remove(lambda row: row.get("job") == proposal.job)
            table.insert(proposal.model_dump(mode="json"))

    def withdraw(self, job_id: str) -> None:
        """Let go of the proposal about a job: it was answered, or nothing came of it."""
        with self._change() as db:
            db.table("proposals").remove(lambda row: row.get("job") == job_id)

    # --- what ended jobs left, and speeds ----------------------------------------------------------------------------

    def leftovers(self) -> dict[tuple[str, int], tuple[str, ...]]:
        """The nodes that owe their word about an attempt of a job that ended; they are asked when they answer again."""
        with self._cluster.look() as db:
            rows = db.table("leftovers").all()
        return {(str(row["job"]), int(row.get("attempt", 1))): tuple(row["nodes"]) for row in rows}

    def remember_leftovers(self, job: Job, nodes: Sequence[str]) -> None:
        """Keep which nodes still owe their word about a job's attempt that ended; none lets go of it."""
        with self._change() as db:
            table = db.table("leftovers")
            table.remove(lambda row: (row.get("job"), row.get("attempt", 1)) == (job.id, job.attempt))
            if nodes:
                table.insert({"job": job.id, "attempt": job.attempt, "nodes": list(nodes)})

    def removals(self) -> list[Owed]:
        """What is to be removed from nodes that did not answer when jobs were removed."""
        with self._cluster.look() as db:
            return [known_part(Owed, dict(row)) for row in db.table("removals").all()]

    def remember_removals(self, owed: Iterable[Owed]) -> None:
        """Keep what is still to be removed from nodes, until `forget_removals`."""
        with self._change() as db:
            table = db.table("removals")
            known = [known_part(Owed, dict(row)) for row in table.all()]
            table.insert_multiple(one.model_dump(mode="json") for one in owed if one not in known)

    def forget_removals(self, done: Iterable[Owed]) -> None:
        """Let go of what was removed."""
        gone = [(one.uid, one.config.name, one.config.base_dir) for one in done]
        with self._change() as db:
            table = db.table("removals")
            known = [known_part(Owed, dict(row)) for row in table.all()]
            left = [one for one in known if (one.uid, one.config.name, one.config.base_dir) not in gone]
            table.truncate()
            table.insert_multiple(one.model_dump(mode="json") for one in left)

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


def _id_in(path: Path) -> str:
    words = path.read_text(encoding="utf-8", errors="replace").split()
    if not words or not _MASTER_ID.fullmatch(words[0]):
        hint = f"put its line back, or let this be a new master (`ugro launch --takeover` takes its nodes): rm {path}"
        raise RecordUnreadable(path, f"{path} is not a valid record: the id of this master is expected", hint)
    return words[0]


def newer_rows(db: TinyDB) -> list[str]:
    """The tables in which a newer UGRO keeps what is not known here, with the keys, in words."""
    tables = storage_of(db).read() or {}
    return [f"{table}: {keys_in_words(keys)}" for table, keys in newer_keys(tables).items()]


def has_index(db: TinyDB) -> bool:
    """Whether the file was made together with the index of the live jobs, and so stands for all there is."""
    return db.table("meta").contains(doc_id=1)


def drains_told(drains: Mapping[str, Drain], events: Iterable[Event]) -> dict[str, Drain]:
    """Drains as they were at some moment, with what the timeline says happened to them since."""
    known = dict(drains)
    for event in events:
        if event.node in known and event.at < known[event.node].since:
            continue
        if event.kind == "drained":
            known[event.node] = Drain(node=event.node, reason=event.message, since=event.at)
        elif event.kind == "undrained":
            known.pop(event.node, None)
    return known


def _drains(db: TinyDB) -> dict[str, Drain]:
    return {row["node"]: known_part(Drain, dict(row)) for row in db.table("drains").all()}
