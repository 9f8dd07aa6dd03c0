"""Free slots of the nodes, and each node's possible allocations to a job: plain data, no I/O."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from ugro.common.job_spec import JobSpec
from ugro.control_plane.resource_manager.governor import Capacity, Slot, cpu_key
from ugro.control_plane.resource_manager.tenants import MOST_SHARERS


@dataclass(frozen=True)
class Allocation:
    """One node's allocation to a gang. `memory_mib` is of all its GPUs, infinity if the memory of one is unknown."""

    node: str
    slots: tuple[Slot, ...]
    models: frozenset[str]
    memory_mib: float


Asked = tuple[int | None, int | None, int | None, float | str | None]
"""The request that decides whether a job fits on a node: GPUs in all, GPUs of each node, its memory's size class
(of a job that shares a GPU, the memory itself), and its share.
"""

Shape = tuple[int | tuple[str, ...] | None, Asked]
"""The request that decides where a job fits: nodes, and its request to each."""


class Room:
    """Free slots of the nodes: their capacities without those that jobs have taken."""

    def __init__(
        self,
        capacities: Mapping[str, Capacity],
        taken: Iterable[str] = (),
        sharers: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
    ) -> None:
        """`taken` are the slots that jobs have alone; `sharers` the MiB of the jobs that share a slot, by its key."""
        self._capacities = capacities
        self._taken = set(taken)
        self._sharers = {key: dict(jobs) for key, jobs in sharers.items()}
        self._nodes = {slot.key: name for name, capacity in capacities.items() for slot in capacity.slots}
        self._nodes |= {cpu_key(name): name for name in capacities}
        self._sizes = sorted({slot.memory_mib or 0 for capacity in capacities.values() for slot in capacity.slots})
        self.fastest = max((rate for capacity in capacities.values() for rate in capacity.links.values()), default=0.0)
        """The rate of the fastest link in Gbit/s; 0: none was measured."""
        self._found: dict[str, dict[Asked, tuple[Allocation, ...]]] = {}

    def copy(self) -> Room:
        """Another room that is the same so far."""
        return Room(self._capacities, self._taken, self._sharers)

    def take(self, keys: Iterable[str], job: str = "", shared_mib: int | None = None) -> None:
        """Count these slots as taken; with `shared_mib`, as shared by a job that declared so much memory."""
        for key in keys:
            if shared_mib is None:
                self._taken.add(key)
            else:
                self._sharers.setdefault(key, {})[job] = shared_mib
            self._found.pop(self._nodes.get(key, ""), None)

    def give(self, keys: Iterable[str], job: str = "", shared_mib: int | None = None) -> None:
        """Count these slots as free of what was taken."""
        for key in keys:
            if shared_mib is None:
                self._taken.discard(key)
            else:
                self._sharers.get(key, {}).pop(job, None)
            self._found.pop(self._nodes.get(key, ""), None)

    def sharers(self, key: str) -> Mapping[str, int]:
        """The jobs that share a slot, with the MiB that each declared."""
        return self._sharers.get(key, {})

    def nodes_of(self, keys: Iterable[str]) -> set[str]:
        """The nodes that have these slots."""
        return {self._nodes[key] for key in keys if key in self._nodes}

    def slowest(self, nodes: Sequence[str], unknown: float) -> float:
        """The rate of the slowest link between these nodes, in Gbit/s; `unknown` stands for one not measured."""
        pairs = ((one, other) for number, one in enumerate(nodes) for other in nodes[:number])
        return min((self.rate(one, other, unknown) for one, other in pairs), default=math.inf)

    def rate(self, one: str, other: str, unknown: float = 0.0) -> float:
        """The rate of one link, likewise."""
        return self._capacities[one].links.get(other, unknown)

    def shape(self, spec: JobSpec) -> Shape:
        """Return the shape of a job: two jobs of one shape fit into the same places."""
        # Requests for memory between the same two sizes of GPUs are alike, however many different ones there are.
        memory = None if spec.vram is None else bisect_left(self._sizes, spec.vram)
        memory = memory if spec.share is None else spec.vram  # it is added to that of others
        return spec.nodes, (spec.gpus, spec.gpus_per_node, memory, spec.share)

    def parts(self, spec: JobSpec, node: str) -> tuple[Allocation, ...]:
        """Return the node's possible allocations to the job now: one for each suitable GPU model, or one of mixed ones.

        For a job that asks for GPUs in all: every free one. For one that shares a GPU: one for each that has room.
        """
        shape = self.shape(spec)[1]
        found = self._found.setdefault(node, {})
        if shape not in found:
            found[shape] = self._look(spec, node)
        return found[shape]

    def free(self, spec: JobSpec, node: str) -> tuple[Slot, ...]:
        """The GPUs that the node could give a job that asks for GPUs in all."""
        return next((part.slots for part in self.parts(spec, node)), ())

    def _look(self, spec: JobSpec, node: str) -> tuple[Allocation, ...]:
        capacity = self._capacities.get(node)
        if capacity is None or capacity.refusal:
            return ()
        asked = suited(spec, capacity)
        free = [slot for slot in asked if slot.key not in self._taken and slot.key not in capacity.busy]
        if spec.share is not None:
            beside = {slot.key: self.sharers(slot.key).values() for slot in free}
            return tuple(part_of(node, [slot]) for slot in free if room_beside(spec, slot, beside[slot.key]) >= 0)
        free = [slot for slot in free if not self.sharers(slot.key)]
        if spec.gpus_in_all is not None:
            return (part_of(node, free),) if free else ()
        wanted = spec.gpus_per_node
        if wanted:
            return tuple(part_of(node, slots) for slots in pick(spec, free, wanted))
        return (part_of(node, asked),) if asked and len(free) == len(asked) else ()


def room_beside(spec: JobSpec, slot: Slot, declared: Collection[int]) -> int:
    """Return what a job that shares a GPU leaves of it beside what others declared, in MiB; below 0: it has no room."""
    mib = declared_mib(spec, slot)
    if mib is None or slot.memory_mib is None or len(declared) >= MOST_SHARERS:
        return -1
    return slot.memory_mib - slot.undeclared_mib - sum(declared) - mib


def declared_mib(spec: JobSpec, slot: Slot) -> int | None:
    """Return what a job that shares a GPU declares of this one, in MiB; None: the GPU's size is unknown."""
    if slot.memory_mib is None:
        return None
    if isinstance(spec.share, float):
        return int(max(0, slot.memory_mib - slot.undeclared_mib) * spec.share)
    return spec.vram


def nodes_wanted(spec: JobSpec, names: Sequence[str]) -> int:
    """Return on how many of these nodes the job runs."""
    if spec.share is not None:
        return 1
    return spec.nodes if isinstance(spec.nodes, int) else len(names)


def suited(spec: JobSpec, capacity: Capacity) -> tuple[Slot, ...]:
    """The slots of a node that the job could use, free or not."""
    if spec.gpus_per_node == 0:
        return (Slot(cpu_key(capacity.node), "CPU"),)
    if spec.share is not None:
        return tuple(slot for slot in capacity.gpus if room_beside(spec, replace(slot, undeclared_mib=0), ()) >= 0)
    any_slot = spec.gpus is None and spec.gpus_per_node is None and spec.vram is None
    slots = capacity.slots if any_slot else capacity.gpus
    return tuple(slot for slot in slots if not too_small(spec, slot))


def too_small(spec: JobSpec, slot: Slot) -> bool:
    """Whether a GPU is known to have less memory than the job asks for."""
    return spec.vram is not None and slot.memory_mib is not None and slot.memory_mib < spec.vram


def pick(spec: JobSpec, free: Sequence[Slot], wanted: int) -> list[list[Slot]]:
    """The ways to take so many of a node's free GPUs: all of one model, or else of as few models as possible."""
    if len(free) < wanted:
        return []
    groups: dict[str, list[Slot]] = {}
    for slot in free:
        groups.setdefault(slot.name, []).append(slot)
    if spec.vram is not None:
        for group in groups.values():
            group.sort(key=_memory)
    pure = [group[:wanted] for group in groups.values() if len(group) >= wanted]
    largest_first = [slot for group in sorted(groups.values(), key=len, reverse=True) for slot in group]
    return [[slot for slot in free if slot in picked] for picked in pure or [largest_first[:wanted]]]


def part_of(node: str, slots: Sequence[Slot]) -> Allocation:
    return Allocation(node, tuple(slots), frozenset(slot.name for slot in slots), sum(map(_memory, slots)))


def _memory(slot: Slot) -> float:
    # A GPU of unknown size comes after all that are known to be large enough.
    return math.inf if slot.memory_mib is None else slot.memory_mib


def waste(spec: JobSpec, part: Allocation) -> float:
    """Return the memory in MiB that the job does not ask for; 0 for a job that does not declare its need."""
    return 0 if spec.vram is None else part.memory_mib - len(part.slots) * spec.vram
