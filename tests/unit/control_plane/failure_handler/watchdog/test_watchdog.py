"""What the watchdog thinks of a job over simulated runs, and what a real node tells it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugro.common.models.run import Effort, RankFiles
from ugro.common.paths import RunPaths
from ugro.control_plane.failure_handler.watchdog.judge import ProgressVerdict, State, allowance, judge, needs_steps
from ugro.control_plane.failure_handler.watchdog.sights import (
    IDLE_SECONDS,
    TRAFFIC,
    HangLimits,
    Sight,
    WatchMemory,
    look,
)
from ugro.control_plane.training_metrics.steps import Progress
from ugro.nodes.remote.run import run_files
from ugro.nodes.remote.run.run_files import parse_look
from ugro.nodes.transport import LocalTransport
from ugro.testing import builders
from ugro.testing.commands import until

USUAL = HangLimits()
STEP = Progress(7)


@dataclass
class Run:
    """A simulated job whose ranks are looked at every `every` seconds; time is the test's own."""

    count: int = 3
    every: float = 10.0
    limits: HangLimits = USUAL
    steps: bool = True
    now: float = 1e9
    memory: WatchMemory | None = None
    sights: list[Sight] = field(default_factory=list)
    at_steps: dict[int, Progress | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sights = [Sight(rank, f"gpu{rank}", 0, 0, 0.0, "S") for rank in range(self.count)]
        self.at_steps = dict.fromkeys(range(self.count), STEP if self.steps else None)
        self.look()

    def change(self, *ranks: int, **changes: object) -> None:
        for rank in ranks or range(self.count):
            self.sights[rank] = replace(self.sights[rank], **changes)  # type: ignore[arg-type]

    def log(self, *ranks: int) -> None:
        for rank in ranks or range(self.count):
            self.change(rank, log_bytes=(self.sights[rank].log_bytes or 0) + 80)

    def look(self) -> ProgressVerdict:
        self.memory = look(self.memory, 1, self.sights, self.now, self.limits)
        steps = None
        if needs_steps(self.memory, self.limits):
            steps = self.at_steps
            self.memory = self.memory.model_copy(update={"stepped": any(steps.values())})
        verdict = judge(self.memory, self.limits, steps)
        self.memory = WatchMemory.model_validate_json(
            self.memory.model_copy(update={"hung_at": self.hung_at(verdict)}).model_dump_json()
        )
        return verdict

    def hung_at(self, verdict: ProgressVerdict) -> float | None:
        since = self.memory.hung_at
        return (self.memory.watched if since is None else since) if verdict.state == State.HUNG else None

    def go(self, seconds: float, work: Iterable[int] = (), load: float = 1.0) -> ProgressVerdict:
        """Let time pass with looks; the ranks of `work` use the CPU. Returns the last verdict, or that of a hang."""
        end = self.now + seconds
        while self.now < end:
            for rank in work:
                self.change(rank, cpu_seconds=(self.sights[rank].cpu_seconds or 0.0) + load * self.every)
            self.now += self.every
            verdict = self.look()
            if verdict.state == State.HUNG:
                return verdict
        return verdict

    def train(self, steps: int = 50, seconds: float = 20.0) -> None:
        for _ in range(steps):
            self.log(0)
            assert self.go(seconds, work=range(self.count)).state != State.HUNG


def test_a_stopped_rank_is_named_while_the_others_wait() -> None:
    run = Run()
    run.train()
    run.change(1, state="T")
    began = run.now
    verdict = run.go(7200)
    assert verdict.state == State.HUNG and verdict.rank == 1
    assert "rank 1 on gpu1 is stopped by a signal (state T) while of 3 ranks 2 wait without CPU time" in verdict.reason
    assert "before at most 20s; last step 7" in verdict.reason
    assert 600 <= run.now - began <= 700, "the floor, and a window"


def test_a_rank_in_the_kernel_and_no_rank_that_differs() -> None:
    run = Run()
    run.train()
    run.change(2, state="D")
    assert run.go(7200).rank == 2
    run = Run()
    run.train()
    verdict = run.go(7200)
    assert verdict.rank is None and "of 3 ranks 3 wait without CPU time, and none differs" in verdict.reason


def test_the_rank_whose_gpu_is_idle_while_the_others_spin() -> None:
    run = Run()
    run.change(has_gpu=True, utilization_percent=97, power_w=300.0)
    run.train()
    run.change(power_w=90.0)
    run.change(2, utilization_percent=0, power_w=25.0)
    verdict = run.go(7200, work=(0, 1))
    assert verdict.state == State.HUNG and verdict.rank == 2
    assert "rank 2 on gpu2 does nothing while of 3 ranks 2 spin inside a collective" in verdict.reason


@pytest.mark.parametrize(("percent", "power"), [(97, 300.0), (97, None), (40, 60.0), (None, None)])
def test_a_gpu_that_works_or_of_which_too_little_is_known_is_no_hang(percent: int | None, power: float | None) -> None:
    run = Run()
    run.change(has_gpu=True, utilization_percent=97, power_w=300.0)
    run.train()
    run.change(utilization_percent=percent, power_w=power)
    assert run.go(40_000).state == State.QUIET


def test_a_node_that_tells_nothing_is_no_hang() -> None:
    run = Run()
    run.change(cpu_seconds=None, traffic_bytes=None, state=None)
    for _ in range(50):
        run.log()
        run.go(20)
    assert run.go(40_000).state == State.QUIET


def test_the_rank_that_is_behind_and_the_one_that_fell_silent_first() -> None:
    run = Run()
    run.train()
    run.at_steps[1] = Progress(6)
    verdict = run.go(7200)
    assert verdict.rank == 1 and "is at step 6, the others at 7 or later" in verdict.reason
    run = Run()
    for _ in range(30):
        run.log()
        run.go(20, work=range(3))
    for _ in range(30):
        run.log(0, 1)
        run.go(20, work=range(3))
    verdict = run.go(7200)
    assert verdict.rank == 2 and "stopped printing 10m 00s before the last sign of life" in verdict.reason


def test_it_is_told_once_and_over_with_the_next_sign_of_life() -> None:
    run = Run()
    run.train()
    run.go(7200)
    assert run.memory
    for _ in range(20):
        run.now += 10
        assert run.look().state == State.HUNG
    run.log(2)
    run.now += 10
    assert run.look().state == State.PROGRESSING
    assert allowance(run.memory, USUAL) > 2400, "what goes on by itself is this job's rhythm, and not told again"


def test_long_checkpoint_saves_and_evaluations_are_no_hang() -> None:
    run = Run()
    run.train()
    for _ in range(300):
        run.change(0, traffic_bytes=(run.sights[0].traffic_bytes or 0) + TRAFFIC)
        assert run.go(10).state != State.HUNG
    run.log(0)
    assert run.go(9000, work=(0,)).state != State.HUNG, "rank 0 evaluates, the others wait for it"
    run.log(0)
    run.train()


def test_a_gap_that_was_healthy_once_is_healthy_again() -> None:
    run = Run()
    run.train()
    run.go(550)
    run.train()
    assert run.memory and allowance(run.memory, USUAL) == pytest.approx(3 * 570)
    assert run.go(1500).state == State.QUIET
    assert run.go(400).state == State.HUNG


def test_before_the_first_step_there_is_more_patience() -> None:
    run = Run(steps=False)
    run.log()
    assert run.go(1700).state == State.QUIET
    assert run.go(200).state == State.HUNG
    run = Run(steps=False)
    run.log()
    assert run.go(1700).state == State.QUIET
    run.at_steps[0] = STEP
    run.log()
    assert run.go(560).state == State.QUIET, "the start was no rhythm"
    assert run.go(100).state == State.HUNG


def test_a_slow_first_step_is_no_rhythm_of_what_follows() -> None:
    run = Run(steps=False)
    run.log()
    run.go(20)
    assert run.go(3000, work=range(3)).state == State.QUIET
    run.at_steps[0] = STEP
    run.train()
    assert run.memory and run.memory.longest < 60
    assert run.go(700).state == State.HUNG


def test_time_in_which_the_master_slept_does_not_count() -> None:
    run = Run()
    run.train()
    for _ in range(30):
        run.now += 8 * 3600
        assert run.look().state == State.PROGRESSING
        assert run.go(500).state != State.HUNG
    run.now -= 3600  # the clock is set back
    assert run.look().state == State.PROGRESSING


@pytest.mark.parametrize("minutes", [2, 5, 15, 60])
def test_a_sweep_every_few_minutes_finds_a_hang_too(minutes: float) -> None:
    run = Run(every=60 * minutes)
    for _ in range(20):
        run.log(0)
        assert run.go(run.every, work=range(3)).state == State.PROGRESSING
    run.change(1, state="T")
    began = run.now
    verdict = run.go(24 * 3600)
    assert verdict.rank == 1
    assert run.now - began >= 3 * run.every
    assert run.now - began <= max(USUAL.floor, 4 * run.every) + 2 * run.every


def test_short_bursts_of_background_threads_are_no_work() -> None:
    run = Run()
    run.train()
    assert run.go(900, work=range(3), load=0.05).state == State.HUNG


def test_idle_gpus_are_counted_over_an_hour_of_watching() -> None:
    run = Run()
    run.change(has_gpu=True, utilization_percent=1)
    run.go(1800, work=range(3))
    assert run.memory and run.memory.idle == 1800
    run.change(0, utilization_percent=3)
    run.go(20)
    assert run.memory.idle == 0
    run.change(0, utilization_percent=None)
    run.go(20)
    assert run.memory.idle == 0, "what is not known is not idle"
    run.change(0, utilization_percent=0)
    run.go(IDLE_SECONDS, work=range(3))
    assert run.memory.idle == IDLE_SECONDS


def test_a_new_attempt_begins_anew_and_a_rank_that_ends_is_a_sign_of_life() -> None:
    run = Run()
    run.train()
    assert run.memory
    assert look(run.memory, 2, run.sights, run.now, USUAL).longest == 0
    run.go(500)
    run.now += 10
    after = look(run.memory, 1, run.sights[:2], run.now, USUAL)
    assert after.alive_at == after.watched


@settings(max_examples=40, deadline=None)
@given(
    gaps=st.lists(st.integers(1, 60), min_size=5, max_size=20), stretch=st.floats(0.1, 2.9), every=st.integers(2, 60)
)
def test_a_run_within_its_own_rhythm_is_never_called_hung(gaps: list[int], stretch: float, every: int) -> None:
    """Gaps in minutes; each later one is at most `stretch` times the longest before it, and nothing else shows work."""
    run = Run(every=float(every), limits=HangLimits(60.0, 10 * 3600.0))
    longest = 0.0
    for gap in gaps:
        run.log(0)
        wait = max(1, min(gap * 60.0, stretch * longest) // every) * every  # an observation at the end of each
        longest = max(longest, wait)
        assert run.go(wait).state != State.HUNG


@settings(max_examples=40, deadline=None)
@given(
    seconds=st.floats(5, 300), every=st.integers(2, 120), floor=st.integers(300, 1200), spin=st.booleans(),
    odd=st.integers(0, 2),
)  # fmt: skip
def test_every_hang_is_found_within_the_ceiling(seconds: float, every: int, floor: int, spin: bool, odd: int) -> None:
    run = Run(every=float(every), limits=HangLimits(floor, 3600.0))
    run.change(has_gpu=spin, utilization_percent=95 if spin else None, power_w=250.0 if spin else None)
    run.train(20, seconds)
    if spin:
        run.change(power_w=80.0)
    run.change(odd, state="T")
    began = run.now
    assert run.go(5000, work=[rank for rank in range(3) if spin and rank != odd]).rank == odd
    assert run.now - began <= 3600 + 60 + 2 * every


# --- what nodes say --------------------------------------------------------------------------------------------------


def test_what_ranks_have_done_is_parsed_and_older_answers_too() -> None:
    text = (
        "@n clock 10.5 boot\n@n run\nrank 0 9 alive\neffort 0 S 250 4096 8192\n  77 rank-0.log\n  77 total\n"
        "rank 1 8 alive\neffort 1 Sleeping 1 1 1\neffort 1 S -1 0 0\neffort 1 S 1 2\neffort x S 1 2 3\n"
        "5 rank-x.log\n5 rank-1.log.gz\n99999999999999999999 rank-1.log\neffort 1 S 9 9 " + "9" * 30 + "\n@n -\n"
    )
    first, second = parse_look(text, "n")[0].ranks
    assert first == RankFiles(0, 9, True, effort=Effort("S", 2.5, 4096, 8192), log_bytes=77)
    assert second == RankFiles(1, 8, True), "what makes no sense is passed over"


BUSY = """\
import multiprocessing, os, time
def spin():
    end = time.process_time() + 0.4
    while time.process_time() < end: pass
    open('done', 'w').close()
    time.sleep(600)
context = multiprocessing.get_context('fork')
ended = context.Process(target=lambda: [None for _ in range(10 ** 6)]); ended.start(); ended.join()
context.Process(target=spin, daemon=True).start()
print('hello', flush=True)
with open('data', 'wb') as file:
    file.write(bytes(3 * 2 ** 20)); file.flush(); os.fsync(file.fileno())
time.sleep(600)
"""


async def test_a_look_tells_what_a_rank_and_its_workers_did(home: Path) -> None:
    folder = home / ".ugro/jobs/job-001/1/node-0"
    folder.mkdir(parents=True)
    (folder / "a b) R 1").symlink_to(os.path.realpath("/proc/self/exe"))  # a name that would end stat's second field
    with (folder / "rank-0.log").open("w") as log:
        process = subprocess.Popen(
            [str(folder / "a b) R 1"), "-c", BUSY], cwd=folder, stdout=log, start_new_session=True,
        )  # fmt: skip
    try:
        started = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
        (folder / "rank-0.pid").write_text(f"{process.pid} {started}\n")
        node = LocalTransport(builders.this_machine())

        def seen() -> RankFiles:
            return found[0].ranks[0]

        until((folder / "done").exists, 30)
        until(lambda: (folder / "data").exists() and (folder / "data").stat().st_size == 3 * 2**20)
        found = await run_files.look(node, [RunPaths("~/.ugro", "job-001", 1, 0)])
        effort = seen().effort
        assert seen().alive and seen().log_bytes == 6 and effort
        assert effort.cpu_seconds >= 0.4, "a worker that lives counts"
        assert effort.written_bytes >= 3 * 2**20 and effort.state in "SDR"
        process.send_signal(signal.SIGSTOP)
        until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T")
        found = await run_files.look(node, [RunPaths("~/.ugro", "job-001", 1, 0)])
        assert (effort := seen().effort) and effort.state == "T"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        await node.close()
