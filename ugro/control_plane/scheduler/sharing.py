"""Packs a job that shares a GPU: the fewest GPUs in use, then the least memory left over. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ugro.common.job_spec import JobSpec
from ugro.common.models.job import NodeShare, Placement
from ugro.common.text import some
from ugro.control_plane.resource_manager.governor import Slot
from ugro.control_plane.resource_manager.tenants import part_of_gpu
from ugro.control_plane.scheduler.room import Room, declared_mib, room_beside


def pack(spec: JobSpec, names: Sequence[str], room: Room) -> Placement | None:
    """Place a job on a GPU that it shares, or return None where none has room for it now.

    A GPU that is shared already is preferred, then the one of which least is left.
    """
    found = [
        (not (beside := room.sharers(slot.key)), room_beside(spec, slot, beside.values()), place, number, name, slot)
        for place, name in enumerate(names)
        for number, part in enumerate(room.parts(spec, name))
        for slot in part.slots
    ]
    if not found:
        return None
    _, left, _, _, node, slot = min(found, key=lambda one: one[:4])
    part = part_of_gpu(declared_mib(spec, slot) or 0, slot.total_mib or slot.memory_mib)
    share = NodeShare(node=node, node_rank=0, first_rank=0, nproc=1, gpus=(slot.key,), part=part)
    return Placement(shares=(share,), why=_why(node, slot, part.memory_mib, left, room))


def _why(node: str, slot: Slot, mib: int, left: int, room: Room) -> str:
    others = room.sharers(slot.key)
    beside = f"with {some(tuple(others))}" if others else "as the first"
    declared, usable = mib + sum(others.values()), slot.memory_mib or 0
    memory = f"{gib(declared)} of {gib(usable)} GiB declared, {gib(left)} free"
    return f"shares {slot_title(slot)} of {node} {beside}: {memory}"


def slot_title(slot: Slot) -> str:
    """Return a GPU's index, or its name where the driver reports none."""
    return slot.name if slot.index is None else f"GPU {slot.index}"


def gib(mib: int) -> str:
    """Return memory in GiB with one digit, without the unit."""
    return f"{mib / 1024:.1f}"
