"""Choose the nodes and GPUs of one gang, with the least waste: pure functions over plain data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from ugro.common.config import Inventory
from ugro.common.job_spec import JobSpec
from ugro.common.models.job import NodeShare, Placement
from ugro.common.models.metrics import MeasuredLink
from ugro.control_plane.resource_manager.governor import Capacity, Slot, cpu_key
from ugro.control_plane.resource_manager.tenants import MOST_SHARERS
from ugro.control_plane.scheduler.gpu_count import fewest_nodes, uneven_parts, usable_gpus
from ugro.control_plane.scheduler.pending_reasons import (
    GpuBusy,
    GpuFull,
    GpuLeftOut,
    Holder,
    NodeHeld,
    NodeReason,
    NodeRefuses,
    NotInInventory,
    TooFewGpus,
)
from ugro.control_plane.scheduler.room import Allocation, Room, nodes_wanted, room_beside, suited, too_small, waste
from ugro.control_plane.scheduler.sharing import pack, slot_title

FASTER = 1.25
"""Times as fast as the usual choice's that the slowest link of other nodes has to be: measurements vary."""


Entry = tuple[float, int, Allocation]
"""The memory in MiB that an allocation wastes, the place of its node in the order of the names, and itself."""

Ways = Mapping[frozenset[str], Sequence[Entry]]
"""The candidates by GPU models."""


def choose(spec: JobSpec, names: Sequence[str], room: Room) -> Placement | None:
    """Place an entire gang on the best of these nodes; None: it does not fit now.

    GPUs in all go to the fewest nodes that have them free, equally many of each where that is possible. A job that
    shares a GPU is packed beside others.
    """
    if spec.share is not None:
        return pack(spec, names, room)
    if spec.gpus_in_all is None:
        return _on_each(spec, names, room)
    number = fewest_nodes(spec, names, room)
    if number is None:
        return None
    each, rest = divmod(spec.gpus_in_all, number)
    equal = spec.model_copy(update={"nodes": number, "gpus": None, "gpus_per_node": each})
    if not rest and (placement := _on_each(equal, names, room)):
        return placement
    usual, *others = uneven_parts(spec, names, room, number)
    return _faster(spec, usual, others, room)


def _on_each(spec: JobSpec, names: Sequence[str], room: Room) -> Placement | None:
    """Place a job that asks for nodes, with GPUs of each.

    Preferred are few different GPU models, then little wasted memory, then links that are known to be faster, then
    nodes that come early. Models are added greedily, so their number is the least possible when one suffices. Node
    ranks follow the order of the names.
    """
    wanted = nodes_wanted(spec, names)
    ways: dict[frozenset[str], list[Entry]] = {}
    missing = 0
    for place, name in enumerate(names):
        parts = room.parts(spec, name)
        missing += not parts
        if len(names) - missing < wanted:
            return None
        for part in parts:
            ways.setdefault(part.models, []).append((waste(spec, part), place, part))
    usual = _gather(ways, wanted, {}, None)
    return _better_linked(spec, ways, usual, room) if room.fastest else _placement(spec, usual)


def link_rates(links: Iterable[MeasuredLink]) -> dict[str, dict[str, float]]:
    """The rate between two nodes, in Gbit/s: that of the slower direction, by either node and the other.

    What NCCL measured is not compared with what gloo did: as soon as there is any of it, the rest is left out.
    """
    measured = list(links)
    of_gpus = [link for link in measured if link.backend == "nccl"]
    rates: dict[str, dict[str, float]] = {}
    for link in of_gpus or measured:
        for one, other in ((link.source, link.target), (link.target, link.source)):
            known = rates.setdefault(one, {})
            known[other] = min(known.get(other, math.inf), link.gbit_per_s)
    return rates


def candidates(spec: JobSpec, inventory: Inventory) -> list[str]:
    """The nodes a job may be placed on, in the order of their node ranks.

    Raises:
        InputError: it names a node that is not in the inventory.
    """
    if isinstance(spec.nodes, tuple):
        return [inventory.node(name).name for name in spec.nodes]
    return list(inventory.nodes)


def shortfalls(
    spec: JobSpec, node: str, capacity: Capacity | None, holders: Mapping[str, Sequence[Holder]]
) -> list[NodeReason]:
    """Return why a node does not take a job. `holders` has the jobs that hold each taken slot: one, or sharers."""
    if capacity is None:
        return [NotInInventory(node)]
    if capacity.refusal:
        return [NodeRefuses(node, capacity.refusal)]
    asked = suited(spec, capacity)
    found: list[NodeReason] = []
    shared = [slot for slot in asked if spec.share is not None and any(one.shared for one in holders.get(slot.key, ()))]
    found += [full for slot in shared if (full := _full(spec, node, slot, holders[slot.key]))]
    if held := sorted({one for slot in asked if slot not in shared for one in holders.get(slot.key, ())}):
        # A CPU rank takes all cores as a rule, and nothing says how many: so there is one a node at a time.
        found.append(NodeHeld(node, tuple(held), cpu=bool(capacity.gpus) and asked[0].key == cpu_key(node)))
    found += [GpuBusy(node, capacity.busy[slot.key]) for slot in asked if slot.key in capacity.busy]
    if len(asked) < (spec.gpus_per_node or 1):
        small = any(too_small(spec, slot) for slot in capacity.gpus)
        found.append(TooFewGpus(node, len(capacity.gpus), sizes(capacity), capacity.left_out, small))
    else:
        found += [GpuLeftOut(node, problem) for problem in capacity.left_out]
    return found


def _full(spec: JobSpec, node: str, slot: Slot, holders: Sequence[Holder]) -> GpuFull | None:
    declared = [one.shared_mib or 0 for one in holders]
    if room_beside(spec, slot, declared) >= 0:
        return None
    usable = slot.memory_mib or 0
    left = max(0, usable - slot.undeclared_mib - sum(declared))
    return GpuFull(node, slot_title(slot), left, usable, tuple(sorted(holders)), len(declared) >= MOST_SHARERS)


def smaller_request(spec: JobSpec, wanted: int, capacities: Mapping[str, Capacity]) -> str:
    """The options with which a job that is too large for so many of these nodes would fit; nothing if none help."""
    if spec.gpus_in_all is not None:
        in_all = usable_gpus(spec, capacities.values())
        return f"--gpus {in_all}" if in_all else ""
    usable = {name: len(suited(spec, capacity)) for name, capacity in capacities.items()}
    gpus = min(spec.gpus_per_node or 1, max(usable.values(), default=0))
    able = [name for name, number in usable.items() if number >= gpus > 0]
    nodes = f"--nodes {','.join(able)}" if 0 < len(able) < wanted else ""
    fewer = f"--gpus-per-node {gpus}" if 0 < gpus < (spec.gpus_per_node or 1) else ""
    return " ".join(filter(None, (nodes, fewer)))


def sizes(capacity: Capacity) -> tuple[int, ...]:
    """Return the different memory sizes of a node's usable GPUs, in MiB, smallest first."""
    return tuple(sorted({slot.memory_mib for slot in capacity.gpus if slot.memory_mib is not None}))


def _gather(ways: Ways, wanted: int, chosen: Mapping[int, Allocation], links: Room | None) -> list[Allocation]:
    """The chosen parts and the best others, so many in all. Between equal ones the links decide, or else the order."""
    while len(chosen) < wanted:
        found = [_worth(models, way, chosen, wanted, links) for models, way in ways.items()]
        chosen = {**chosen, **min(found, key=lambda way: way[0])[1]}
    return [chosen[place] for place in sorted(chosen)]


def _better_linked(spec: JobSpec, ways: Ways, usual: Sequence[Allocation], room: Room) -> Placement:
    """The usual choice, or one that is as good and whose links are known to be faster."""
    slow = room.slowest(_nodes(usual), unknown=math.inf)
    if room.fastest <= FASTER * slow:
        return _placement(spec, usual)
    wanted = len(usual)
    begun = [_worth(models, way, {}, wanted, room)[1] for models, way in ways.items()]
    return _faster(spec, usual, [_gather(ways, wanted, chosen, room) for chosen in begun], room)


def _faster(spec: JobSpec, usual: Sequence[Allocation], found: Sequence[list[Allocation]], room: Room) -> Placement:
    """The usual choice, or one of those found that is as good and whose links are known to be faster."""
    slow = room.slowest(_nodes(usual), unknown=math.inf)
    alike = [parts for parts in found if _quality(spec, parts) == _quality(spec, usual)]
    linked = max(alike, key=lambda parts: room.slowest(_nodes(parts), unknown=0.0), default=usual)
    fast = room.slowest(_nodes(linked), unknown=0.0)
    if fast <= FASTER * slow:
        return _placement(spec, usual)
    return _placement(spec, linked, f"its links are the fastest: {_rate(fast)} against {_rate(slow)}")


def _quality(spec: JobSpec, parts: Sequence[Allocation]) -> tuple[int, float]:
    """Return what matters more than links: the number of GPU models, and the wasted memory."""
    models = frozenset[str]().union(*(part.models for part in parts))
    return len(models), sum(waste(spec, part) for part in parts)


def _nodes(parts: Iterable[Allocation]) -> list[str]:
    return [part.node for part in parts]


def _worth(
    models: frozenset[str], way: Sequence[Entry], chosen: Mapping[int, Allocation], wanted: int, links: Room | None
) -> tuple[tuple[bool, int, int, float, float, list[int]], dict[int, Allocation]]:
    """Return the worth of one way (less is better), and the allocations that it adds to the chosen ones."""
    rest = wanted - len(chosen)
    entries = sorted(entry for entry in way if entry[1] not in chosen) if chosen else sorted(way)
    best, speed = entries[:rest], 0.0
    if links:
        fixed = _nodes(chosen.values())
        best = _best_linked(entries, rest, fixed, links)
        speed = links.slowest([*fixed, *_nodes(part for _, _, part in best)], unknown=0.0)
    used = frozenset[str]().union(*(part.models for part in chosen.values()))
    places = [place for _, place, _ in best]
    worth = (len(best) < rest, -len(best), len(models - used), sum(waste for waste, _, _ in best), -speed, places)
    return worth, {place: part for _, place, part in best}


def _best_linked(entries: Sequence[Entry], wanted: int, fixed: Sequence[str], links: Room) -> list[Entry]:
    """Return `wanted` of the sorted entries with the least waste; among equal ones the set with fast links.

    A set grows from each of them by the one with the fastest way to all before it. That finds the best set where a way
    is as fast as its slowest port or switch, as ways are; trying all sets would take too long.
    """
    if len(entries) <= wanted:
        return list(entries)
    most = entries[wanted - 1][0]
    sure = [entry for entry in entries if entry[0] < most]
    equal = [entry for entry in entries if entry[0] == most]
    fixed = [*fixed, *_nodes(part for _, _, part in sure)]
    reach = {part.node: min((links.rate(part.node, node) for node in fixed), default=math.inf) for _, _, part in equal}
    grown = (_grow(first, equal, wanted - len(sure), reach, links) for first in equal)
    return sure + max(grown, key=lambda found: found[0])[1]


def _grow(
    first: Entry, entries: Sequence[Entry], wanted: int, reach: Mapping[str, float], links: Room
) -> tuple[float, list[Entry]]:
    """A set that begins with one entry, and the rate of its slowest link. `reach` has the rates to what is fixed."""
    rest = {entry[1]: entry for entry in entries}
    reach, found, slowest = dict(reach), [], math.inf
    following: Entry = first
    while True:
        node = following[2].node
        found.append(rest.pop(following[1]))
        slowest = min(slowest, reach[node])
        if len(found) == wanted:
            return slowest, found
        for _, _, part in rest.values():
            reach[part.node] = min(reach[part.node], links.rate(part.node, node))
        following = max(rest.values(), key=lambda entry: reach[entry[2].node])


def _rate(gbit_per_s: float) -> str:
    return f"{gbit_per_s:.3g} Gbit/s" if gbit_per_s >= 1 else f"{gbit_per_s * 1000:.0f} Mbit/s"


def _placement(spec: JobSpec, parts: Iterable[Allocation], why: str = "") -> Placement:
    shares: list[NodeShare] = []
    first = 0
    for part in parts:
        gpus = tuple(slot.key for slot in part.slots if slot.key != cpu_key(part.node))
        nproc = 1 if spec.one_process else max(1, len(gpus))
        shares.append(NodeShare(node=part.node, node_rank=len(shares), first_rank=first, nproc=nproc, gpus=gpus))
        first += nproc
    return Placement(shares=tuple(shares), why=why)
