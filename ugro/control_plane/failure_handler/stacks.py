"""Stack traces of a job's ranks, asked of all its nodes at once, and kept where a hang was found."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ugro.common.config import Inventory
from ugro.common.errors import NodeError
from ugro.common.files import write_atomic
from ugro.common.models.job import Job
from ugro.common.models.record import Record
from ugro.common.paths import run_paths
from ugro.control_plane.metadata_store.records import known_part
from ugro.nodes.pool import Pool
from ugro.nodes.remote.stacks.stacks import NodeStacks, own_py_spy, stacks
from ugro.nodes.transport import Transport

Said = Mapping[str, NodeStacks | NodeError]
"""The answer of each node of a job, or why it gave none."""


class KeptStacks(Record):
    """Stack traces of a job's ranks when it was found to hang, by node. `at` is in seconds since the epoch."""

    at: float
    nodes: dict[str, NodeStacks]


async def ask(
    inventory: Inventory,
    pool: Pool,
    job: Job,
    node: str | None = None,
    rank: int | None = None,
    within: float | None = None,
) -> Said:
    """Ask the nodes of a job (or one of them, about one rank). `within` bounds the wait in seconds."""

    async def one(transport: Transport) -> NodeStacks:
        paths = run_paths(inventory, job, transport.name)
        if paths is None:
            return NodeStacks(ranks=())
        return await stacks(transport, paths, [] if rank is None else [rank], own_py_spy())

    names = [name for name in job.nodes if node in (None, name) and run_paths(inventory, job, name)]
    return await pool.each(names, one, within, job.node_configs)


def report_of_nccl(answers: Sequence[NodeStacks]) -> str:
    """Return NCCL's report: it covers the entire job, on every node."""
    return next((answer.nccl for answer in answers if answer.nccl), "")


def keep(path: Path, said: Said, at: float) -> None:
    """Keep what was said. Raises OSError."""
    kept = KeptStacks(at=at, nodes={name: one for name, one in said.items() if isinstance(one, NodeStacks)})
    write_atomic(path, kept.model_dump_json())


def kept(path: Path) -> KeptStacks | None:
    """Return the kept stack traces; None: there are none, or they cannot be read."""
    try:
        return known_part(KeptStacks, json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError):
        return None
