"""The watchdog over a job's record, and over real ranks of which one is stopped."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from cluster import MEET

from ugro.cli.main import cli
from ugro.common.errors import JobSpecError, NodeError, Unreachable
from ugro.common.job_spec import JobSpec, load_job_spec
from ugro.common.models.job import Job, NodeShare, Placement, Rank
from ugro.common.models.job_state import JobState
from ugro.common.models.node import NodeView
from ugro.common.models.run import Effort, RankFiles, RunFiles
from ugro.common.models.stacks import RankStack
from ugro.control_plane.failure_handler.stacks import kept
from ugro.control_plane.failure_handler.watchdog.sights import HangLimits, WatchMemory
from ugro.control_plane.failure_handler.watchdog.watch import hang_of, is_due, limits_of, watch
from ugro.control_plane.metadata_store import MetadataStore
from ugro.engines.base import Observation
from ugro.nodes.remote.stacks.stacks import NodeStacks
from ugro.sandbox.cluster import Sandbox
from ugro.testing import builders
from ugro.testing.commands import Ugro, document, until
from ugro.testing.testbed.machine import Begun

CLUSTER = ("gpu-master", "gpu1")


class Watched:
    """A job's record on two nodes, and looks at it without any node."""

    def __init__(self, home: Path) -> None:
        self.store = MetadataStore(home / "state")
        job = self.store.jobs.submit(self.store.jobs.reserve(), JobSpec(script="t.py"), builders.CODE, time.time())
        ranks = tuple(Rank(rank=n, local_rank=0, node=f"n{n}", gpu=f"GPU-{n}") for n in range(2))
        shares = tuple(NodeShare(node=f"n{n}", node_rank=n, first_rank=n, nproc=1) for n in range(2))
        placed = {"state": JobState.RUNNING, "ranks": ranks, "placement": Placement(shares=shares)}
        self.id = self.store.jobs.save(job.model_copy(update=placed), "running", "").id
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
            path = self.store.jobs.files(job.id).logs(1) / f"rank-{rank.rank}.log"
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
            gpu = builders.gpu(uuid=f"GPU-{rank}", utilization_percent=self.busy, power_w=20.0)
            views[f"n{rank}"] = builders.node_view(f"n{rank}", gpu, seen_at=self.at)
        seen = Observation(views, {self.id: runs}, self.at)
        if is_due(MetadataStore(self.store.home), self.id, seen):
            await watch(MetadataStore(self.store.home), self.id, seen, self.sync, self.stand)
        return self.store.jobs.job(self.id)

    def told(self, kind: str) -> list[str]:
        return [event.message for event in self.store.timeline.of_job(self.id) if event.kind == kind]


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
    assert job.told("running")[-1] == "there is progress again"


async def test_what_nccl_says_of_a_hang_is_told_and_where_the_ranks_stand_is_kept(home: Path) -> None:
    job = Watched(home)
    job.nccl = (
        "#0-0 (27a079b828ff1a75) MISMATCH\n  Communicator ranks have different collective operation counts\n"
        "  Rank 0 has launched up to operation 5 -- [process information not found]\n"
        "  Rank 1 has launched up to operation 4 -- GPU 0 managed by process 8 on node 10.0.0.2\n"
    )
    record = job.store.jobs.job(job.id)
    ranks = tuple(rank.model_copy(update={"pid": 7 + rank.rank}) for rank in record.ranks)
    job.store.jobs.save(record.model_copy(update={"ranks": ranks}), "ranks", "")
    job.log += 1
    await job.look()
    for _ in range(70):
        await job.look()
    [reason] = job.told("hang")
    assert reason.endswith("; rank 1 is at operation 4 of NCCL, others at 5") and job.stood == 1
    assert hang_of(job.store, job.store.jobs.job(job.id)).rank == 1
    found = kept(job.store.jobs.files(job.id).hang(1))
    assert found and list(found.nodes) == ["n0"] and found.nodes["n0"].nccl == job.nccl
    again = job.store.jobs.job(job.id).model_copy(update={"state": JobState.QUEUED, "attempt": 2, "alert": None})
    job.store.jobs.save(again, "resumed", "")
    runner = CliRunner(env={"UGRO_HOME": str(job.store.home)})
    shown = (await asyncio.to_thread(runner.invoke, cli, ["stacks", job.id])).output
    assert "is queued; stack traces of" in shown and "rank 0 on n0" in shown, "whatever came after it"


async def test_a_crash_before_the_record_loses_no_alert_and_a_torn_memory_is_no_harm(home: Path) -> None:
    job = Watched(home)
    for _ in range(70):
        found = await job.look()
    assert found.alert and "ranks 2 wait" in found.alert
    job.store.jobs.save(found.model_copy(update={"alert": None}), "ranks", "as if the record had not been written")
    assert (await job.look()).alert, "it is in the watchdog's memory"
    job.store.jobs.files(job.id).watchdog.write_text('{"attempt": 1, "looked_at"')
    assert (await job.look()).alert, "a lost memory is no sign of life"
    assert WatchMemory.model_validate_json(job.store.jobs.files(job.id).watchdog.read_text()).watched == 0
    job.log += 1
    assert (await job.look()).alert is None and len(job.told("hang")) == 2


async def test_looks_that_follow_closely_are_passed_over(home: Path) -> None:
    job = Watched(home)
    await job.look()
    before = job.store.jobs.files(job.id).watchdog.read_bytes()
    os.utime(job.store.jobs.files(job.id).watchdog, (0, 0))  # by a file server's clock
    await job.look(1)
    assert job.store.jobs.files(job.id).watchdog.read_bytes() == before


def test_records_of_before_the_watchdog_load() -> None:
    fields = builders.job().model_dump()
    del fields["alert"]
    assert Job.model_validate(fields).alert is None
    spec = JobSpec(script="t.py").model_dump()
    del spec["hang_after"]
    assert JobSpec.model_validate(spec) == JobSpec(script="t.py")


# --- the job spec ----------------------------------------------------------------------------------------------------


def test_a_job_may_bound_the_patience(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("script: t.py\nhang_after: {min: 5m, max: 1h}\n")
    assert limits_of(load_job_spec(tmp_path / "job.yaml")) == HangLimits(300.0, 3600.0)
    assert limits_of(JobSpec(script="t.py")) == HangLimits(600.0, 7200.0)
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
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "hangs.py").write_text(HANGS)
    (folder / "job.yaml").write_text("script: hangs.py\nname: hangs\nhang_after: {min: 4s, max: 30s}\n")
    return folder


def swept(ugro: Ugro, seen: Callable[[], object]) -> Callable[[], object]:
    def look() -> object:
        assert ugro("sweep").returncode == 0
        return seen()

    return look


def told_to_a_follower(begun: Begun, job: str) -> str:
    """The first message beside the log of a followed job."""
    with begun("logs", "-f", job) as following:
        assert following.stderr
        told = following.stderr.readline()
        following.kill()
    return told


@pytest.mark.long
def test_a_stopped_rank_of_a_real_gang_is_named_and_let_go_again(ugro: Ugro, sandbox: Sandbox, begun: Begun) -> None:
    made = document(ugro("launch", "job.yaml", "--yes", "--json"))

    def job() -> dict[str, object]:
        return document(ugro("status", made["id"], "--json"))  # type: ignore[no-any-return]

    def kinds() -> list[str]:
        return [event["kind"] for event in document(ugro("events", made["id"], "--json"))]

    def lines() -> list[dict[str, object]]:
        return [line for line in document(ugro("logs", made["id"], "--json")) if "step 5" in str(line["text"])]

    try:
        until(lambda: len(lines()) >= 2)
        assert ugro("sweep").returncode == 0 and job()["alert"] is None
        [pid] = [rank["pid"] for rank in job()["ranks"] if rank["rank"] == 1]  # type: ignore[attr-defined]
        os.kill(pid, signal.SIGSTOP)
        alert = str(until(swept(ugro, lambda: job()["alert"]), 90))
        assert alert.startswith("hangs: rank 1 on gpu1 is stopped by a signal (state T) while of 2 ranks 1 waits")
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
            begun, made["id"]
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
    assert "was cancelled; stack traces of" in ugro("stacks", made["id"], "--rank", "1").stdout
