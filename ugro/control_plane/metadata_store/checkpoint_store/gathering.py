"""Combine the nodes' checkpoints, and choose the one to resume from: pure functions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ugro.common.errors import InputError
from ugro.common.models.checkpoint import Checkpoint, FoundCheckpoint
from ugro.common.models.place import Place
from ugro.common.text import count
from ugro.control_plane.metadata_store.checkpoint_store.lineage import (
    CLOCK_SLACK,
    WritingAttempt,
    lineage,
    of_other_branch,
    writer,
)
from ugro.control_plane.metadata_store.checkpoint_store.parts import by_ranks, lacking, ranks_in, together

SPLIT_KINDS = ("distributed", "deepspeed", "ranks")
"""Kinds of which each rank writes its own part, to the disk of its node."""

Sightings = Mapping[str, FoundCheckpoint]
"""One checkpoint as each node has it."""


def gather(
    found: Mapping[str, Iterable[FoundCheckpoint]],
    clock_offsets: Mapping[str, float],
    runs: Sequence[WritingAttempt] = (),
) -> list[Checkpoint]:
    """The checkpoints of a job by step, the oldest first; `clock_offsets` are the nodes' clocks minus the master's.

    Nodes that share a disk see the same ones, nodes that do not may each have a copy, or a part. What two of its
    attempts (`runs`) saved under one name is two checkpoints, and what was there before the first is none.
    """
    groups: dict[tuple[Any, ...], dict[str, FoundCheckpoint]] = {}
    most = max((run.ranks or 0 for run in runs), default=0)
    for same in _on_one_disk({node: together(sightings, most) for node, sightings in found.items()}):
        node, seen = next(iter(same.items()))
        attempt = writer(runs, seen.saved_at - clock_offsets.get(node, 0.0), same)
        if attempt is not None or not runs:
            groups.setdefault((attempt, seen.kind, seen.name, seen.step, seen.epoch), {}).update(same)
    known = lineage(runs) if runs else {}
    merged = []
    for (attempt, *_), sightings in groups.items():
        run = next((run for run in runs if run.attempt == attempt), None)
        one = _merge({node: sightings[node] for node in found if node in sightings}, clock_offsets, run, runs, found)
        merged.append(one.model_copy(update={"other_branch": of_other_branch(one, attempt, known)}))
    return in_order(merged)


def in_order(checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """Sort by step, then by the time of the save; checkpoints without a step come first."""
    return sorted(checkpoints, key=lambda one: (-1 if one.step is None else one.step, one.saved_at, one.name))


def _on_one_disk(found: Mapping[str, Iterable[FoundCheckpoint]]) -> list[dict[str, FoundCheckpoint]]:
    """Group what nodes that share a disk have: the same checkpoint, saved at the very same time."""
    seen: dict[tuple[Any, ...], dict[str, FoundCheckpoint]] = {}
    for node, sightings in found.items():
        for one in sightings:
            seen.setdefault((one.kind, one.name, one.step, one.saved_at, one.shards), {})[node] = one
    return list(seen.values())


def newest_whole(checkpoints: Sequence[Checkpoint], step: int | None = None) -> Checkpoint:
    """Return the checkpoint to resume from: that of a step, or else the furthest complete one in the latest attempt's
    lineage. Where a checkpoint has no step, `step` is an epoch.

    Raises:
        InputError: there is none; the message lists those that exist.
    """
    whole = [one for one in checkpoints if one.problem is None and one.position is not None]
    if step is None:
        own = [one for one in whole if not one.other_branch]
        if own:
            return _furthest([one for one in own if not one.weights_only] or own)
    elif wanted := [one for one in whole if step == one.position]:
        return max(
            wanted,
            key=lambda one: (
                one.step is not None, not one.other_branch, one.attempt or 0, not one.weights_only, one.epoch or 0,
                one.saved_at,
            ),
        )  # fmt: skip
    raise _none_whole(checkpoints, whole, step)


def _furthest(there: Sequence[Checkpoint]) -> Checkpoint:
    """Return the furthest one; between the best with a step and the best without, the one that was saved later."""
    epochs = all(one.epoch is not None for one in there)  # a step may be counted within its epoch
    stepped = [one for one in there if one.step is not None]
    others = [one for one in there if one.step is None]
    best = [
        max(ones, key=lambda one: ((one.epoch or 0) if epochs or one.step is None else 0, one.step or 0, one.saved_at))
        for ones in (stepped, others)
        if ones
    ]
    return max(best, key=lambda one: one.saved_at)


def _none_whole(checkpoints: Sequence[Checkpoint], whole: Sequence[Checkpoint], step: int | None) -> InputError:
    torn = [f"{one.name} {one.problem}" for one in checkpoints if one.problem and step in (None, one.step)]
    unordered = [f"{one.name} shows no step" for one in checkpoints if one.problem is None and one.position is None]
    steps = ", ".join(dict.fromkeys(str(one.position) for one in in_order(whole)[-8:]))
    there = f"complete ones are of step {steps}: choose one with --from STEP" if steps else "start again: --from 0"
    if step is None and whole:
        there = f"other branches have {_branches(whole)}; choose one with --from STEP, or start again with --from 0"
    if torn:
        return InputError(f"no checkpoint to resume from: {'; '.join(torn[-3:])}", there)
    if step is None and unordered and not whole:
        return InputError(f"no checkpoint to resume from: {'; '.join(unordered[-3:])}", "start again: --from 0")
    asked = "no checkpoint was found" if step is None else f"there is no checkpoint of step {step}"
    if step is None and whole:
        asked = "no checkpoint is from the latest attempt, or from the one it resumed"
    elsewhere = "name the directory they are written to: --checkpoints DIR; or start again: --from 0"
    return InputError(asked, there if checkpoints else elsewhere)


def _branches(whole: Sequence[Checkpoint]) -> str:
    return ", ".join(f"{one.where} (attempt {one.attempt})" for one in in_order(whole)[-8:])


def newest_since(
    asked_at: float, before: Sequence[Checkpoint], now: Sequence[Checkpoint], saw_all: bool
) -> Checkpoint | None:
    """Return the complete checkpoint that answers a request of `asked_at` (on the scale of `saved_at`), or None.

    It was not there `before`, and was saved since, or is further than all that were. `saw_all`: the search before
    missed no node, so that nothing further can have been there. Both searches use the same clock offsets.
    """
    known = {(one.kind, one.name, one.step, one.saved_at) for one in before if one.problem is None}
    own = [one.step for one in before if one.problem is None and not one.other_branch]
    furthest = max((step for step in own if step is not None), default=-1)

    def answers(one: Checkpoint) -> bool:
        if one.problem is not None or one.other_branch or (one.kind, one.name, one.step, one.saved_at) in known:
            return False
        return one.saved_at >= asked_at - CLOCK_SLACK or (saw_all and one.step is not None and one.step > furthest)

    return max(filter(answers, now), key=lambda one: one.saved_at, default=None)


def _merge(
    sightings: Sightings,
    clock_offsets: Mapping[str, float],
    run: WritingAttempt | None,
    runs: Sequence[WritingAttempt],
    asked: Collection[str],
) -> Checkpoint:
    nodes = list(sightings)
    first = sightings[nodes[0]]
    names = [shard for one in sightings.values() for shard in one.shards]
    if first.kind in SPLIT_KINDS or (first.kind == "folder" and by_ranks(names)):
        problem, holders = _of_parts(sightings)
        split = len(holders) > 1 and not _alike(sightings)
    else:
        problem, holders, split = _of_copies(sightings)
    parts = [sightings[node] for node in holders]
    shards = {shard for one in parts for shard in one.shards}
    finished = any(one.finished for one in parts) and set(run.nodes if run else ()) <= set(asked)
    sizes = max((one.model_parallel for one in parts if one.model_parallel), default=None)
    ranks = run.ranks if run else None
    return Checkpoint(
        step=first.step,
        epoch=first.epoch,
        kind=first.kind,
        name=first.name,
        bytes=sum(one.bytes for one in parts) if split else parts[0].bytes,
        saved_at=max(sightings[node].saved_at - clock_offsets.get(node, 0.0) for node in holders),
        places=tuple(
            Place(node=node, path=one.path, files=one.shards if one.kind == "ranks" else ())
            for node, one in zip(holders, parts, strict=True)
        ),
        split=split,
        problem=problem or lacking(shards, ranks, sizes, finished) or _mixed(sightings, holders, clock_offsets, runs),
        attempt=run.attempt if run else None,
        ranks=ranks_in(shards, ranks, first.kind == "ranks"),
        weights_only=all(one.weights_only for one in parts),
    )


def _mixed(
    sightings: Sightings, holders: Sequence[str], clock_offsets: Mapping[str, float], runs: Sequence[WritingAttempt]
) -> str | None:
    """Return in words that an attempt ended while it wrote over a checkpoint: some complete files are older."""
    for node in holders:
        one, offset = sightings[node], clock_offsets.get(node, 0.0)
        begun = writer(runs, (one.saved_at if one.begun_at is None else one.begun_at) - offset, holders)
        ended = writer(runs, one.saved_at - offset, holders)
        if begun not in (None, ended):
            return f"was being written over: it has files of attempt {begun} and of attempt {ended}"
    return None


def _of_copies(sightings: Sightings) -> tuple[str | None, list[str], bool]:
    """Return the problem of a checkpoint whose main part is on one node, the nodes that have it, and whether others
    have parts that it lacks, such as the random states that Hugging Face's Trainer leaves on the nodes of their ranks.
    """
    whole = [node for node, one in sightings.items() if one.problem is None]
    if not whole:
        fullest = max(sightings.values(), key=lambda one: one.files)  # the others have only such parts
        return fullest.problem, list(sightings), False
    there = {shard for node in whole for shard in sightings[node].shards}
    others = [node for node, one in sightings.items() if node not in whole and not there.issuperset(one.shards)]
    problem = _unmet([sightings[node] for node in (*whole, *others)])
    return problem, [whole[0], *others] if others else whole, bool(others)


def _alike(sightings: Sightings) -> bool:
    """Whether all nodes have the same parts: they share a disk, or hold copies."""
    return len({one.shards for one in sightings.values()}) == 1


def _of_parts(sightings: Sightings) -> tuple[str | None, list[str]]:
    """Return the problem of a checkpoint whose parts lie on several nodes, and the nodes that are needed for it."""
    nodes = list(sightings)
    if torn := next((one.problem for one in sightings.values() if one.problem), None):
        return torn, nodes
    here = {shard for one in sightings.values() for shard in one.shards}
    if sightings[nodes[0]].kind == "distributed" and all(one.needs is None for one in sightings.values()):
        return "has no .metadata: its save did not finish", nodes
    if problem := _unmet(list(sightings.values())):
        return problem, nodes
    told = any(one.needs is not None for one in sightings.values())
    whole = [node for node, one in sightings.items() if set(one.shards) == here and (one.needs is not None) == told]
    return None, whole or nodes


def _unmet(parts: Sequence[FoundCheckpoint]) -> str | None:
    """The shards that a .metadata names, and that are nowhere."""
    needed = {shard for one in parts for shard in one.needs or ()}
    missing = sorted(needed - {shard for one in parts for shard in one.shards})
    return f"lacks {count(len(missing), 'part')} that no node has ({', '.join(missing[:3])})" if missing else None
