"""Weigh the findings in a log as the reason why its run ended."""

from __future__ import annotations

from collections.abc import Iterable

from ugro.control_plane.diagnosis.entry import EntryKind
from ugro.control_plane.diagnosis.evidence import REFUSED, Evidence, Sighting
from ugro.control_plane.diagnosis.traceback import EXCEPTION
from ugro.control_plane.diagnosis.wording import end_order

# Causes that no script handles and then continues from.
HARD = {
    "cuda_oom", "host_oom", "disk_full", "shm_full", "too_many_files", "gpu_lost", "cuda_error", "cuda_mismatch",
    "dataloader_worker_died", "port_in_use", "time_limit", "node_lost", "node_rebooted", "nan_loss",
}  # fmt: skip
# Those of them that end a process which does not say them itself.
FROM_OUTSIDE = {"time_limit", "node_lost", "node_rebooted", "gpu_lost"}

# The order of candidates for the root cause. A follow-on error of another rank comes after a process that a signal
# ended, even where its text states a reason.
_SURE, _CAUGHT, _BARE_EXCEPTION, BROUGHT_ABOUT, _STUCK, _ASKED_FOR, _COMPLAINT = range(7)
_LATE = {"nccl_error": BROUGHT_ABOUT, "collective_timeout": BROUGHT_ABOUT, "hang": _STUCK, "cancelled": _ASKED_FOR}

# Hard causes that are also said in passing, or of the machine before the start: without a traceback they weigh less.
_SAID_IN_PASSING = {"cuda_error": _BARE_EXCEPTION, "cuda_mismatch": _COMPLAINT}

# What a confirmation or a lost GPU makes clear.
RAISED_BY = {
    "host_oom": {"killed", "unknown", "dataloader_worker_died", "peer_lost"},
    "gpu_lost": {"cuda_error", "nccl_error", "collective_timeout", "hang", "peer_lost", "unknown"},
}
# What tools complain of that were only tried.
_PROBED = {"permission_denied", "file_not_found"}
# Python's message for a script that is not there.
_CANNOT_OPEN = "can't open file"


def weight(sighting: Sighting) -> int:
    """Return how likely a sighting is the reason, by its kind; the smallest is the likeliest."""
    if sighting.cause in _LATE:
        return _LATE[sighting.cause]
    if sighting.block:
        return _SURE if sighting.block.fatal or sighting.block.child else _CAUGHT
    if sighting.cause in HARD - _SAID_IN_PASSING.keys() or _is_refused(sighting):
        return _SURE
    return _BARE_EXCEPTION if EXCEPTION.match(sighting.message) else _SAID_IN_PASSING.get(sighting.cause, _COMPLAINT)


def order(sighting: Sighting, evidence: Evidence) -> tuple[int, bool, int]:
    """Return the sort key of a sighting, likeliest root first: its kind, the rank that a launcher names, its place."""
    first = min((end for end in evidence.ends if end.root), key=end_order, default=None)
    others = first is not None and None not in (first.rank, sighting.rank) and first.rank != sighting.rank
    return weight(sighting), others, sighting.at


def decides(sighting: Sighting) -> bool:
    """Whether a sighting is more than a complaint: an exception, a cause that nothing survives, an end."""
    if sighting.kind in (EntryKind.CONFIRMATION, EntryKind.HINT):
        return sighting.kind is EntryKind.CONFIRMATION
    loose = is_complaint(sighting) or (sighting.kind is EntryKind.ROOT and sighting.cause == "nccl_error")
    return sighting.block is not None or not loose


def is_complaint(sighting: Sighting) -> bool:
    """Whether it is no more than a complaint, which a run may well live with."""
    return sighting.kind is EntryKind.ROOT and weight(sighting) == _COMPLAINT


def ends_its_process(sighting: Sighting) -> bool:
    """Return whether its process says no more after it: an uncaught exception, arguments or a script refused."""
    return _is_refused(sighting) or bool(sighting.block and sighting.block.fatal and sighting.cause != "unknown")


def _is_refused(sighting: Sighting) -> bool:
    """Whether a process did not accept its arguments, or Python its script: neither has a traceback."""
    refused = sighting.cause == "bad_arguments" and REFUSED in sighting.message and sighting.kind is EntryKind.ROOT
    return refused or _CANNOT_OPEN in sighting.message


def is_probe(sighting: Sighting) -> bool:
    """Whether it is what a tool says that was only tried: where an exception ended the run, that is no reason."""
    return sighting.cause in _PROBED and is_complaint(sighting) and _CANNOT_OPEN not in sighting.message


def raises(telling: Sighting, root: Sighting | None) -> bool:
    if root is not None and root.cause == "python_exception":
        return telling.cause == "nan_loss" and "nan" in root.message.lower()
    if root is None or is_complaint(root):
        return telling.kind is EntryKind.CONFIRMATION
    return root.cause in RAISED_BY.get(telling.cause, ())


def second_hand(alive: Iterable[Sighting]) -> Sighting | None:
    """Return what is left to name where no root was seen: a follow-on error, or the hint of a warning."""
    told = [s for s in alive if s.kind in (EntryKind.CONSEQUENCE, EntryKind.HINT) and s.cause != "unknown"]
    telling = [s for s in told if s.kind is EntryKind.CONSEQUENCE or s.cause not in _PROBED]
    return min(telling, key=_vagueness, default=None)


def _vagueness(sighting: Sighting) -> tuple[bool, bool, bool, int]:
    block = sighting.block
    orphaned = block is not None and block.orphaned
    return sighting.kind is EntryKind.HINT, orphaned, not (block and block.fatal), sighting.at
