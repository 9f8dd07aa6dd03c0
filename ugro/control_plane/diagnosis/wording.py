"""A finding in words: of a sighting, of a process that died, or of how the run ended."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ugro.control_plane.diagnosis.causes import CAUSES, Advice
from ugro.control_plane.diagnosis.ends import ReportedEnd
from ugro.control_plane.diagnosis.entry import EntryKind
from ugro.control_plane.diagnosis.evidence import Evidence, Sighting
from ugro.control_plane.diagnosis.finding import Diagnosis

QUOTES = 6

# Causes by signal, for signals that do not ask a process to end.
SIGNAL_CAUSES = {
    "KILL": "killed", "SEGV": "segfault", "BUS": "shm_full", "ILL": "segfault", "FPE": "segfault", "TRAP": "segfault",
    "SYS": "segfault", "XCPU": "time_limit", "XFSZ": "disk_full",
}  # fmt: skip
# Causes by signal, for signals that ask a process to end: they count only where nothing else shows a cause.
TOLD_TO_END = {
    "INT": "cancelled", "HUP": "cancelled", "QUIT": "cancelled", "TERM": "killed", "USR1": "time_limit",
    "USR2": "time_limit",
}  # fmt: skip
# Exit codes of a shell that did not find what it should run, or may not run it, and of `timeout`.
_OF_TIMEOUT = 124
_CODE_CAUSES = {_OF_TIMEOUT: "time_limit", 126: "launch_failed", 127: "launch_failed"}
_NUMBERED = re.compile(r"(worker|node|master|rank|trainer)-?(\d+)$")


def end_order(end: ReportedEnd) -> tuple[bool, str, int]:
    """Each node's launcher names a root cause: the earliest is that of the run."""
    return not end.root, end.time, end.at


def from_death(end: ReportedEnd, proof: Sighting | None, followed: Sequence[Sighting], evidence: Evidence) -> Diagnosis:
    """Word a process that a signal ended; `proof` shows why it was sent."""
    cause = proof.cause if proof else SIGNAL_CAUSES[end.signal or ""]
    quotes = [end.message, *([proof.message] if proof else []), *(other.message for other in evidence.ends[:3])]
    rank = end.rank if end.rank is not None else _launchers_rank(evidence)
    return Diagnosis(cause, end.message, rank=rank, evidence=quoted(quotes), consequences=_count(followed))


def from_sighting(root: Sighting, followed: Sequence[Sighting], evidence: Evidence) -> Diagnosis:
    """Word what went wrong by a log; `followed` are its follow-on errors."""
    alike = [s for s in evidence.sightings if s.cause == root.cause and s.kind is not EntryKind.HINT]
    told = {s.rank for s in alike if s.rank is not None}
    known = (
        _named_rank(root, evidence),
        root.rank,
        _launchers_rank(evidence),
        _place(root.source, evidence),
        told.pop() if len(told) == 1 else None,
    )
    same = [s.message for s in alike]
    entry = root.entry
    own = (
        Advice(CAUSES[root.cause].words, entry.suggestion, bool(entry.retry_helps))
        if entry and entry.suggestion
        else None
    )
    return Diagnosis(
        root.cause,
        root.message,
        consequence=root.kind is EntryKind.CONSEQUENCE,
        rank=next((rank for rank in known if rank is not None), None),
        where=root.block.where if root.block else None,
        evidence=quoted([root.message, *root.more, *same[:3], *(end.message for end in evidence.ends[:2])]),
        consequences=_count(sighting for sighting in followed if sighting is not root),
        facts=root.facts,
        own_advice=own,
    )


def from_ends(followed: Sequence[Sighting], evidence: Evidence) -> Diagnosis:
    """Word the end of a run that does not say why."""
    message = evidence.ends[0].message if evidence.ends else evidence.last_words
    first = min(evidence.ends, key=end_order, default=None)  # it brought about how the others ended
    told = (TOLD_TO_END.get(first.signal or "") or _meaning_of_code(first)) if first else None
    cause = told or "unknown"
    return Diagnosis(
        cause, message, rank=_launchers_rank(evidence), evidence=quoted([message]), consequences=_count(followed)
    )


def _meaning_of_code(end: ReportedEnd) -> str | None:
    """Return the meaning of an exit code; torchrun's workers are no `timeout`, so that 124 is the script's own code."""
    of_torchrun = end.time or "local_rank" in end.message
    return None if end.code == _OF_TIMEOUT and of_torchrun else _CODE_CAUSES.get(end.code or 0)


def quoted(lines: Iterable[str]) -> tuple[str, ...]:
    """The first few lines of those that show it, each once."""
    return tuple(dict.fromkeys(line for line in lines if line))[:QUOTES]


def _count(followed: Iterable[Sighting]) -> int:
    return sum(sighting.count for sighting in followed)


def _launchers_rank(evidence: Evidence) -> int | None:
    first = min((end for end in evidence.ends if end.rank is not None), key=end_order, default=None)
    return first.rank if first else None


def _named_rank(root: Sighting, evidence: Evidence) -> int | None:
    """The rank that others complain of: who did not wait with them in the collective, or waited in an earlier one."""
    if root.cause != "collective_timeout":
        return int(root.facts["suspect"]) if "suspect" in root.facts else None
    timeouts = [s for s in evidence.sightings if s.cause == root.cause and s.rank is not None]
    waited = {sighting.rank: int(sighting.facts.get("seq", 0)) for sighting in timeouts}
    absent = evidence.ranks - waited.keys()
    behind = [rank for rank, seq in waited.items() if 0 < seq < max(waited.values())]
    suspects = [*absent] or behind
    return suspects[0] if len(suspects) == 1 and len(waited) > 1 else None


def _place(source: str, evidence: Evidence) -> int | None:
    """The rank that a pod's or node's name stands for where each of them holds one."""
    match = _NUMBERED.search(source)
    return int(match[2]) + (evidence.masters and match[1] == "worker") if match else None
