"""Judge whether a running job makes progress, is quiet or hangs, and which rank takes no part. Pure (docs/watchdog.md).

A hang is silence (no log, no step, no traffic) for longer than this job's own rhythm explains, in which no rank shows
work either. Moments are in watched seconds, as in `sights`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ugro.common.text import count, duration
from ugro.control_plane.failure_handler.watchdog.sights import (
    GAPS_KEPT,
    WATCH_GAP,
    Doing,
    HangLimits,
    RankMemory,
    WatchMemory,
)
from ugro.control_plane.training_metrics.steps import Progress

RHYTHM = 3.0
"""Times the longest healthy gap between two signs of life after which silence is suspicious."""

BEFORE_STEPS = 3.0
"""Times the floor that a job may be silent before its first step: compiling, downloads and caches are slow."""

STILL_LOOKS = 3
"""Number of samples in a row that have to show no work, however far apart they are."""


class State(StrEnum):
    """The watchdog's verdict on a job. Quiet: for longer than ever before, and not yet suspicious."""

    PROGRESSING = "progressing"
    QUIET = "quiet"
    HUNG = "hung"


@dataclass(frozen=True)
class ProgressVerdict:
    """The state, why in words, and the rank that does not take part where one differs from the others."""

    state: State
    reason: str = ""
    rank: int | None = None


def allowance(memory: WatchMemory, limits: HangLimits) -> float:
    """Watched seconds of silence after which this job is suspicious, once it makes steps."""
    return min(limits.ceiling, max(limits.floor, RHYTHM * memory.longest))


def needs_steps(memory: WatchMemory, limits: HangLimits) -> bool:
    """Return whether the logs have to be read: they decide, or the step of each rank is about to be reported.

    A silence that is long enough to become this job's rhythm counts only if a step was made before it.
    """
    if memory.stepped is None and memory.watched - memory.alive_at >= limits.floor / RHYTHM:
        return True
    return memory.stepped is True and memory.hung_at is None and _hangs(memory, allowance(memory, limits), limits)


def judge(
    memory: WatchMemory, limits: HangLimits, steps: Mapping[int, Progress | None] | None = None
) -> ProgressVerdict:
    """Return the verdict on a job. `steps` is the progress of each rank's log, where it was read."""
    quiet, allowed = memory.watched - memory.alive_at, allowance(memory, limits)
    if not memory.stepped:
        allowed = max(allowed, min(limits.ceiling, BEFORE_STEPS * limits.floor))
    if memory.hung_at is not None or _hangs(memory, allowed, limits):
        culprit, words = _odd_one(memory, steps or {})
        return ProgressVerdict(State.HUNG, f"{words}; {_silence_in_words(memory, quiet, steps or {})}", culprit)
    if quiet <= max(memory.longest, WATCH_GAP):
        return ProgressVerdict(State.PROGRESSING)
    return ProgressVerdict(State.QUIET, f"no sign of life for {duration(quiet)}; suspicious after {duration(allowed)}")


def _hangs(memory: WatchMemory, allowed: float, limits: HangLimits) -> bool:
    """Silent for too long, and still for the floor at least: a rank that works in silence does not hang."""
    silent = memory.watched - memory.alive_at >= allowed
    still = memory.watched - memory.still_at >= limits.floor and memory.still_looks >= STILL_LOOKS
    doing = {rank.doing for rank in memory.ranks}
    held = bool(doing & {Doing.STOPPED, Doing.STUCK})
    return silent and still and (held or Doing.UNCLEAR not in doing) and bool(doing)


def _silence_in_words(memory: WatchMemory, quiet: float, steps: Mapping[int, Progress | None]) -> str:
    before = f", before at most {duration(memory.longest)}" if memory.longest else ""
    numbers = [seen.step for seen in steps.values() if seen and seen.step is not None]
    step = f"; last step {max(numbers)}" if numbers else ""
    return f"no log line, no step and no traffic for {duration(quiet)}{before}{step}"


def _odd_one(memory: WatchMemory, steps: Mapping[int, Progress | None]) -> tuple[int | None, str]:
    """The rank that differs from all others, in the order of what says most, and how."""
    ranks = memory.ranks
    others = f"while {_others_in_words(ranks)}" if len(ranks) > 1 else ""
    for doing in (Doing.STOPPED, Doing.STUCK):
        if held := [rank for rank in ranks if rank.doing == doing]:
            return held[0].rank, f"{_who(held)} {_WORDS[doing]} {others}".rstrip()
    spinning = [rank for rank in ranks if rank.doing == Doing.SPINS]
    waiting = [rank for rank in ranks if rank.doing == Doing.WAITS]
    if spinning and len(waiting) == 1:
        return waiting[0].rank, f"{_who(waiting)} does nothing {others}"
    behind = _behind(ranks, steps) or _fell_silent(memory)
    if behind:
        return behind[0].rank, f"{_who([behind[0]])} {behind[1]}; {_others_in_words(ranks)}"
    return None, f"{_others_in_words(ranks)}, and none differs"


_WORDS = {
    Doing.STOPPED: "is stopped by a signal (state T)",
    Doing.STUCK: "is stuck in the kernel (state D: a disk, a network file system or a driver)",
}


def _who(ranks: Sequence[RankMemory]) -> str:
    first = f"rank {ranks[0].rank} on {ranks[0].node}"
    return first if len(ranks) == 1 else f"{first} (and {len(ranks) - 1} more)"


def _others_in_words(ranks: Sequence[RankMemory]) -> str:
    spin = sum(rank.doing == Doing.SPINS for rank in ranks)
    wait = sum(rank.doing == Doing.WAITS for rank in ranks)
    unclear = sum(rank.doing == Doing.UNCLEAR for rank in ranks)
    said = [f"{spin} spin inside a collective (GPU busy at low power)"] if spin else []
    said += [f"{wait} {'waits' if wait == 1 else 'wait'} without CPU time"] if wait else []
    said += [f"of {unclear} nothing clear is seen"] if unclear else []
    return f"of {count(len(ranks), 'rank')} {' and '.join(said)}" if said else "no rank works"


def _behind(ranks: Sequence[RankMemory], steps: Mapping[int, Progress | None]) -> tuple[RankMemory, str] | None:
    """The one rank whose log ends at an earlier step than all others'."""
    at = [
        (seen.epoch or 0, seen.step, rank) for rank in ranks if (seen := steps.get(rank.rank)) and seen.step is not None
    ]
    at.sort(key=lambda one: one[:2])
    if len(at) < 2 or len(at) < len(ranks) or at[0][:2] == at[1][:2]:
        return None
    return at[0][2], f"is at step {at[0][1]}, the others at {at[1][1]} or later"


def _fell_silent(memory: WatchMemory) -> tuple[RankMemory, str] | None:
    """The one rank whose log stopped clearly before all others', by its own rhythm."""
    early = [
        rank
        for rank in memory.ranks
        if rank.log_grew >= GAPS_KEPT and memory.alive_at - rank.log_at > RHYTHM * max(rank.log_gap, 1.0)
    ]
    if len(early) != 1:
        return None
    return early[0], f"stopped printing {duration(memory.alive_at - early[0].log_at)} before the last sign of life"
