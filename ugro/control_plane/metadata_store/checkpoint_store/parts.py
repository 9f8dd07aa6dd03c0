"""Checkpoints whose parts the ranks of a job wrote, each to the disk of its node: which belong together, and what is
lacking, by their names. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from itertools import product
from typing import Any

from ugro.common.models.checkpoint import FoundCheckpoint
from ugro.common.text import count

_RANK = re.compile(
    r"(?<![a-z])(?<!lora[-_])(?<!low[-_])(?<!mp[-_])(?<!pp[-_])(?<!tp[-_])(?<!dp[-_])(?<!ep[-_])(rank[-_=]?)(\d+)",
    re.IGNORECASE,
)
"""A rank of the job: not one of the model's parallel groups, and not that of a matrix, as LoRA has it."""

_PART = re.compile(r"(?<![a-z\d])(\d+)(?=[-_]?of[-_]?\d)", re.IGNORECASE)
"""One of several parts, which are counted from 1: `00001-of-00004`. `rank-1-of-4` is not one."""

_OF = re.compile(r"(\d+)[-_]?of[-_]?(\d+)|world_size_(\d+)", re.IGNORECASE)
_ZERO = re.compile(r"zero_pp_rank_(\d+)_mp_rank_(\d+)_")
_MODEL_RANK = re.compile(r"^mp_rank_(\d+(?:_\d+)*)(?=[/_])")


def rank_of(name: str) -> int | None:
    """The rank that wrote a part, by its name; the first one where parts count from 1 and their number is known."""
    if match := _RANK.search(name):
        return int(match[2])
    numbered = _OF.search(name)
    return int(numbered[1]) - 1 if numbered and numbered[1] else None


def together(found: Iterable[FoundCheckpoint], ranks: int) -> list[FoundCheckpoint]:
    """Return a node's checkpoints, with the files or folders that each rank left of one put together.

    A number in a name is that of a rank only if the job had as many `ranks` (0: that is not known).
    """
    made: list[FoundCheckpoint] = []
    sets: dict[tuple[Any, ...], list[FoundCheckpoint]] = {}
    for one in found:
        if name := _of_each_rank(one.name, ranks):
            sets.setdefault((name, one.kind, one.step, one.epoch), []).append(one)
        else:
            made.append(one)
    return made + [_one(name, parts) for (name, *_), parts in sets.items()]


def _of_each_rank(name: str, ranks: int) -> str | None:
    """The name of the checkpoint that this is one rank's part of: with `{rank}` in the place of its number, or `{part}`
    where that is counted from 1, as `str.format` would fill them in.
    """
    numbers = {int(match[2]) for match in _RANK.finditer(name)}
    parts = set() if numbers else {int(match[1]) - 1 for match in _PART.finditer(name)}
    if len(numbers | parts) != 1 or "{" in name or max(numbers | parts) >= ranks > 0:
        return None
    if numbers:
        return _RANK.sub(lambda match: match[1] + _field("rank", match[2]), name)
    return _PART.sub(lambda match: _field("part", match[1]), name)


def _field(name: str, number: str) -> str:
    width = f":0{len(number)}d" if len(number) > 1 and number[0] == "0" else ""
    return f"{{{name}{width}}}"


def _one(name: str, parts: list[FoundCheckpoint]) -> FoundCheckpoint:
    first = parts[0]
    base = len(name[: name.index("{")].split("/")) - 1
    own = {one.name: "/".join(one.name.split("/")[base:]) for one in parts}
    begun = [one.saved_at if one.begun_at is None else one.begun_at for one in parts]
    return first.model_copy(
        update={
            "path": first.path.removesuffix(f"/{own[first.name]}"),
            "name": name,
            "kind": "ranks",
            "problem": next((f"{own[one.name]} {one.problem}" for one in parts if one.problem), None),
            "shards": tuple(
                sorted(f"{own[one.name]}/{shard}".rstrip("/") for one in parts for shard in one.shards or ("",))
            ),
            "needs": None,
            "bytes": sum(one.bytes for one in parts),
            "files": sum(one.files for one in parts),
            "saved_at": max(one.saved_at for one in parts),
            "begun_at": min(begun),
            "weights_only": all(one.weights_only for one in parts),
        }
    )


def by_ranks(names: Collection[str]) -> bool:
    """Return whether parts have the names of ranks, so that no node with only some of them has a complete copy."""
    return any(rank_of(name) is not None or _MODEL_RANK.match(name) for name in names)


def ranks_in(names: Collection[str], ranks: int | None, numbered: bool) -> int | None:
    """Return how many ranks have parts of their own in a complete checkpoint; None: its parts are not per rank.

    With `numbered`, parts that are only numbered count as one of each rank too, not as a model that every rank reads.
    """
    totals = [len(wanted) for key, _, wanted in _sets(names, ranks) if numbered or "rank-N" in key]
    return max(totals, default=None)


def lacking(names: Collection[str], ranks: int | None, model_parallel: int | None, finished: bool) -> str | None:
    """Return in words why a checkpoint of these parts is incomplete; None: it is complete.

    `ranks` is how many saved it, if known. `model_parallel` is how many parts Megatron-LM says there are. `finished`:
    it noted the end of its save, and no part can be on a node that was not asked.
    """
    for _, there, wanted in _sets(names, ranks):
        if missing := sorted(wanted - there):
            return f"lacks the parts of {_named(missing)} of {count(len(wanted), 'rank')}"
    if zero := [match for name in names if (match := _ZERO.search(name))]:
        return _zero(zero, None if any("layer_" in name for name in names) else ranks)
    models = {tuple(map(int, match[1].split("_"))) for name in names if (match := _MODEL_RANK.match(name))}
    return _model_parallel(models, ranks, model_parallel, finished) if models else None


def _sets(names: Collection[str], ranks: int | None) -> list[tuple[str, set[int], set[int]]]:
    """The parts that have one name but for their rank: the name, the ranks that are there, and those that must be."""
    groups: dict[str, set[int]] = {}
    totals: dict[str, int] = {}
    for name in names:
        rank, numbered = rank_of(name), _OF.search(name)
        if rank is None:
            continue
        key = re.sub(r"\d+(?=[-_]?of[-_]?\d)", "N", _RANK.sub("rank-N", name))
        groups.setdefault(key, set()).add(rank)
        if numbered:
            totals[key] = int(numbered[2] or numbered[3])
    made = []
    for key, there in groups.items():
        total = totals.get(key, ranks or max(there) + 1)
        from_one = key in totals and 0 not in there and max(there) == total
        if from_one or max(there) < total:  # else the numbers are those of something else
            made.append((key, there, set(range(from_one, total + from_one))))
    return made


def _named(missing: list[int]) -> str:
    shown = ", ".join(map(str, missing[:3])) + (" …" if len(missing) > 3 else "")
    return f"rank{'s' if len(missing) > 1 else ''} {shown}"


def _zero(found: list[re.Match[str]], ranks: int | None) -> str | None:
    """DeepSpeed: each rank of ZeRO has a part for each of its model's parallel ranks."""
    there: set[tuple[int, ...]] = {(int(match[1]), int(match[2])) for match in found}
    missing = sorted(_grid(there) - there)
    if missing:
        return f"lacks {count(len(missing), 'part')} that no node has (rank {missing[0][0]})"
    if ranks and len(there) < ranks:
        return f"lacks {count(ranks - len(there), 'part')} that no node has: {len(there)} of {ranks} are there"
    return None


def _model_parallel(there: set[tuple[int, ...]], ranks: int | None, told: int | None, finished: bool) -> str | None:
    """Megatron-LM: one part for each tensor- and pipeline-parallel rank, and none for the other data-parallel ones."""
    if len({len(one) for one in there}) > 1:
        return "has parts of several layouts"
    if missing := sorted(_grid(there) - there):
        tensor, *others = missing[0]
        name = "_".join([f"mp_rank_{tensor:02d}", *(f"{number:03d}" for number in others)])
        return f"lacks {count(len(missing), 'part')} that no node has ({name})"
    if told and len(there) < told:
        return f"lacks {count(told - len(there), 'part')} that no node has: {len(there)} of {told} are there"
    if told or finished or ranks is None or len(there) >= ranks:
        return None
    return f"cannot be shown to be complete: {ranks} ranks left {count(len(there), 'part')}, and their total is unknown"


def _grid(there: set[tuple[int, ...]]) -> set[tuple[int, ...]]:
    """All combinations of the numbers up to the highest in each place."""
    return set(product(*(range(max(numbers) + 1) for numbers in zip(*there, strict=True))))
