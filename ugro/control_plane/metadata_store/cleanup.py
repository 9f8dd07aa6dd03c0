"""Unconfirmed work on nodes: `leftovers`, of jobs that ended, and `removals`, of removed ones (`cluster.json`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ugro.common.models.job import Job
from ugro.common.models.owed import Owed
from ugro.control_plane.metadata_store.cluster_tables import ClusterTables
from ugro.control_plane.metadata_store.records import known_part


class Cleanup:
    """Kept until the nodes answer again.

    Raises (from any method):
        StateError: `cluster.json` cannot be read or written.
    """

    def __init__(self, tables: ClusterTables) -> None:
        self._tables = tables

    def leftovers(self) -> dict[tuple[str, int], tuple[str, ...]]:
        """Return the nodes still to be asked whether an attempt of a job that ended is over there, by id and number."""
        with self._tables.look() as db:
            rows = db.table("leftovers").all()
        return {(str(row["job"]), int(row.get("attempt", 1))): tuple(row["nodes"]) for row in rows}

    def remember_leftovers(self, job: Job, nodes: Sequence[str]) -> None:
        """Keep which nodes are still to be asked about a job's attempt that ended; none lets go of it."""
        with self._tables.change() as db:
            table = db.table("leftovers")
            table.remove(lambda row: (row.get("job"), row.get("attempt", 1)) == (job.id, job.attempt))
            if nodes:
                table.insert({"job": job.id, "attempt": job.attempt, "nodes": list(nodes)})

    def removals(self) -> list[Owed]:
        """Return what is to be removed from nodes that did not answer when jobs were removed."""
        with self._tables.look() as db:
            return [known_part(Owed, dict(row)) for row in db.table("removals").all()]

    def remember_removals(self, owed: Iterable[Owed]) -> None:
        """Keep what is still to be removed from nodes, until `forget_removals`."""
        with self._tables.change() as db:
            table = db.table("removals")
            known = [known_part(Owed, dict(row)) for row in table.all()]
            table.insert_multiple(one.model_dump(mode="json") for one in owed if one not in known)

    def forget_removals(self, done: Iterable[Owed]) -> None:
        """Let go of what was removed."""
        gone = [(one.uid, one.config.name, one.config.base_dir) for one in done]
        with self._tables.change() as db:
            table = db.table("removals")
            known = [known_part(Owed, dict(row)) for row in table.all()]
            left = [one for one in known if (one.uid, one.config.name, one.config.base_dir) not in gone]
            table.truncate()
            table.insert_multiple(one.model_dump(mode="json") for one in left)
