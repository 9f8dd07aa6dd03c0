"""Which of the things that logs say is why the run ended: pure decisions over what was read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from ugro.control_plane.diagnosis.catalogue import Kind
from ugro.control_plane.diagnosis.causes import CAUSES
from ugro.control_plane.diagnosis.reading import End, Evidence, Sighting
from ugro.control_plane.diagnosis.traceback import EXCEPTION

HANDLED_AFTER = 3
"""Lines of training going on after an exception, from which on it was handled, where nothing else says that it ended badly."""

SURELY_HANDLED_AFTER = 20
"""The same where the run did end badly later: the other ranks go on for a while when one has failed."""

LAST_WORDS = 20
"""Lines at the end of a log in which a complaint is taken for why it ends."""

QUOTES = 6

# Causes that no script handles and goes on as if nothing had been.
_HARD = {
    "cuda_oom", "host_oom", "disk_full", "shm_full", "too_many_files", "gpu_lost", "cuda_error", "cuda_mismatch",
    "dataloader_worker_died", "port_in_use", "time_limit", "node_lost", "node_rebooted", "nan_loss",
}  # fmt: skip
# Causes that another rank's failure brings about, even where the words are those of a reason.
_LATE = {"nccl_error": 1, "collective_timeout": 1, "hang": 2, "segfault": 0, "cancelled": 3}
_VAGUE = {"killed", "unknown", "dataloader_worker_died", "peer_lost", "python_exception"}
_SIGNAL_CAUSES = {"KILL": "killed", "SEGV": "segfault", "BUS": "shm_full", "ILL": "segfault", "FPE": "segfault"}
_EXPLAINS = {"gpu_lost": {"cuda_error", "nccl_error", "collective_timeout", "hang", "peer_lost", "unknown"}}
_NUMBERED = re.compile(r"(worker|node|master|rank|trainer)-?(\d+)$")


@dataclass(frozen=True)
class Finding:
    """Why a run ended badly. `rank` and `where` (file:line) are None where the logs do not tell."""

    cause: str
    message: str
    rank: int | None = None
    where: str | None = None
    evidence: tuple[str, ...] = ()
    consequences: int = 0
    consequence: bool = False
    facts: dict[str, str] = field(default_factory=dict)
    suggestion: str = ""
    retry_helps: bool = False


def explain(evidence: Evidence, failed: bool | None = None) -> Finding | None:
    """Why a run ended badly, or None if nothing says that it did. `failed` tells it where that is known."""
    _chain(evidence.sightings)
    bad_end = failed or _ended_badly(evidence)
    alive = [sighting for sighting in evidence.sightings if not _was_handled(sighting, evidence, bool(bad_end))]
    if bad_end and not any(sighting.kind is Kind.ROOT for sighting in alive) and not _deaths(evidence):
        alive = evidence.sightings
    if not bad_end:
        alive = [sighting for sighting in alive if sighting.kind is not Kind.HINT]
    if failed is None and not bad_end and not _is_failure(alive, evidence):
        return None
    return _verdict(alive, evidence)


def _chain(sightings: list[Sighting]) -> None:
    """Fold exceptions that another one followed from (`raise … from`) or that came up while one was handled."""
    by_block = {id(sighting.block): sighting for sighting in sightings if sighting.block}
    for sighting in list(sightings):
        earlier = by_block.get(id(sighting.block.before)) if sighting.block and sighting.block.before else None
        if earlier is None or earlier is sighting or sighting.block is None:
            continue
        telling = earlier.cause in _HARD or (sighting.block.explicit and earlier.kind is Kind.ROOT)
        if telling and sighting.cause in ("python_exception", "unknown") and earlier.cause != "python_exception":
            sighting.cause, sighting.kind, sighting.entry = earlier.cause, earlier.kind, earlier.entry
            sighting.message, sighting.facts = earlier.message, earlier.facts
        if earlier in sightings:
            sightings.remove(earlier)


def _ended_badly(evidence: Evidence) -> bool:
    ends = [end.at for end in evidence.ends]
    spoken = [s.last_at for s in evidence.sightings if s.kind is Kind.CONSEQUENCE and s.cause == "unknown"]
    return max([*ends, *spoken], default=-1) > evidence.success_at


def _deaths(evidence: Evidence) -> list[End]:
    return [end for end in evidence.ends if end.signal in _SIGNAL_CAUSES]


def _was_handled(sighting: Sighting, evidence: Evidence, bad_end: bool) -> bool:
    if sighting.block and sighting.block.handled:
        return True
    if sighting.kind is Kind.CONFIRMATION:
        return False
    went_on = evidence.progress - sighting.progress
    return went_on >= (SURELY_HANDLED_AFTER if bad_end else HANDLED_AFTER)


def _is_failure(alive: list[Sighting], evidence: Evidence) -> bool:
    """Whether something in a log without a bad end shows that there was one all the same."""
    telling = [
        s
        for s in alive
        if s.kind is not Kind.CONFIRMATION and (_is_final(s) or evidence.lines - s.last_at <= LAST_WORDS)
    ]
    if max((s.last_at for s in telling), default=-1) > evidence.success_at:
        return True
    return any(s.cause in ("host_oom", "nan_loss") and _confirms(s, evidence) for s in alive)


def _is_final(sighting: Sighting) -> bool:
    """Whether a sighting shows a failure wherever it stands; others do only as the last words of a log."""
    return bool(sighting.block or sighting.cause in _HARD or EXCEPTION.match(sighting.message))


def _confirms(sighting: Sighting, evidence: Evidence) -> bool:
    """Whether a confirmation is enough by itself: an OOM kill, or losses that stayed NaN."""
    if sighting.kind is not Kind.CONFIRMATION:
        return False
    if sighting.cause == "nan_loss":
        last = evidence.progress - sighting.progress < HANDLED_AFTER
        return last and (sighting.count >= 2 or sighting.last_at > evidence.success_at)
    return sighting.last_at > evidence.success_at


def _verdict(alive: list[Sighting], evidence: Evidence) -> Finding:
    confirmed = [s for s in alive if _confirms(s, evidence)]
    alive = _last_words_of_each(alive, evidence)
    roots = [s for s in alive if s.kind is Kind.ROOT]
    consequences = [s for s in alive if s.kind is Kind.CONSEQUENCE]
    root = min(roots, key=lambda s: _order(s, evidence), default=None)
    root = next((s for s in roots if root and root.cause in _EXPLAINS.get(s.cause, ())), root)
    deaths = _deaths(evidence)
    if deaths and (root is None or _order(root, evidence)[0] >= 2):
        return _from_death(_first_death(deaths), confirmed, consequences, evidence)
    if root is None or root.cause in _VAGUE:
        raising = next((s for s in confirmed if root is None or _raises(s, root)), None)
        root = raising or root
    if root is None:
        telling = [s for s in alive if s.kind in (Kind.CONSEQUENCE, Kind.HINT) and s.cause != "unknown"]
        root = min(telling, key=lambda s: (s.kind is Kind.HINT, s.at), default=None)
    if root is None:
        return _unknown(consequences, evidence)
    return _from_sighting(root, consequences, evidence)


def _raises(confirmation: Sighting, root: Sighting) -> bool:
    if root.cause == "python_exception":
        return confirmation.cause == "nan_loss" and "nan" in root.message.lower()
    return confirmation.cause == "host_oom"


def _last_words_of_each(raised: list[Sighting], evidence: Evidence) -> list[Sighting]:
    """A process dies of one exception, the last one that nobody caught: what it logged before was handled.

    Where several may have written through each other, all that nobody caught stay.
    """
    kept: list[Sighting] = []
    for source in dict.fromkeys(s.source for s in raised):
        mine = [s for s in raised if s.source == source]
        fatal = [s for s in mine if s.block and s.block.fatal and s.cause != "unknown"]
        fatal.sort(key=lambda s: s.last_at)
        alone = bool(fatal) and (fatal[0].of_one_process or not _several_wrote(mine, evidence))
        for sighting in mine:
            dismissed = sighting.block and fatal and sighting is not fatal[-1] and (alone or not sighting.block.fatal)
            if not dismissed or (not alone and sighting.cause in _HARD):
                kept.append(sighting)
    return kept


def _several_wrote(sightings: list[Sighting], evidence: Evidence) -> bool:
    launched = any(s.kind is Kind.CONSEQUENCE for s in evidence.sightings) or bool(evidence.ends)
    return len(evidence.ranks) > 1 or launched or any(s.count > 1 for s in sightings if s.block)


def _order(sighting: Sighting, evidence: Evidence) -> tuple[int, int, int]:
    """What is more likely the root comes first: by what it is, then by the rank that a launcher names, then by place."""
    tier = _LATE.get(sighting.cause, 0) * 2
    if tier == 0 and sighting.block is None and sighting.cause not in _HARD - {"cuda_error", "cuda_mismatch"}:
        tier = 1
    root_rank = next((end.rank for end in evidence.ends if end.root), None)
    foreign = sighting.rank is not None and root_rank is not None and sighting.rank != root_rank
    return tier, int(foreign), sighting.at


def _first_death(deaths: list[End]) -> End:
    return min(deaths, key=lambda end: (not end.root, end.at))


def _from_death(end: End, confirmed: list[Sighting], consequences: list[Sighting], evidence: Evidence) -> Finding:
    proof = next((s for s in confirmed if s.cause == "host_oom"), None)
    cause = "host_oom" if proof and end.signal in ("KILL", "BUS") else _SIGNAL_CAUSES[end.signal or ""]
    quotes = [end.message, *([proof.message] if proof else []), *(other.message for other in evidence.ends[:3])]
    return _explanation(
        cause, end.message, end.rank if end.rank is not None else _summary_rank(evidence), None, quotes, consequences
    )


def _from_sighting(root: Sighting, consequences: list[Sighting], evidence: Evidence) -> Finding:
    quiet = _quiet_rank(evidence) if root.cause == "collective_timeout" else None
    rank = next(
        (r for r in (quiet, root.rank, _summary_rank(evidence), _place(root.source, evidence)) if r is not None), None
    )
    where = root.block.where if root.block else None
    same = [
        s.message for s in evidence.sightings if s.cause == root.cause and s is not root and s.kind is not Kind.HINT
    ]
    quotes = [root.message, *root.more, *same[:2], *(end.message for end in evidence.ends[:2])]
    made = _explanation(root.cause, root.message, rank, where, quotes, [c for c in consequences if c is not root])
    entry = root.entry
    return Finding(
        **made.__dict__
        | {
            "facts": root.facts,
            "consequence": root.kind is Kind.CONSEQUENCE,
            "suggestion": (entry and entry.suggestion) or made.suggestion,
            "retry_helps": entry.retry_helps if entry and entry.retry_helps is not None else made.retry_helps,
        }
    )


def _unknown(consequences: list[Sighting], evidence: Evidence) -> Finding:
    end = evidence.ends[0] if evidence.ends else None
    message = end.message if end else evidence.last_words
    return _explanation("unknown", message, _summary_rank(evidence), None, [message] if message else [], consequences)


def _summary_rank(evidence: Evidence) -> int | None:
    named = [end for end in evidence.ends if end.rank is not None]
    return min(named, key=lambda end: (not end.root, end.at)).rank if named else None


def _quiet_rank(evidence: Evidence) -> int | None:
    """The one rank that did not wait with the others in the collective, or waited in an earlier one."""
    waited = {
        s.rank: int(s.facts.get("seq", 0))
        for s in evidence.sightings
        if s.cause == "collective_timeout" and s.rank is not None
    }
    absent = evidence.ranks - waited.keys()
    behind = [rank for rank, seq in waited.items() if 0 < seq < max(waited.values())]
    suspects = list(absent) or behind
    return suspects[0] if len(suspects) == 1 and len(waited) > 1 else None


def _place(source: str, evidence: Evidence) -> int | None:
    """The rank that a pod's or node's name stands for where each of them holds one."""
    match = _NUMBERED.search(source)
    return int(match[2]) + (evidence.masters and match[1] == "worker") if match else None


def _explanation(
    cause: str, message: str, rank: int | None, where: str | None, quotes: Iterable[str], followed: list[Sighting]
) -> Finding:
    advice = CAUSES[cause]
    return Finding(
        cause=cause,
        message=message,
        rank=rank,
        where=where,
        evidence=tuple(dict.fromkeys(quotes))[:QUOTES],
        consequences=sum(s.count for s in followed),
        suggestion=advice.suggestion,
        retry_helps=advice.retry_helps,
    )
