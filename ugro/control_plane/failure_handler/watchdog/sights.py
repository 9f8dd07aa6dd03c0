"""Samples of a running job, and the watchdog's memory between them. Pure (docs/watchdog.md).

Moments are in watched seconds: a clock that stops between observations.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ugro.common.models.record import Record

WATCH_GAP = 60.0
LONGEST_WATCH_GAP = 4000.0
OWN_GAPS = 2.5
GAPS_KEPT = 5
"""Seconds between two looks that count as watching: the first always; up to the second, if they are no more than so
many times the usual ones of the last looks. A master that looks once an hour watches; one that slept did not.
"""

WINDOW = 60.0
"""Watched seconds over which work is measured, so that a thread that wakes for a moment is no work."""

TRAFFIC = 2**20
TRAFFIC_RATE = 100_000
"""Bytes per second that a rank read and wrote between two samples, from which on it saves, loads or sends something.
Loggers and monitors move less in the background.
"""

CPU_WORK = 0.1
"""CPU seconds per second above which a rank works. Threads that only supervise others stay below."""

GPU_IDLE = 5.0
GPU_BUSY = 90.0
SPIN_POWER = 0.4
SPIN_SPREAD = 0.15
"""A GPU that is this busy, in percent, at less than this part of its usual power is waiting inside a collective, if its
power is steady: the most of a window is no more than so much above the least.
"""

IDLE_PERCENT = 2
IDLE_SECONDS = 3600.0
"""A job whose GPUs are all no busier than this for so long is reported once."""


@dataclass(frozen=True)
class HangLimits:
    """The shortest and the longest silence that can be called a hang, in seconds."""

    floor: float = 600.0
    ceiling: float = 7200.0

    @property
    def look_seconds(self) -> float:
        """Seconds between two samples that are taken into account."""
        return min(10.0, self.floor / 20)

    @property
    def window(self) -> float:
        """Watched seconds over which work is measured."""
        return min(WINDOW, self.floor / 5)


@dataclass(frozen=True)
class Sight:
    """One sample of a living rank. None: the node does not report it, or (of a GPU) the rank has none.

    `state` is the kernel's letter for its process; `traffic_bytes` counts both ways.
    """

    rank: int
    node: str
    log_bytes: int | None = None
    traffic_bytes: int | None = None
    cpu_seconds: float | None = None
    state: str | None = None
    has_gpu: bool = False
    utilization_percent: int | None = None
    power_w: float | None = None


class Doing(StrEnum):
    """Activity of a rank over the last window."""

    WORKS = "works"
    WAITS = "waits"
    SPINS = "spins"
    STOPPED = "stopped"
    STUCK = "stuck"
    UNCLEAR = "unclear"


class RankWindow(Record):
    """The present window of a rank: sums over the samples that had a value.

    The extremes of the power span windows as long as its GPU seems to spin: few samples may fall into each.
    """

    cpu_seconds: float | None = None
    states: str = ""
    utilization: float = 0.0
    utilization_looks: int = 0
    power: float = 0.0
    power_looks: int = 0
    power_least: float = 0.0
    power_most: float = 0.0


class RankMemory(Record):
    """Memory of one rank. `usual_power_w` is the power of its GPU, busy, while the job made progress."""

    rank: int
    node: str
    log_bytes: int | None = None
    log_at: float = 0.0
    log_grew: int = 0
    log_gap: float = 0.0
    traffic_bytes: int | None = None
    usual_power_w: float | None = None
    doing: Doing = Doing.UNCLEAR
    seen: RankWindow = RankWindow()


class WatchMemory(Record):
    """The watchdog's memory of a job's attempt. Only `looked_at` and `look_gaps` are of the real clock.

    `longest` is the longest gap between two signs of life. `stepped` is whether its logs show a step; None: they were
    not read since they grew. `hung_at` is when a present hang was reported, `culprit` the rank at fault.
    """

    attempt: int
    looked_at: float
    look_gaps: tuple[float, ...] = ()
    watched: float = 0.0
    alive_at: float = 0.0
    signs: int = 0
    longest: float = 0.0
    window_at: float = 0.0
    still_at: float = 0.0
    still_looks: int = 0
    stepped: bool | None = None
    idle: float = 0.0
    idle_told: bool = False
    hung_at: float | None = None
    culprit: int | None = None
    ranks: tuple[RankMemory, ...] = ()


def look(
    memory: WatchMemory | None, attempt: int, sights: Sequence[Sight], at: float, limits: HangLimits
) -> WatchMemory:
    """The memory after one more look, at a moment of the real clock."""
    if memory is None or memory.attempt != attempt:
        ranks = tuple(_first_sight(sight) for sight in sights)
        return WatchMemory(attempt=attempt, looked_at=at, ranks=ranks)
    gap = at - memory.looked_at
    counts = _counts(gap, memory.look_gaps)
    known = {rank.rank: rank for rank in memory.ranks}
    lives = known.keys() != {sight.rank for sight in sights} or any(_lives(known[one.rank], one, gap) for one in sights)
    watched = memory.watched + (gap if counts else 0.0)
    changed: dict[str, object] = {
        "looked_at": at,
        "look_gaps": (*memory.look_gaps, gap)[-GAPS_KEPT:] if 0 < gap <= LONGEST_WATCH_GAP else memory.look_gaps,
        "watched": watched,
        "idle": memory.idle + (gap if counts else 0.0) if _all_idle(sights) else 0.0,
        "still_looks": memory.still_looks + 1,
    }
    if lives:
        # A start teaches nothing of what comes after it; a job with progress again after an alert did not hang.
        healthy = memory.signs > 0 and (memory.hung_at is not None or memory.stepped is not False)
        longest = max(memory.longest, watched - memory.alive_at) if healthy else memory.longest
        changed |= {"signs": memory.signs + 1, "longest": longest, "hung_at": None, "stepped": memory.stepped or None}
    if lives or not counts:  # what happened unobserved is unknown: silence begins again
        changed |= {"alive_at": watched, "still_at": watched, "still_looks": 0}
    after = [_remember(known.get(sight.rank), sight, watched) for sight in sights]
    if not counts:
        after = [rank.model_copy(update={"seen": _begin(one)}) for rank, one in zip(after, sights, strict=True)]
        changed["window_at"] = watched
    memory = memory.model_copy(update=changed | {"ranks": tuple(after)})
    return _close_window(memory, sights) if watched - memory.window_at >= limits.window else memory


def _counts(gap: float, usual: Sequence[float]) -> bool:
    own = OWN_GAPS * statistics.median(usual) if usual else 0.0
    return 0 <= gap <= max(WATCH_GAP, min(own, LONGEST_WATCH_GAP))


def _lives(before: RankMemory, now: Sight, gap: float) -> bool:
    """A log that grew (or was begun again), or traffic: checkpoints, caches, downloads, uploads, data."""
    grew = None not in (before.log_bytes, now.log_bytes) and before.log_bytes != now.log_bytes
    moved = (now.traffic_bytes or 0) - (before.traffic_bytes or 0) if before.traffic_bytes is not None else 0
    return grew or moved >= max(TRAFFIC, TRAFFIC_RATE * gap)


def _all_idle(sights: Sequence[Sight]) -> bool:
    gpus = [sight.utilization_percent for sight in sights if sight.has_gpu]
    return bool(gpus) and all(percent is not None and percent <= IDLE_PERCENT for percent in gpus)


def _first_sight(sight: Sight) -> RankMemory:
    return RankMemory(
        rank=sight.rank,
        node=sight.node,
        log_bytes=sight.log_bytes,
        traffic_bytes=sight.traffic_bytes,
        seen=_begin(sight),
    )


def _begin(sight: Sight) -> RankWindow:
    return RankWindow(cpu_seconds=sight.cpu_seconds)


def _remember(before: RankMemory | None, now: Sight, watched: float) -> RankMemory:
    if before is None:
        return _first_sight(now)
    changed: dict[str, object] = {"log_bytes": now.log_bytes, "traffic_bytes": now.traffic_bytes}
    if None not in (before.log_bytes, now.log_bytes) and before.log_bytes != now.log_bytes:
        longest = max(before.log_gap, watched - before.log_at) if before.log_grew else 0.0
        changed |= {"log_at": watched, "log_grew": before.log_grew + 1, "log_gap": longest}
    seen = before.seen
    states = "".join(sorted({*seen.states, now.state or "?"}))
    percent, power = now.utilization_percent, now.power_w
    sums = {
        "states": states,
        "utilization": seen.utilization + (percent or 0),
        "utilization_looks": seen.utilization_looks + (percent is not None),
        "power": seen.power + (power or 0.0),
        "power_looks": seen.power_looks + (power is not None),
        "power_least": min(power or 0.0, seen.power_least) if seen.power_most else power or 0.0,
        "power_most": max(power or 0.0, seen.power_most),
    }
    return before.model_copy(update=changed | {"seen": seen.model_copy(update=sums)})


def _close_window(memory: WatchMemory, sights: Sequence[Sight]) -> WatchMemory:
    """See what each rank did over the window, and begin another one."""
    seconds = memory.watched - memory.window_at
    progressed = memory.alive_at > memory.window_at
    ranks = [_closed(rank, sight, seconds, progressed) for rank, sight in zip(memory.ranks, sights, strict=True)]
    changed: dict[str, object] = {"ranks": tuple(ranks), "window_at": memory.watched}
    if any(rank.doing == Doing.WORKS for rank in ranks):
        changed |= {"still_at": memory.watched, "still_looks": 0}
    return memory.model_copy(update=changed)


def _closed(rank: RankMemory, sight: Sight, seconds: float, progressed: bool) -> RankMemory:
    seen = rank.seen
    busy = seen.utilization / seen.utilization_looks if seen.utilization_looks else None
    power = seen.power / seen.power_looks if seen.power_looks else None
    known = seen.cpu_seconds is not None and sight.cpu_seconds is not None
    cpu = (sight.cpu_seconds - seen.cpu_seconds) / seconds if known else None  # type: ignore[operator]
    usual = rank.usual_power_w
    if progressed and power is not None and busy is not None and busy > GPU_BUSY / 2:
        usual = max(usual or 0.0, power)
    doing = _doing(seen, cpu, sight.has_gpu, busy, None if usual is None else (power or 0.0) / usual)
    begun = _begin(sight)
    if doing == Doing.SPINS:
        begun = begun.model_copy(update={"power_least": seen.power_least, "power_most": seen.power_most})
    return rank.model_copy(update={"usual_power_w": usual, "doing": doing, "seen": begun})


def _doing(seen: RankWindow, cpu: float | None, has_gpu: bool, busy: float | None, power: float | None) -> Doing:
    """`cpu` is in seconds a second, `busy` in percent, `power` a part of the usual one."""
    if seen.states == "T":
        return Doing.STOPPED
    if seen.states == "D" and cpu is not None and cpu < CPU_WORK:
        return Doing.STUCK
    if busy is not None and busy >= GPU_BUSY:  # its CPU spins too, whatever the GPU does
        steady = seen.power_most <= (1 + SPIN_SPREAD) * seen.power_least
        return Doing.UNCLEAR if not power else Doing.SPINS if power < SPIN_POWER and steady else Doing.WORKS
    if busy is not None and busy > GPU_IDLE:
        return Doing.WORKS
    if cpu is None:
        return Doing.UNCLEAR
    if cpu >= CPU_WORK:
        return Doing.WORKS
    return Doing.UNCLEAR if has_gpu and busy is None else Doing.WAITS
