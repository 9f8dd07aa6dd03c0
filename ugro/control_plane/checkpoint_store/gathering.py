"""What the nodes' checkpoints are together, and which one to go on from: pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from ugro.common.errors import InputError
from ugro.common.models import Checkpoint, FoundCheckpoint, Place
from ugro.common.text import count

SPLIT_KINDS = ("distributed", "deepspeed")
"""Of these each rank writes its own part, to the disk of its node."""

CLOCK_SLACK = 2.0
"""Seconds that a node's clock may differ from what was measured."""

_OF_RANK = re.compile(r"zero_pp_rank_(\d+)_")

Sightings = Mapping[str, FoundCheckpoint]
"""One checkpoint as each node has it."""


def gather(found: Mapping[str, Iterable[FoundCheckpoint]], clock_offsets: Mapping[str, float]) -> list[Checkpoint]:
    """The checkpoints of a job by step, the oldest first; `clock_offsets` are the nodes' clocks minus the master's.

    Nodes that share a disk see the same ones, nodes that do not may each have a copy, or a part.
    """
    groups: dict[tuple[str, str], dict[str, FoundCheckpoint]] = {}
    for node, sightings in found.items():
        for one in sightings:
            groups.setdefault((one.kind, one.name), {})[node] = one
    merged = [_merge(sightings, clock_offsets) for sightings in groups.values()]
    return sorted(merged, key=lambda one: (-1 if one.step is None else one.step, one.saved_at, one.name))


def newest_whole(checkpoints: Sequence[Checkpoint], step: int | None = None) -> Checkpoint:
    """The one to go on from: that of a step, or else the furthest one that is whole.

    Raises:
        InputError: there is none; the message says what there is.
    """
    whole = [one for one in checkpoints if one.problem is None and one.step is not None]
    wanted = [one for one in whole if step is None or one.step == step]
    if wanted:
        return max(wanted, key=lambda one: (one.step or 0, one.saved_at))
    torn = [f"{one.name} {one.problem}" for one in checkpoints if one.problem and step in (None, one.step)]
    steps = ", ".join(str(number) for number in sorted({one.step for one in whole if one.step is not None})[-8:])
    there = f"whole are those of step {steps}" if steps else "none is whole"
    if torn:
        raise InputError(f"no checkpoint to go on from: {'; '.join(torn[-3:])}", there)
    asked = "no checkpoint was found" if step is None else f"there is no checkpoint of step {step}"
    elsewhere = "name the directory they are written to: --checkpoints DIR; or begin anew: --from 0"
    raise InputError(asked, there if checkpoints else elsewhere)


def newest_since(
    asked_at: float, before: Sequence[Checkpoint], now: Sequence[Checkpoint], saw_all: bool
) -> Checkpoint | None:
    """The whole checkpoint that answers a request of `asked_at` (on the scale of `saved_at`), if there is one.

    It was not there `before`, and was saved since, or is further than all that were. `saw_all`: the look before missed
    no node, so that nothing further can have been there. Both looks go by the same clock offsets.
    """
    known = {(one.kind, one.name, one.step, one.saved_at) for one in before if one.problem is None}
    furthest = max((one.step for one in before if one.problem is None and one.step is not None), default=-1)

    def answers(one: Checkpoint) -> bool:
        if one.problem is not None or (one.kind, one.name, one.step, one.saved_at) in known:
            return False
        return one.saved_at >= asked_at - CLOCK_SLACK or (saw_all and one.step is not None and one.step > furthest)

    return max(filter(answers, now), key=lambda one: one.saved_at, default=None)


def _merge(sightings: Sightings, clock_offsets: Mapping[str, float]) -> Checkpoint:
    nodes = list(sightings)
    first = sightings[nodes[0]]
    if first.kind in SPLIT_KINDS:
        problem, holders = _of_parts(sightings)
        split = len(holders) > 1 and not _alike(sightings)
    else:
        problem, holders, split = _of_copies(sightings)
    parts = [sightings[node] for node in holders]
    return Checkpoint(
        step=first.step,
        kind=first.kind,
        name=first.name,
        bytes=sum(one.bytes for one in parts) if split else parts[0].bytes,
        saved_at=max(sightings[node].saved_at - clock_offsets.get(node, 0.0) for node in holders),
        places=tuple(Place(node=node, path=sightings[node].path) for node in holders),
        split=split,
        problem=problem,
    )


def _of_copies(sightings: Sightings) -> tuple[str | None, list[str], bool]:
    """What is wrong with a checkpoint of which one node has what matters, the nodes that have it, and whether others
    have parts that it lacks, as the random states that Hugging Face's Trainer leaves on the nodes of their ranks.
    """
    whole = [node for node, one in sightings.items() if one.problem is None]
    if not whole:
        fullest = max(sightings.values(), key=lambda one: one.files)  # the others have only such parts
        return fullest.problem, list(sightings), False
    there = {shard for node in whole for shard in sightings[node].shards}
    others = [node for node, one in sightings.items() if node not in whole and not there.issuperset(one.shards)]
    return None, [whole[0], *others] if others else whole, bool(others)


def _alike(sightings: Sightings) -> bool:
    """Whether all nodes have the same parts: they share a disk, or hold copies."""
    return len({one.shards for one in sightings.values()}) == 1


def _of_parts(sightings: Sightings) -> tuple[str | None, list[str]]:
    """What is wrong with a checkpoint whose parts lie on several nodes, and the nodes that are needed for it."""
    nodes = list(sightings)
    if torn := next((one.problem for one in sightings.values() if one.problem), None):
        return torn, nodes
    here = {shard for one in sightings.values() for shard in one.shards}
    if sightings[nodes[0]].kind == "deepspeed":
        ranks = {int(match[1]) for shard in here if (match := _OF_RANK.search(shard))}
        missing = {str(rank) for rank in set(range(max(ranks, default=-1) + 1)) - ranks}
    else:
        told = [one.needs for one in sightings.values() if one.needs is not None]
        if not told:
            return "has no .metadata: its save did not come to its end", nodes
        missing = set(told[0]) - here
    if missing:
        return f"lacks {count(len(missing), 'part')} that no node has ({', '.join(sorted(missing)[:3])})", nodes
    whole = [node for node in nodes if set(sightings[node].shards) == here and sightings[node].needs is not None]
    return None, whole or nodes
