"""Reads what trainings write to files of their own on the nodes into the series of their jobs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from ugro.common.errors import NodeError
from ugro.common.models.job import Job
from ugro.common.paths import RunPaths
from ugro.control_plane.metadata_store import MetadataStore
from ugro.nodes.pool import Pool
from ugro.nodes.remote.training_files.training_files import FileReadings, training_files
from ugro.nodes.transport import Transport

EVERY_SECONDS = 10.0
"""Seconds between two reads of the files of one job."""

WITHIN = 20.0
"""Seconds that a read may take; what it brought till then counts."""

ROUNDS = 50
"""Round trips of one read to a node that has more: each brings some hundred KiB of files."""

log = logging.getLogger(__name__)


class SeriesFiles:
    """Reads of series files. The position of each read is kept with the series of the job."""

    def __init__(self, store: MetadataStore, pool: Pool) -> None:
        self._store, self._pool = store, pool
        self._due: dict[str, float] = {}
        self._states: dict[tuple[str, str], tuple[Any, dict[str, Any]]] = {}
        """Of each attempt, the noted position of its series at the last read, and the position after it."""

    async def bring(self, job: Job, paths: Mapping[str, RunPaths], last: bool = False) -> None:
        """Read what is new in the files of a job's attempt, if a read is due or this is the `last` one."""
        now = self._store.clock.monotonic()
        if not last and self._due.get(job.id, 0.0) > now:
            return
        self._due[job.id] = now + EVERY_SECONDS
        nodes = list(paths)
        for _ in range(ROUNDS):
            before, state = await asyncio.to_thread(self._state, job)

            async def one(transport: Transport, cursors: Mapping[str, str] = state["cursors"]) -> FileReadings:
                where = paths[transport.name]
                return await training_files(transport, where, cursors.get(str(where.node_rank), ""), search=last)

            said = await self._pool.each(nodes, one, WITHIN, job.node_configs)
            found = {node: answer for node, answer in said.items() if not isinstance(answer, NodeError)}
            with self._store.optional():
                by_rank = {paths[node].node_rank: answer for node, answer in found.items()}
                await asyncio.to_thread(self._keep, job, before, state, by_rank)
            nodes = [node for node, answer in found.items() if answer.more]
            if not nodes or self._store.clock.monotonic() > now + WITHIN:
                break
        if last:
            self._due.pop(job.id, None)
            self._states.pop((job.id, _key(job)), None)

    def _state(self, job: Job) -> tuple[Any, dict[str, Any]]:
        """Return the noted state: how far each node's files were read, and which node is the source of each series."""
        noted = self._store.metrics.series(job.id).index().read.get(_key(job))
        known = self._states.get((job.id, _key(job)))
        if known and known[0] == noted:
            return known
        return noted, noted or {"cursors": {}, "nodes": {}}

    def _keep(self, job: Job, before: Any, state: dict[str, Any], found: Mapping[int, FileReadings]) -> None:
        """Add what is new to the series. Each series has one source: the first node that says it."""
        cursors, nodes = dict(state["cursors"]), dict(state["nodes"])
        new = []
        for rank, answer in sorted(found.items()):
            cursors[str(rank)] = answer.cursor
            new += [one for one in answer.readings if nodes.setdefault(one.name, rank) == rank]
            for problem in answer.problems:
                log.info("%s: %s", job.id, problem)
        state = {"cursors": cursors, "nodes": nodes}
        if new:  # without values, the cursors are saved with the next ones
            kept = self._store.metrics.series(job.id)
            with kept.writing() as alone:
                if not alone or kept.read_so_far(_key(job)) != before:
                    return
                kept.add(job.attempt, new, {_key(job): state}, None)
                before = state
        self._states[job.id, _key(job)] = before, state


def _key(job: Job) -> str:
    return f"files/{job.attempt}"
