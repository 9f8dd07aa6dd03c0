"""What the watchdog thinks of a job: simulated runs, and real ranks of which one is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import forked
import pytest
from cluster import MEET, Ugro, document, until
from hypothesis import given, settings
from hypothesis import strategies as st

from ugro.common.config import NodeConfig
from ugro.common.errors import JobSpecError, NodeError, Unreachable
from ugro.common.job_spec import JobSpec, load_job_spec
from ugro.common.models import CodeVersion, Gpu, Job, JobState, NodeShare, NodeView, Placement, Rank
from ugro.common.paths import RunPaths
from ugro.control_plane.failure_handler.sights import IDLE_SECONDS, TRAFFIC, Limits, Memory, Sight, look
from ugro.control_plane.failure_handler.steps import Progress, last_progress, progress_of
from ugro.control_plane.failure_handler.watch import hang_of, limits_of, watch
from ugro.control_plane.failure_handler.watchdog import State, Verdict, allowance, judge, needs_steps
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.observation import Observation
from ugro.control_plane.stacks import kept
from ugro.nodes import run_files
from ugro.nodes.run_files import Effort, RankFiles, RunFiles, parse_look
from ugro.nodes.stacks import NodeStacks, RankStack
from ugro.nodes.transport import LocalTransport
from ugro.sandbox.cluster import Sandbox

USUAL = Limits()
STEP = Progress(7)


@dataclass
class Run:
    """A simulated job whose ranks are looked at every `every` seconds; time is the test's own."""

    count: int = 3
    every: float = 10.0
    limits: Limits = USUAL
    steps: bool = True
    now: float = 1e9
    memory: Memory | None = None
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

    def look(self) -> Verdict:
        self.memory = look(self.memory, 1, self.sights, self.now, self.limits)
        steps = None
        if needs_steps(self.memory, self.limits):
            steps = self.at_steps
            self.memory = self.memory.model_copy(update={"stepped": any(steps.values())})
        verdict = judge(self.memory, self.limits, steps)
        self.memory = Memory.model_validate_json(
            self.memory.model_copy(update={"hung_at": self.hung_at(verdict)}).model_dump_json()
        )
        return verdict

    def hung_at(self, verdict: Verdict) -> float | None:
        since = self.memory.hung_at
        return (self.memory.watched if since is None else since) if verdict.state == State.HUNG else None

    def go(self, seconds: float, work: Iterable[int] = (), load: float = 1.0) -> Verdict:
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
    run.now -= 3600  # somebody set the clock back
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
    run = Run(every=float(every), limits=Limits(60.0, 10 * 3600.0))
    longest = 0.0
    for gap in gaps:
        run.log(0)
        wait = max(1, min(gap * 60.0, stretch * longest) // every) * every  # somebody looks at the end of each
        longest = max(longest, wait)
        assert run.go(wait).state != State.HUNG


@settings(max_examples=40, deadline=None)
@given(
    seconds=st.floats(5, 300), every=st.integers(2, 120), floor=st.integers(300, 1200), spin=st.booleans(),
    odd=st.integers(0, 2),
)  # fmt: skip
def test_every_hang_is_found_within_the_ceiling(seconds: float, every: int, floor: int, spin: bool, odd: int) -> None:
    run = Run(every=float(every), limits=Limits(floor, 3600.0))
    run.change(has_gpu=spin, utilization_percent=95 if spin else None, power_w=250.0 if spin else None)
    run.train(20, seconds)
    if spin:
        run.change(power_w=80.0)
    run.change(odd, state="T")
    began = run.now
    assert run.go(5000, work=[rank for rank in range(3) if spin and rank != odd]).rank == odd
    assert run.now - began <= 3600 + 60 + 2 * every


# --- what logs say of steps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "step", "total", "epoch"),
    [
        ("step 12/100 epoch 1 loss 2.8869 lr 1.50e-03", 12, 100, 1),
        ("{'step': 12, 'loss': 2.1}", 12, None, None),
        ("Epoch 1:  12%|█▎   | 12/100 [00:10<01:00, 1.2it/s, loss=2.1]", 12, 100, 1),
        ("\x1b[32m 12%|█▎   | 12/100 [00:10<01:00,  1.2it/s]\x1b[0m", 12, 100, None),
        ("iter 12: loss 2.3", 12, None, None),
        ("trainer/global_step=12", 12, None, None),
        (" iteration       12/     100 | consumed samples:  40 |", 12, 100, None),
        ("[2026-01-01 10:00:00,000] [INFO] [Rank 0] step=12, skipped=0, lr=[0.1]", 12, None, None),
        ("steps: 12 loss: 8.5 iter time (s): 0.5", 12, None, None),
        ("Step [1,200/5000]", 1200, 5000, None),
        ("{'loss': 2.3, 'grad_norm': 1.0, 'epoch': 0.5}", None, None, None),
        ("train_loss=nan", None, None, None),
    ],
)
def test_steps_in_logs(line: str, step: int | None, total: int | None, epoch: int | None) -> None:
    seen = progress_of(line)
    assert seen and (seen.step, seen.total, seen.epoch) == (step, total, epoch)


@pytest.mark.parametrize(
    "line",
    [
        "", "max_steps=500", "{'batch_size': 2, 'steps': 400}", "steps=400 seed=1",
        "eval step 900/900", "[valid] step 3", "Total optimization steps = 2000",
         "--save_steps 100", "step time 12ms", "step 12 ms", "time per step 12", "step 0.5",
        "Loading checkpoint shards:  50%|█ | 1/2 [00:01<00:01]", "Map: 100%|██| 12/12 [00:01<00:01]",
        "Evaluating:  5%|x| 1/20 [00:01<00:20]", "rank 0 of 3", "a footstep 12", "lossless 3",
    ],
)  # fmt: skip
def test_what_is_no_step(line: str) -> None:
    assert progress_of(line) is None


def test_the_last_step_of_a_log_is_not_that_of_an_untitled_evaluation() -> None:
    bars = " 50%|x| 500/1000 [00:10<00:10]\r 51%|x| 510/1000 [00:10<00:10]\n  5%|x| 1/20 [00:01<00:20]\r"
    assert last_progress(bars) == Progress(510, 1000, bar=True)
    assert last_progress("step 3\n" + bars) == Progress(3)
    assert last_progress("loss: 2\nbye") == Progress(None)
    assert last_progress("hello\n") is None


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
        node = LocalTransport(NodeConfig(name="here", address="127.0.0.1", local=True))

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


# --- what is remembered and told -------------------------------------------------------------------------------------


class Watched:
    """A job's record on two nodes, and looks at it without any node."""

    def __init__(self, home: Path) -> None:
        self.store = MetadataStore(home / "state")
        files, code = self.store.reserve(), CodeVersion(directory="/", files=1, size_bytes=1)
        job = self.store.submit(files, JobSpec(script="t.py"), code, time.time())
        ranks = tuple(Rank(rank=n, local_rank=0, node=f"n{n}", gpu=f"GPU-{n}") for n in range(2))
        shares = tuple(NodeShare(node=f"n{n}", node_rank=n, first_rank=n, nproc=1) for n in range(2))
        placed = {"state": JobState.RUNNING, "ranks": ranks, "placement": Placement(shares=shares)}
        self.id = self.store.save(job.model_copy(update=placed), "running", "").id
        self.at = time.time()
        self.log = 0
        self.synced = 0
        self.busy = 0
        self.state = "S"
        self.nccl = ""
        self.stood = 0

    async def sync(self, job: Job) -> None:
        self.synced += 1
        for rank in job.ranks:
            path = self.store.files(job.id).logs(1) / f"rank-{rank.rank}.log"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"step {100 + rank.rank}\n")

    async def stand(self, job: Job) -> dict[str, NodeStacks | NodeError]:
        self.stood += 1
        ranks = (RankStack(rank=0, pid=7, state="S"),)
        return {"n0": NodeStacks(ranks=ranks, nccl=self.nccl), "n1": Unreachable("n1", "does not answer")}

    async def look(self, seconds: float = 30.0) -> Job:
        self.at += seconds
        runs: dict[str, RunFiles | NodeError] = {}
        views: dict[str, NodeView | NodeError] = {}
        for rank in range(2):
            state = self.state if rank == 1 else "S"
            files = RankFiles(rank, 7, True, effort=Effort(state, 1.0, 0, 0), log_bytes=self.log)
            runs[f"n{rank}"] = RunFiles(self.at, True, "u", True, ranks=(files,))
            gpu = Gpu(index=0, uuid=f"GPU-{rank}", name="x", utilization_percent=self.busy, power_w=20.0)
            views[f"n{rank}"] = NodeView(
                node=f"n{rank}", seen_at=self.at, boot_id="b", clock_offset=0.0, cpu_count=1, gpus=(gpu,)
            )
        seen = Observation(views, {self.id: runs}, self.at)
        await watch(MetadataStore(self.store.home), self.id, seen, self.sync, self.stand)
        return self.store.job(self.id)

    def told(self, kind: str) -> list[str]:
        return [event.message for event in self.store.events(self.id) if event.kind == kind]


async def test_idle_gpus_and_a_hang_are_told_once_each_by_whoever_looks(home: Path) -> None:
    job = Watched(home)
    for _ in range(150):
        job.log += 1
        await job.look()
    assert job.told("idle") == ["its 2 GPUs did nothing for 1h 00m"] and job.synced == 0
    job.state = "T"
    for _ in range(30):
        await job.look()
    [reason] = job.told("hang")
    assert reason.startswith("rank 1 on n1 is stopped") and reason.endswith("; last step 101")
    assert (await job.look()).alert == f"hangs: {reason}" and job.synced <= 2
    job.log += 1
    assert (await job.look()).alert is None
    assert len(job.told("hang")) == 1 and len(job.told("idle")) == 1
    assert job.told("running")[-1] == "it goes on: there are signs of life again"


async def test_what_nccl_says_of_a_hang_is_told_and_where_the_ranks_stand_is_kept(home: Path) -> None:
    job = Watched(home)
    job.nccl = (
        "#0-0 (27a079b828ff1a75) MISMATCH\n  Communicator ranks have different collective operation counts\n"
        "  Rank 0 has launched up to operation 5 -- [process information not found]\n"
        "  Rank 1 has launched up to operation 4 -- GPU 0 managed by process 8 on node 10.0.0.2\n"
    )
    record = job.store.job(job.id)
    ranks = tuple(rank.model_copy(update={"pid": 7 + rank.rank}) for rank in record.ranks)
    job.store.save(record.model_copy(update={"ranks": ranks}), "ranks", "")
    job.log += 1
    await job.look()
    for _ in range(70):
        await job.look()
    [reason] = job.told("hang")
    assert reason.endswith("; rank 1 is at operation 4 of NCCL, others at 5") and job.stood == 1
    assert hang_of(job.store, job.store.job(job.id)).rank == 1
    found = kept(job.store.files(job.id).hang(1))
    assert found and list(found.nodes) == ["n0"] and found.nodes["n0"].nccl == job.nccl


async def test_a_crash_before_the_record_loses_no_alert_and_a_torn_memory_is_no_harm(home: Path) -> None:
    job = Watched(home)
    for _ in range(70):
        found = await job.look()
    assert found.alert and "ranks 2 wait" in found.alert
    job.store.save(found.model_copy(update={"alert": None}), "ranks", "as if the record had not been written")
    assert (await job.look()).alert, "it is in the watchdog's memory"
    job.store.files(job.id).watchdog.write_text('{"attempt": 1, "looked_at"')
    assert (await job.look()).alert, "a lost memory is no sign of life"
    assert Memory.model_validate_json(job.store.files(job.id).watchdog.read_text()).watched == 0
    job.log += 1
    assert (await job.look()).alert is None and len(job.told("hang")) == 2


async def test_looks_that_follow_closely_are_passed_over(home: Path) -> None:
    job = Watched(home)
    await job.look()
    before = job.store.files(job.id).watchdog.read_bytes()
    job.at = time.time()
    await job.look(2)
    assert job.store.files(job.id).watchdog.read_bytes() == before


def test_records_of_before_the_watchdog_load() -> None:
    code = CodeVersion(directory="/", files=1, size_bytes=1)
    fields = Job(id="job-001", uid="u", name="n", submitted_at=1.0, command=("t.py",), code=code).model_dump()
    del fields["alert"]
    assert Job.model_validate(fields).alert is None
    spec = JobSpec(script="t.py").model_dump()
    del spec["hang_after"]
    assert JobSpec.model_validate(spec) == JobSpec(script="t.py")


# --- the job spec ----------------------------------------------------------------------------------------------------


def test_a_job_may_bound_the_patience(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("script: t.py\nhang_after: {min: 5m, max: 1h}\n")
    assert limits_of(load_job_spec(tmp_path / "job.yaml")) == Limits(300.0, 3600.0)
    assert limits_of(JobSpec(script="t.py")) == Limits(600.0, 7200.0)
    (tmp_path / "job.yaml").write_text("script: t.py\nhang_after:\n  min: 5h\n")
    with pytest.raises(JobSpecError, match=r"job\.yaml:\d: hang_after\.max: .* not shorter than 'min'"):
        load_job_spec(tmp_path / "job.yaml")


# --- real ranks ------------------------------------------------------------------------------------------------------

HANGS = MEET + (
    "import time\n"
    "for step in range(1, 100000):\n"
    "    dist.barrier()\n"
    "    print('step', step, flush=True)\n"
    "    time.sleep(0.2)\n"
)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    cluster = Sandbox(tmp_path_factory.mktemp("sandbox"))
    cluster.up()
    yield cluster
    cluster.down()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "hangs.py").write_text(HANGS)
    (folder / "job.yaml").write_text("script: hangs.py\nname: hangs\nhang_after: {min: 4s, max: 30s}\n")
    return folder


@pytest.fixture(scope="module")
def ugro(sandbox: Sandbox, project: Path) -> Iterator[Ugro]:
    process = subprocess.Popen(
        forked.PROGRAM, cwd=project, env=os.environ | sandbox.environment(),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with forked.ugro_of(process) as ugro:
        yield ugro


def swept(ugro: Ugro, seen: Callable[[], object]) -> Callable[[], object]:
    def look() -> object:
        assert ugro("sweep").returncode == 0
        return seen()

    return look


def told_to_a_follower(sandbox: Sandbox, job: str) -> str:
    """The first thing that whoever follows a job is told beside its log."""
    command = [sys.executable, "-m", "ugro", "logs", "-f", job]
    following = subprocess.Popen(
        command, env=os.environ | sandbox.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    with following:
        assert following.stderr
        told = following.stderr.readline()
        following.kill()
    return told


def test_a_stopped_rank_of_a_real_gang_is_named_and_let_go_again(ugro: Ugro, sandbox: Sandbox) -> None:
    made = document(ugro("launch", "job.yaml", "--yes", "--json"))

    def job() -> dict[str, object]:
        return document(ugro("status", made["id"], "--json"))  # type: ignore[no-any-return]

    def kinds() -> list[str]:
        return [event["kind"] for event in document(ugro("events", made["id"], "--json"))]

    def lines() -> list[dict[str, object]]:
        return [line for line in document(ugro("logs", made["id"], "--json")) if "step 5" in str(line["text"])]

    try:
        until(lambda: len(lines()) >= 3)
        assert ugro("sweep").returncode == 0 and job()["alert"] is None
        [pid] = [rank["pid"] for rank in job()["ranks"] if rank["rank"] == 1]  # type: ignore[attr-defined]
        os.kill(pid, signal.SIGSTOP)
        alert = str(until(swept(ugro, lambda: job()["alert"]), 90))
        assert alert.startswith("hangs: rank 1 on gpu1 is stopped by a signal (state T) while of 3 ranks 2 wait")
        assert "last step" in alert
        assert alert in ugro("why", made["id"]).stdout
        assert "rank 1 on gpu1 is stopped" in ugro("status", made["id"]).stdout
        assert "hangs: rank 1" in ugro("status").stdout
        for _ in range(3):
            assert ugro("sweep").returncode == 0
        assert kinds().count("hang") == kinds().count("proposal") == 1, "told once"
        [proposal] = document(ugro("proposals", "--json"))
        assert (proposal["cause"], proposal["ends"], proposal["what"]) == ("hang", True, "end it; begin again")
        assert f"{alert}; proposed: end it; begin again: ugro approve {made['id']}" in told_to_a_follower(
            sandbox, made["id"]
        )
        assert (sandbox.root / "state/jobs" / made["id"] / "hang-1.json").exists()
        os.kill(pid, signal.SIGCONT)
        until(swept(ugro, lambda: job()["alert"] is None), 60)
        assert kinds()[-2:] == ["running", "withdrawn"] and not document(ugro("proposals", "--json"))
        memory = json.loads((sandbox.root / "state/jobs" / made["id"] / "watchdog.json").read_text())
        assert memory["hung_at"] is None and memory["signs"] > 0
    finally:
        assert ugro("cancel", made["id"]).returncode == 0
    stood = document(ugro("stacks", made["id"], "--json"))
    assert stood["at"] and {one["rank"]: one["state"] for one in stood["ranks"]}[1] == "T"
    assert "was cancelled; so it stood at" in ugro("stacks", made["id"], "--rank", "1").stdout
