"""Which job runs where: pure functions over plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ugro.common.config import Inventory, JobSpec
from ugro.common.errors import InputError, NodeError
from ugro.common.models import Job, NodeShare, NodeView, Placement

Views = Mapping[str, NodeView | NodeError]
"""What each node said just now, or why it said nothing."""


@dataclass(frozen=True)
class Allocation:
    """A placement, or every reason why there is none now."""

    placement: Placement | None
    reasons: tuple[str, ...] = ()


def leases(jobs: Iterable[Job]) -> dict[str, str]:
    """Which job holds what: GPU UUIDs, and `cpu:<node>` for a node's CPU ranks."""
    held: dict[str, str] = {}
    for job in jobs:
        if job.state.on_nodes and job.placement:
            for share in job.placement.shares:
                held |= dict.fromkeys(share.gpus or (_cpu(share.node),), job.id)
    return held


def check_request(spec: JobSpec, inventory: Inventory, views: Views) -> None:
    """Refuse what could not run even on an idle cluster.

    Raises:
        InputError: unknown nodes, more nodes or GPUs than exist.
        NodeError: a node that the job needs cannot be read.
    """
    names = candidates(spec, inventory)
    wanted = spec.nodes if isinstance(spec.nodes, int) else len(names)
    if wanted > len(names):
        raise InputError(f"{wanted} nodes are asked for and the inventory has {len(names)}")
    unread = [view for name in names if isinstance(view := views[name], NodeError)]
    if len(names) - len(unread) < wanted:
        raise unread[0]
    fitting = [name for name in names if _most_ranks(spec, views[name])]
    if len(fitting) < wanted:
        asked = f"{_count(spec.gpus_per_node or 1, 'GPU')} on each of {_count(wanted, 'node')}"
        able = f"only {_count(len(fitting), 'node')}" if fitting else "no node"
        raise InputError(
            f"asked for: {asked}; {able} can give that",
            "; ".join(f"{name}: {_gpus_in_words(views[name])}" for name in names),
        )


def allocate(spec: JobSpec, inventory: Inventory, views: Views, held: Mapping[str, str]) -> Allocation:
    """Place a whole gang at once, or say why not. Node ranks follow the order of the nodes asked for."""
    names = candidates(spec, inventory)
    wanted = spec.nodes if isinstance(spec.nodes, int) else len(names)
    shares: list[NodeShare] = []
    reasons: list[str] = []
    for name in names:
        if len(shares) == wanted:
            break
        view = views[name]
        if isinstance(view, NodeError):
            reasons.append(view.message)
        elif (resources := _free(spec, view, held)) is None:
            reasons.append(_busy(name, view, held))
        else:
            ranks = sum(share.nproc for share in shares)
            nproc = max(1, len(resources))
            shares.append(NodeShare(node=name, node_rank=len(shares), first_rank=ranks, nproc=nproc, gpus=resources))
    if len(shares) < wanted:
        return Allocation(None, tuple(reasons))
    return Allocation(Placement(shares=tuple(shares)))


def candidates(spec: JobSpec, inventory: Inventory) -> list[str]:
    """The nodes a job may be placed on, in the order of their node ranks.

    Raises:
        InputError: it names a node that is not in the inventory.
    """
    if isinstance(spec.nodes, tuple):
        return [inventory.node(name).name for name in spec.nodes]
    return list(inventory.nodes)


def _usable(view: NodeView) -> list[str]:
    return [gpu.uuid for gpu in view.gpus if gpu.uuid and not gpu.problem and not gpu.mig]


def _most_ranks(spec: JobSpec, view: NodeView | NodeError) -> int:
    """How many ranks of this job an idle node would take."""
    if isinstance(view, NodeError):
        return 0
    usable = len(_usable(view))
    if spec.gpus_per_node is None:
        return usable or (0 if view.gpus or view.gpu_problem else 1)
    return 1 if spec.gpus_per_node == 0 else spec.gpus_per_node if usable >= spec.gpus_per_node else 0


def _free(spec: JobSpec, view: NodeView, held: Mapping[str, str]) -> tuple[str, ...] | None:
    """The GPUs the job would get on a node (none of them for a CPU rank), or None when it does not fit now."""
    ranks = _most_ranks(spec, view)
    usable = _usable(view)
    if not ranks:
        return None
    if spec.gpus_per_node == 0 or not usable:
        return None if _cpu(view.node) in held else ()
    free = tuple(uuid for uuid in usable if uuid not in held)
    return free[:ranks] if len(free) >= ranks else None


def _busy(name: str, view: NodeView, held: Mapping[str, str]) -> str:
    holders = sorted({held[key] for key in (*_usable(view), _cpu(name)) if key in held})
    return f"{name} is held by {', '.join(holders)}" if holders else f"{name}: {_gpus_in_words(view)}"


def _gpus_in_words(view: NodeView | NodeError) -> str:
    if isinstance(view, NodeError):
        return view.message
    usable = len(_usable(view))
    broken = [f"{gpu.name}: {gpu.problem}" for gpu in view.gpus if gpu.problem]
    parts = [_count(usable, "usable GPU"), *broken, *([view.gpu_problem] if view.gpu_problem else [])]
    return ", ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _cpu(node: str) -> str:
    return f"cpu:{node}"
