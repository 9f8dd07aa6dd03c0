"""What a checkpoint lacks whose parts the ranks of a job wrote, each to the disk of its node: by their names. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import product

from ugro.common.text import count

_RANK = re.compile(
    r"(?<![a-z])(?<!lora[-_])(?<!low[-_])(?<!mp[-_])(?<!pp[-_])(?<!tp[-_])(?<!dp[-_])(?<!ep[-_])rank[-_=]?(\d+)",
    re.IGNORECASE,
)
"""A rank of the job: not one of the model's parallel groups, and not that of a matrix."""

_OF = re.compile(r"(\d+)[-_]?of[-_]?(\d+)|world_size_(\d+)", re.IGNORECASE)
_ZERO = re.compile(r"zero_pp_rank_(\d+)_mp_rank_(\d+)_")
_MODEL_RANK = re.compile(r"^mp_rank_(\d+(?:_\d+)*)(?=[/_])")


def rank_of(name: str) -> int | None:
    """The rank that wrote a part, by its name; the first one where parts count from 1 and their number is told."""
    if match := _RANK.search(name):
        return int(match[1])
    numbered = _OF.search(name)
    return int(numbered[1]) - 1 if numbered and numbered[1] else None


def by_ranks(names: Collection[str]) -> bool:
    """Whether parts have the names of ranks, so that nodes with different ones have none of it whole."""
    return any(rank_of(name) is not None or _MODEL_RANK.match(name) for name in names)


def ranks_in(names: Collection[str], ranks: int | None, numbered: bool) -> int | None:
    """How many ranks have parts of their own in a checkpoint that lacks nothing; None: it does not go by ranks.

    With `numbered` also parts that are only numbered are each of a rank, not of a model that every rank reads.
    """
    totals = [len(wanted) for key, _, wanted in _sets(names, ranks) if numbered or "rank-N" in key]
    return max(totals, default=None)


def lacking(names: Collection[str], ranks: int | None, model_parallel: int | None, finished: bool) -> str | None:
    """What is wrong with a checkpoint of which these parts are there, in words; None: it is whole.

    `ranks` is how many saved it, if known. `model_parallel` is how many parts Megatron-LM says there are, and
    `finished` that it noted the end of its save, and that no part can be on a node that was not asked.
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
    return (
        f"cannot be shown to be whole: {ranks} ranks left {count(len(there), 'part')}, and nothing says how many it has"
    )


def _grid(there: set[tuple[int, ...]]) -> set[tuple[int, ...]]:
    """All combinations of the numbers up to the highest in each place."""
    return set(product(*(range(max(numbers) + 1) for numbers in zip(*there, strict=True))))
