"""How often the watchdog calls a healthy run hung, and how soon it finds a hang, over simulated traces.

A trace is a list of phases, drawn with fixed seeds: a start (download, compile), then steps with checkpoint saves,
evaluations, data stalls, silent hours and uploads between them, looked at by a resident master, by cron, or by one that
sleeps now and then. A hang is a trace that ends with a rank stopped, in state D or idle while the others wait, or with
all of them waiting; "steady" ones had nothing but steps and checkpoint saves before.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace

from benchmarks.report import Row
from ugro.control_plane.failure_handler.watchdog.judge import State, judge, needs_steps
from ugro.control_plane.failure_handler.watchdog.sights import HangLimits, Sight, WatchMemory, look
from ugro.control_plane.training_metrics.steps import Progress

HEALTHY = 300
HANGS = 200
HOURS = 8
LIMITS = HangLimits()
GROUP = "the watchdog"
SLEEP_SECONDS = 8 * 3600
CRON_SECONDS = 300.0
BACKGROUND = 5_000
"""Bytes a second that the loggers of a rank that waits still move."""


@dataclass(frozen=True)
class Phase:
    """So many seconds in which ranks do this. Rates are for each second; `log_every` 0: nothing is printed.

    The `workers` are busy like this; the others wait for them: their GPUs spin in a collective if they have some.
    """

    name: str
    seconds: float
    log_every: float = 0.0
    cpu: float = 1.0
    traffic: float = 0.0
    busy: int = 97
    power: float = 1.0
    workers: tuple[int, ...] | None = None


def measure() -> Iterator[Row]:
    """The rows of this benchmark."""
    alarms = [trace for trace in map(Trace, range(HEALTHY)) if trace.run() is not None]
    named = ", ".join(sorted(f"{trace.phase.name} ({trace.master})" for trace in alarms))
    hours = HEALTHY * HOURS
    note = f"{len(alarms)} of {HEALTHY} runs of {HOURS} h{': ' + named if named else ''}"
    yield Row(GROUP, "healthy runs called hung", 100 * len(alarms) / HEALTHY, "%", 1.0, note=note)
    yield Row(GROUP, "false alarms in 1000 h of training", 1000 * len(alarms) / hours, "")
    for kind in ("stopped", "stuck", "idle", "all wait"):
        yield from _delays(kind, steady=True)
        yield from _delays(kind, steady=False)


def _delays(kind: str, steady: bool) -> Iterator[Row]:
    delays, right, missed = [], 0, 0
    for seed in range(HANGS // 8):
        trace = Trace(10_000 + seed, hang=kind, steady=steady)
        if (found := trace.run()) is None or found < trace.hung_at:
            missed += 1
        else:
            delays.append((found - trace.hung_at) / 60)
            right += trace.named == trace.odd
    spread = f"{min(delays):.0f}–{max(delays):.0f} in {len(delays)}, {missed} missed" if delays else f"{missed} missed"
    what = f"{kind}, {'steady' if steady else 'with long silences'} before"
    limit = (LIMITS.ceiling + 2 * CRON_SECONDS) / 60
    yield Row(
        GROUP, f"until a hang is told: {what}", statistics.median(delays) if delays else None, "min", limit, note=spread
    )
    if kind != "all wait":
        yield Row(GROUP, f"right rank named: {what}", 100 * right / max(1, len(delays)), "%", 95.0, least=True)


class Trace:
    """One simulated job under the watchdog."""

    def __init__(self, seed: int, hang: str | None = None, steady: bool = False) -> None:
        self._dice = random.Random(seed)
        self._hang, self._steady = hang, steady
        self._count = self._dice.choice((2, 3, 4, 8))
        self._gpus = self._dice.random() < 0.8
        self._watts = self._dice.uniform(150, 600)
        self.master = (
            self._dice.choice(("serve", "serve", "cron", "asleep"))
            if hang is None
            else self._dice.choice(("serve", "cron"))
        )
        self._every = CRON_SECONDS if self.master == "cron" else 30.0
        self.odd = self._dice.randrange(self._count)
        self.hung_at = float("inf")
        self.named: int | None = None
        self._now = 1.7e9
        self._memory: WatchMemory | None = None
        self._sights = [Sight(rank, f"gpu{rank}", 0, 0, 0.0, "S", has_gpu=self._gpus) for rank in range(self._count)]
        self._logged = 0.0
        self.phase = Phase("begin", 0)

    def run(self) -> float | None:
        """When it was called hung, by the trace's clock; None: never."""
        for phase in self._phases():
            self.phase = phase
            end = self._now + self.phase.seconds
            while self._now < end:
                slept = self.master == "asleep" and self._dice.random() < self._every / SLEEP_SECONDS
                self._pass(SLEEP_SECONDS if slept else self._every)
                if self._look():
                    return self._now
        return None

    def _phases(self) -> Iterator[Phase]:
        dice = self._dice
        yield Phase("download", dice.uniform(0, 1800), cpu=0.05, traffic=3e5, busy=0, power=0.15)
        yield Phase("compile", dice.uniform(20, 2400), cpu=1.0, busy=dice.choice((0, 20)), power=0.3)
        begun, printing = self._now, dice.choice((1, 5, 30, 120))
        hours = HOURS if self._hang is None else dice.uniform(1, 3)
        while self._now - begun < hours * 3600:
            yield Phase("steps", dice.uniform(300, 3600), log_every=printing, power=dice.uniform(0.8, 1.0))
            yield self._save() if self._steady or dice.random() < 0.5 else self._pause()
        if self._hang:
            self.hung_at = self._now
            yield Phase(self._hang, LIMITS.ceiling + 3600)

    def _save(self) -> Phase:
        longest = 120 if self._steady else 1200
        return Phase("save", self._dice.uniform(5, longest), cpu=0.3, traffic=5e7, busy=0, power=0.2, workers=(0,))

    def _pause(self) -> Phase:
        """Something healthy in which nothing is printed. A slow upload looks most like a hang."""
        between = self._dice.uniform
        return self._dice.choice(
            (
                Phase("evaluation", between(60, 5400), power=between(0.35, 0.9)),
                Phase("evaluation on one rank", between(60, 3600), busy=40, power=0.4, workers=(0,)),
                Phase("metrics on the CPU", between(60, 3600), busy=0, power=0.15, workers=(0,)),
                Phase("data stall", between(10, 900), cpu=0.6, busy=5, power=0.2),
                Phase("slow disk", between(10, 500), cpu=0.01, busy=0, power=0.15),
                Phase(
                    "upload", between(60, 900), cpu=0.03, traffic=between(2e4, 1e7), busy=0, power=0.15, workers=(0,)
                ),
                Phase("silent hours", between(600, 3 * 3600), power=between(0.7, 1.0)),
            )
        )

    def _pass(self, seconds: float) -> None:
        self._now += seconds
        phase = self.phase
        hung = self._now > self.hung_at
        if phase.log_every and not hung:
            self._logged += seconds / max(phase.log_every, 1.0)
        for number, sight in enumerate(self._sights):
            works = not hung and (phase.workers is None or number in phase.workers)
            self._sights[number] = self._worked(sight, phase, seconds) if works else self._waited(sight, seconds, hung)
        self._sights[0] = replace(self._sights[0], log_bytes=80 * int(self._logged))

    def _worked(self, sight: Sight, phase: Phase, seconds: float) -> Sight:
        noise = self._dice.uniform(0.9, 1.1)
        return replace(
            sight,
            cpu_seconds=(sight.cpu_seconds or 0) + phase.cpu * noise * seconds,
            traffic_bytes=(sight.traffic_bytes or 0) + int(phase.traffic * seconds),
            utilization_percent=min(100, int(phase.busy * noise)) if self._gpus else None,
            power_w=self._watts * phase.power * noise if self._gpus else None,
        )

    def _waited(self, sight: Sight, seconds: float, hung: bool) -> Sight:
        """A rank that waits for another, or for nothing any more; loggers write a little beside it."""
        odd = hung and sight.rank == self.odd and self._hang != "all wait"
        spins = self._gpus and not odd
        return replace(
            sight,
            state={"stopped": "T", "stuck": "D"}.get(self._hang or "", "S") if odd else "S",
            cpu_seconds=(sight.cpu_seconds or 0) + (1.0 if spins else 0.0 if odd else 0.02) * seconds,
            traffic_bytes=(sight.traffic_bytes or 0) + int(BACKGROUND * seconds),
            utilization_percent=(100 if spins else 0) if self._gpus else None,
            power_w=self._watts * (0.28 if spins else 0.12) * self._dice.uniform(0.98, 1.02) if self._gpus else None,
        )

    def _look(self) -> bool:
        memory = look(self._memory, 1, self._sights, self._now, LIMITS)
        steps: dict[int, Progress | None] = {}
        if needs_steps(memory, LIMITS):
            steps = self._steps()
            memory = memory.model_copy(update={"stepped": any(steps.values())})
        verdict = judge(memory, LIMITS, steps)
        self._memory = memory
        self.named = verdict.rank
        return verdict.state == State.HUNG

    def _steps(self) -> dict[int, Progress | None]:
        """Each rank's log; the one that hangs idle (without a GPU nothing else tells) is a step behind."""
        if not self._logged:
            return {}
        late = self.odd if self._hang == "idle" and self._now > self.hung_at else -1
        return {rank: Progress(99 if rank == late else 100) for rank in range(self._count)}
