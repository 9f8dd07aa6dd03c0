"""Nodes as they were reached and seen last, which are unreachable or drained, and which master this is."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ugro.common.clock import Clock
from ugro.common.config import NodeConfig
from ugro.common.errors import RecordUnreadable
from ugro.common.files import write_atomic
from ugro.common.models.drain import Drain
from ugro.common.models.event import Event
from ugro.common.models.event_kind import EventKind
from ugro.common.models.node import NodeView, Silence
from ugro.control_plane.metadata_store.cluster_file import is_certain
from ugro.control_plane.metadata_store.cluster_tables import ClusterTables
from ugro.control_plane.metadata_store.drains import drains_in, drains_told
from ugro.control_plane.metadata_store.records import known_part, make_home, state_errors
from ugro.control_plane.metadata_store.rows import NodeRow
from ugro.control_plane.metadata_store.timeline import Timeline

_MASTER_ID = re.compile(r"[\x21-\x7e]{1,64}")


class ConfigStore:
    """The `nodes` and `drains` tables of `cluster.json`, and the file `master`.

    Raises (from any method):
        StateError: a file or the directory cannot be read or written, with its name.
    """

    def __init__(self, home: Path, tables: ClusterTables, timeline: Timeline, clock: Clock) -> None:
        self._home = home
        self._tables = tables
        self._timeline = timeline
        self._clock = clock

    # --- this master -------------------------------------------------------------------------------------------------

    def master(self) -> str:
        """This master's line in the owner files of its nodes; the first word is its id."""
        import psutil  # here, since most commands have no use for it

        make_home(self._home)
        path = self._home / "master"
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
        path = self._home / "master"
        with state_errors(path):
            return _id_in(path) if path.exists() else ""

    # --- nodes -------------------------------------------------------------------------------------------------------

    def remember_nodes(
        self,
        views: Iterable[NodeView],
        configs: Iterable[NodeConfig] = (),
        silences: Mapping[str, Silence] | None = None,
    ) -> None:
        """Keep the nodes' views and how they were reached, for when they are unreachable or left the inventory.

        `silences` names all that were unreachable at this observation.
        """
        with self._tables.change() as db:
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
        with self._tables.look() as db:
            rows = [known_part(NodeRow, dict(row)) for row in db.table("nodes").all()]
        return {row.name: row for row in rows}

    def remembered_nodes(self) -> dict[str, NodeView]:
        """Return the last view of each node."""
        return {name: row.view for name, row in self._node_rows().items() if row.view}

    def remembered_node(self, name: str) -> NodeView | None:
        """Return the last view of a node, or None."""
        return self.remembered_nodes().get(name)

    def remembered_configs(self) -> dict[str, NodeConfig]:
        """Return how each node was reached last, including those that left the inventory since."""
        return {name: row.config for name, row in self._node_rows().items() if row.config}

    def known_gpus(self) -> dict[str, dict[str, str]]:
        """The GPUs each node ever showed: UUID and name."""
        return {name: row.gpus for name, row in self._node_rows().items()}

    def silences(self) -> dict[str, Silence]:
        """The nodes that did not answer at the last look."""
        return {name: row.silence for name, row in self._node_rows().items() if row.silence}

    def copy_node(self, old: str, new: str) -> list[str]:
        """Keep what is known of a node under its new name, too. Return what that is: `observation`, `drain`."""
        copied = []
        with self._tables.change() as db:
            table = db.table("nodes")
            rows = {str(row["name"]): dict(row) for row in table.all()}
            if old in rows:
                rows[new] = _renamed(rows[old], new)
                table.truncate()
                table.insert_multiple(rows.values())
                copied.append("observation")
        if drain := self.drains().get(old):
            self.drain(drain.model_copy(update={"node": new}))
            copied.append("drain")
        return copied

    def forget_node(self, name: str) -> list[str]:
        """Let go of what is known of a node that has another name now, or is gone. Return what that was."""
        with self._tables.change() as db:
            gone = ["observation"] if db.table("nodes").remove(lambda row: row.get("name") == name) else []
        return [*gone, *(["drain"] if self.undrain(name) else [])]

    # --- drains ------------------------------------------------------------------------------------------------------

    def drain(self, drain: Drain) -> None:
        """Give a node no new jobs; a second reason replaces the first."""
        with self._tables.change() as db:
            table = db.table("drains")
            table.remove(lambda row: row.get("node") == drain.node)
            table.insert(drain.model_dump(mode="json"))
        told = Event(
            at=self._clock.now(),
            node=drain.node,
            kind=EventKind.DRAINED,
            message=drain.reason,
            noted=True,
            origin=drain.origin,
        )
        self._timeline.add(told)

    def undrain(self, node: str) -> bool:
        """Give a node jobs again. Returns whether it was drained."""
        with self._tables.change() as db:
            removed = bool(db.table("drains").remove(lambda row: row.get("node") == node))
        if removed:
            self._timeline.note(node, EventKind.UNDRAINED, "")
        return removed

    def drains(self) -> dict[str, Drain]:
        """The nodes that get no new jobs."""
        with self._tables.look() as db:
            drains, certain = drains_in(db), is_certain(db, "drains")
        return drains if certain else drains_told(drains, self._timeline.of_cluster())


def _renamed(row: dict[str, Any], name: str) -> dict[str, Any]:
    """A node's row under another name."""
    renamed = {**row, "name": name}
    for part, key in (("config", "name"), ("view", "node")):
        if row.get(part):
            renamed[part] = {**row[part], key: name}
    return renamed


def _id_in(path: Path) -> str:
    words = path.read_text(encoding="utf-8", errors="replace").split()
    if not words or not _MASTER_ID.fullmatch(words[0]):
        hint = f"put its line back, or let this be a new master (`ugro launch --takeover` takes its nodes): rm {path}"
        raise RecordUnreadable(path, f"{path} is not a valid record: the id of this master is expected", hint)
    return words[0]
