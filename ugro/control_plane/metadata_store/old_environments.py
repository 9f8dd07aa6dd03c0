"""Environments of setup commands that no job used for long: which they are, and their removal from nodes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ugro.common.errors import NodeError
from ugro.common.models.job import Job, Summary
from ugro.nodes.pool import Pool
from ugro.nodes.remote.footprint.footprint import EnvironmentFootprint, Removal
from ugro.nodes.remote.footprint.old_environments import OldEnvironments, old_environments, remove_environments

SLACK = 86400.0
"""Seconds between the use of an environment and the start of its job: the rest of a launch takes less, and clocks of
nodes differ by less.
"""


@dataclass(frozen=True)
class OldEnvironment:
    """An environment on a node; where nodes share it, on one of them."""

    node: str
    found: EnvironmentFootprint


@dataclass(frozen=True)
class Found:
    """Environments that may go, and the nodes that could not be asked."""

    environments: tuple[OldEnvironment, ...] = ()
    silent: Mapping[str, NodeError] = field(default_factory=dict)


def idle_seconds(
    live: Iterable[Job], ended: Iterable[Summary], old: Collection[str], older_than: float, now: float
) -> int:
    """Return for how long nothing may have used an environment that goes.

    That is `older_than`, and longer where a job that is not `old` began before: its environment was used at its start.
    """
    starts = [job.launched_at for job in live if job.launched_at is not None]
    starts += [row.started_at for row in ended if row.id not in old and row.started_at is not None]
    first = min([now - older_than, *(start - SLACK for start in starts)])
    return max(0, int(now - first))


async def find(pool: Pool, nodes: Sequence[str], idle: int) -> Found:
    """Look for environments that nothing used for so long. Changes nothing."""
    answers = await pool.each(nodes, lambda node: old_environments(node, idle))
    found = dict[tuple[str, str], OldEnvironment]()
    for node, answer in answers.items():
        if isinstance(answer, OldEnvironments):
            for one in answer.environments:
                found.setdefault((answer.storage or node, one.name), OldEnvironment(node, one))
    silent = {node: answer for node, answer in answers.items() if isinstance(answer, NodeError)}
    return Found(tuple(found.values()), silent)


async def remove(
    pool: Pool, environments: Sequence[tuple[str, str]], idle: int
) -> dict[tuple[str, str], Removal | NodeError]:
    """Remove environments (node and name) that nothing used for so long, and return what became of each."""
    names = dict[str, list[str]]()
    for node, name in environments:
        names.setdefault(node, []).append(name)
    answers = await pool.each(names, lambda node: remove_environments(node, names[node.name], idle))
    became = dict[tuple[str, str], Removal | NodeError]()
    for node, name in environments:
        answer = answers[node]
        became[node, name] = answer if isinstance(answer, NodeError) else answer[name]
    return became
