"""Divides a number of GPUs in all among nodes: the fewest nodes, then even counts. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from ugro.common.job_spec import JobSpec
from ugro.control_plane.resource_manager.governor import Capacity, Slot
from ugro.control_plane.scheduler.room import Allocation, Room, part_of, pick, suited, waste

Pool = Mapping[str, Sequence[Slot]]
"""Free GPUs by node, in the order of the node ranks."""


def usable_gpus(spec: JobSpec, capacities: Iterable[Capacity]) -> int:
    """Return how many GPUs of these nodes would do for a job, free or not; of a number of nodes, the largest."""
    counts = sorted((len(suited(spec, capacity)) for capacity in capacities if not capacity.refusal), reverse=True)
    return sum(counts[: spec.nodes] if isinstance(spec.nodes, int) else counts)


def fewest_nodes(spec: JobSpec, names: Sequence[str], room: Room) -> int | None:
    """Return on how many nodes the job's GPUs are free: the fewest, or the number requested; None: on none."""
    counts = sorted((len(room.free(spec, name)) for name in names), reverse=True)
    counts = [number for number in counts if number]
    wanted = spec.gpus_in_all or 0
    if isinstance(spec.nodes, int):
        return spec.nodes if len(counts) >= spec.nodes and sum(counts[: spec.nodes]) >= wanted else None
    return next((nodes for nodes, total in enumerate(accumulate(counts), 1) if total >= wanted), None)


def uneven_parts(spec: JobSpec, names: Sequence[str], room: Room, number: int) -> list[list[Allocation]]:
    """Return ways to place a job's GPUs on so many nodes, as evenly as their free GPUs allow; the usual way first.

    GPUs of one model are preferred, then little wasted memory. The others are those that start with another node and
    grow along the fastest links.
    """
    free: dict[str, Sequence[Slot]] = {name: room.free(spec, name) for name in names}
    models = dict.fromkeys(slot.name for slots in free.values() for slot in slots)
    pure: list[Pool] = [
        {name: [slot for slot in slots if slot.name == model] for name, slots in free.items()} for model in models
    ]
    ways = [(pool, parts) for pool in pure if (parts := _largest(spec, pool, number))]
    if not ways:
        ways = [(free, parts) for parts in [_largest(spec, free, number)] if parts]
    if not ways:
        return []
    pool, usual = min(ways, key=lambda way: sum(waste(spec, part) for part in way[1]))
    linked = [_grown(spec, pool, first, number, room) for first in pool] if room.fastest else []
    return [usual, *(parts for parts in linked if parts)]


def _largest(spec: JobSpec, pool: Pool, number: int) -> list[Allocation]:
    """The parts on the nodes with most GPUs; nothing where these are too few."""
    chosen = sorted((name for name in pool if pool[name]), key=lambda name: -len(pool[name]))[:number]
    return _parts(spec, pool, chosen, number)


def _grown(spec: JobSpec, pool: Pool, first: str, number: int, room: Room) -> list[Allocation]:
    """The parts on a node and those that the fastest links lead to; nothing where their GPUs are too few."""
    chosen, rest = [first], [name for name in pool if name != first and pool[name]]
    while rest and len(chosen) < number:
        reach = {name: min(room.rate(name, other) for other in chosen) for name in rest}
        chosen.append(max(rest, key=lambda name: (reach[name], len(pool[name]))))
        rest.remove(chosen[-1])
    return _parts(spec, pool, chosen if pool[first] else [], number)


def _parts(spec: JobSpec, pool: Pool, chosen: Sequence[str], number: int) -> list[Allocation]:
    wanted = spec.gpus_in_all or 0
    if len(chosen) < number or sum(len(pool[name]) for name in chosen) < wanted:
        return []
    names = [name for name in pool if name in chosen]
    counts = even_counts(wanted, [len(pool[name]) for name in names])
    return [part_of(name, pick(spec, pool[name], each)[0]) for name, each in zip(names, counts, strict=True)]


def even_counts(total: int, limits: Sequence[int]) -> list[int]:
    """Divide a total as evenly as limits allow, at least 1 each; the limits have room for it."""
    counts = [1] * len(limits)
    for _ in range(total - len(limits)):
        least = min((at for at, limit in enumerate(limits) if counts[at] < limit), key=lambda at: counts[at])
        counts[least] += 1
    return counts
