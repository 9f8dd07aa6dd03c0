"""Nodes that are slow, cut off, or described otherwise by now: nothing waits for them, and no job is taken for dead."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.unit.control_plane.controller.test_tick import cancel
from ugro.common.config import NodeConfig
from ugro.common.errors import CommandTimedOut, LinkLost, NodeError, StateLocked, Unreachable
from ugro.common.models.job import Job, Wish
from ugro.common.models.job_state import JobState
from ugro.control_plane.controller import job_steps
from ugro.control_plane.controller import tick as ticks
from ugro.control_plane.controller.tick import Controller
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.secrets import SecretStore
from ugro.control_plane.scheduler.forecast import forecast
from ugro.control_plane.scheduler.pending_words import forecast_in_words
from ugro.control_plane.scheduler.queue import read_queue
from ugro.nodes.pool import Pool
from ugro.nodes.remote.bundle import load
from ugro.nodes.transport import Outcome
from ugro.service import ending
from ugro.service.context import Context
from ugro.service.schemas.ending import CheckCancelled
from ugro.testing import builders
from ugro.testing.cluster import STARTED, STAY, Bed, controller_over
from ugro.testing.transport import Silencing

SCRIPTS = ("owner/owner.sh", "run/folder.sh", "code/receive_code.py", "run/prepare.py", "run/start.sh")


class SlowNode(Silencing):
    """A node whose link breaks, or stands still until it is let go, at one script."""

    error: NodeError | None = None
    at = ""
    gate: asyncio.Event | None = None
    reached: asyncio.Event

    async def run(
        self, script: str, args: Sequence[str] = (), *, data: bytes | AsyncIterable[bytes] | None = b"", **options: Any
    ) -> Outcome:
        if self.at and load(self.at) in (script, *args, data.decode() if isinstance(data, bytes) else ""):
            self.reached.set()
            if self.error:
                error, self.error, self.at = self.error, None, ""
                raise error
            if self.gate:
                await self.gate.wait()
        return await super().run(script, args, data=data, **options)


class SlowBed(Bed):
    """A bed of such nodes; one that is described otherwise is another one."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.nodes = {name: SlowNode(config) for name, config in self.inventory.nodes.items()}
        self.opened: list[Silencing] = [*self.nodes.values()]

    @property
    def pool(self) -> Pool:
        return Pool(self.inventory, self._connect)

    def _connect(self, config: NodeConfig) -> Silencing:
        found = next((node for node in self.opened if node.node == config), None)
        if found is None:
            self.opened.append(found := SlowNode(config))
        return found


@pytest.fixture
async def bed(home: Path) -> AsyncIterator[SlowBed]:
    made = SlowBed(home)
    yield made
    for node in made.opened:
        await node.close()


def slow(bed: Bed, name: str = "b") -> SlowNode:
    node = bed.nodes[name]
    assert isinstance(node, SlowNode)
    node.reached = asyncio.Event()
    return node


def another_process(bed: Bed) -> Controller:
    return controller_over(MetadataStore(bed.store.home), bed.inventory, bed.pool)


async def code_on_its_way(bed: Bed) -> tuple[SlowNode, Job, Controller]:
    """A job for `b` whose code stands still on the way there, sent by a process of its own."""
    node = slow(bed)
    node.at, node.gate = "code/receive_code.py", asyncio.Event()
    job = bed.submit(STARTED, nodes=("b",))
    launching = another_process(bed)
    await launching.tick()
    await node.reached.wait()
    return node, job, launching


@pytest.mark.parametrize(
    ("script", "error"),
    [
        *((script, LinkLost("b", "the connection broke")) for script in SCRIPTS),
        *((script, Unreachable("b", "does not answer")) for script in ("run/folder.sh", "run/start.sh")),
    ],
)
async def test_a_link_that_breaks_before_ranks_exist_costs_no_job(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, script: str, error: NodeError
) -> None:
    monkeypatch.setattr(job_steps, "TRY_AGAIN_AFTER", 0.2)
    node = slow(bed)
    node.at, node.error = script, error
    job = bed.submit(STARTED)
    ended = await bed.until(job, JobState.SUCCEEDED, JobState.FAILED)
    assert ended.state == JobState.SUCCEEDED, ended.reason
    assert sorted((bed.home / "started").read_text()) == ["0", "1"], "each rank started once"
    kinds = bed.kinds(ended)
    told = [event.message for event in bed.store.timeline.of_job(job.id) if error.message in event.message]
    if script == "run/prepare.py":  # the second question about the way to the meeting point is answered
        assert not told
        return
    assert ("queued" in kinds) == (script != "run/start.sh"), "before the start, it waits for its turn again"
    assert told, "and its timeline says why"


async def test_code_on_its_way_over_a_slow_link_holds_up_nobody_else(bed: Bed) -> None:
    async with asyncio.timeout(30):
        node, sent, launching = await code_on_its_way(bed)
        assert node.gate
        other = await bed.until(bed.submit(STAY, nodes=("a",)), JobState.RUNNING)
        await cancel(bed, other)
        builders.change(bed.store, sent.id, "priority", priority=3)
        assert bed.store.jobs.job(sent.id).state == JobState.STARTING
        node.gate.set()
        await launching.complete(sent.id)
        ended = await bed.until(sent, JobState.SUCCEEDED)
    assert ended.priority == 3, "what was asked meanwhile is kept"
    await launching.close()


async def test_a_job_whose_code_is_on_its_way_can_be_cancelled_from_elsewhere(bed: Bed) -> None:
    async with asyncio.timeout(30):
        node, job, launching = await code_on_its_way(bed)
        builders.cancel(bed.store, job.id)
        await bed.tick()
        assert bed.store.jobs.job(job.id).state == JobState.STARTING, "another process is at work on it"
        node.at = ""
        await launching.complete(job.id)
    assert bed.store.jobs.job(job.id).state == JobState.CANCELLED
    assert not (bed.home / "started").exists()
    await launching.close()


async def test_a_launch_that_its_process_leaves_behind_is_continued_by_another(bed: Bed) -> None:
    async with asyncio.timeout(30):
        node, job, launching = await code_on_its_way(bed)
        await bed.tick()
        assert bed.store.jobs.job(job.id).state == JobState.STARTING
        await launching.close()
        node.at = ""
        await bed.until(job, JobState.SUCCEEDED)
    assert (bed.home / "started").read_text() == "0"


async def test_a_node_that_answers_late_delays_only_its_own_jobs(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticks, "OBSERVE_WITHIN", 0.2)
    on_b = await bed.until(bed.submit(STAY, nodes=("b",)), JobState.RUNNING)
    while not all(rank.pid for rank in bed.store.jobs.job(on_b.id).ranks):
        await bed.tick()
    gate, ask = asyncio.Event(), Silencing.ask

    async def late(node: Silencing, *args: Any, **options: Any) -> Outcome:
        if node.name == "b":
            await gate.wait()
        return await ask(node, *args, **options)

    monkeypatch.setattr(Silencing, "ask", late)
    controller = controller_over(bed.store, bed.inventory, bed.pool)
    job = bed.submit(STARTED, nodes=("a",))
    async with asyncio.timeout(30):
        while bed.store.jobs.job(job.id).state != JobState.SUCCEEDED:
            await controller.tick()
            await controller.rest()
    assert bed.store.jobs.job(on_b.id).state == JobState.RUNNING, "late is not silent"
    assert "b" not in bed.store.config.silences()
    gate.set()
    builders.cancel(bed.store, on_b.id)
    await controller.complete()
    assert bed.store.jobs.job(on_b.id).state == JobState.CANCELLED
    await controller.close()


async def test_a_tick_waits_its_turn_without_stopping_the_loop(bed: Bed) -> None:
    controller = another_process(bed)
    async with bed.store.turn():
        with pytest.raises(StateLocked, match=r"tick\.lock"):
            await controller.tick(patience=0)
        waiting = asyncio.create_task(controller.tick())
        bed.submit(STARTED, nodes=("a",))
        with bed.store.lock(patience=0):
            await asyncio.sleep(0)
        assert not waiting.done()
    await waiting
    await controller.close()


@pytest.mark.parametrize("field", ["base_dir", "python", "user", "address"])
async def test_a_run_keeps_the_node_as_it_was_described_when_it_started(bed: Bed, field: str) -> None:
    job = await bed.until(bed.submit(STAY, nodes=("b",)), JobState.RUNNING)
    before, elsewhere = bed.inventory.nodes["b"], {"base_dir": f"{bed.home}/c", "address": "127.0.0.2"}
    edited = before.model_copy(update={field: elsewhere.get(field, "nobody")})
    bed.inventory = bed.inventory.model_copy(update={"nodes": {"a": bed.inventory.nodes["a"], "b": edited}})
    for _ in range(2):
        await bed.tick()
    now = bed.store.jobs.job(job.id)
    assert now.state == JobState.RUNNING, now.reason
    assert now.node_configs["b"] == before
    other = bed.submit(STARTED, nodes=("b",)) if field == "base_dir" else None
    ended = await cancel(bed, job)
    assert {rank.signal for rank in ended.ranks} == {"TERM"}
    if other:
        await bed.until(other, JobState.SUCCEEDED)
        assert (bed.home / "c" / "jobs" / other.id).exists(), "an edit counts for new runs"


async def test_a_node_that_cannot_be_reached_is_given_up_at_once_when_a_person_says_so(bed: Bed) -> None:
    job = await bed.until(bed.submit(STAY, nodes=("b",)), JobState.RUNNING)
    bed.nodes["b"].silent = True
    assert "b" not in bed.store.config.silences(), "nobody has looked since"
    builders.cancel(bed.store, job.id, Wish.ABANDON)
    controller = another_process(bed)
    await controller.complete(job.id)
    await controller.close()
    ended = bed.store.jobs.job(job.id)
    assert (ended.state, ended.abandoned) == (JobState.CANCELLED, ("b",))


@pytest.mark.parametrize("edit", ["renamed", "removed"])
async def test_what_was_given_up_is_ended_where_it_was_started(bed: SlowBed, edit: str) -> None:
    job = await bed.until(bed.submit(STAY, nodes=("b",)), JobState.RUNNING)
    while not all(rank.pid for rank in bed.store.jobs.job(job.id).ranks):
        await bed.tick()
    pid = bed.store.jobs.job(job.id).ranks[0].pid
    bed.nodes["b"].silent = True
    builders.cancel(bed.store, job.id, Wish.ABANDON)
    await bed.until(job, JobState.CANCELLED)
    a, b = bed.inventory.nodes["a"], bed.inventory.nodes["b"]
    other = {"alpha": b.model_copy(update={"name": "alpha"})} if edit == "renamed" else {}
    bed.inventory = bed.inventory.model_copy(update={"nodes": {"a": a, **other}})
    await bed.tick()
    assert bed.store.cleanup.leftovers() and Path(f"/proc/{pid}").exists()
    bed.nodes["b"].silent = False
    await bed.tick()
    assert not bed.store.cleanup.leftovers()
    assert not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text()


async def test_a_node_that_got_another_address_is_found_there_by_its_run(bed: SlowBed) -> None:
    job = await bed.until(bed.submit(STAY, nodes=("b",)), JobState.RUNNING)
    while not all(rank.pid for rank in bed.store.jobs.job(job.id).ranks):
        await bed.tick()
    moved = bed.inventory.nodes["b"].model_copy(update={"address": "127.0.0.2", "python": "/elsewhere"})
    bed.inventory = bed.inventory.model_copy(update={"nodes": {"a": bed.inventory.nodes["a"], "b": moved}})
    bed.nodes["b"].silent = True
    await bed.tick()
    now = bed.store.jobs.job(job.id)
    assert (now.state, now.node_configs["b"].address) == (JobState.RUNNING, "127.0.0.2"), now.reason
    assert now.node_configs["b"].python == job.node_configs["b"].python, "what runs there stays as it was"
    assert "b is reached at 127.0.0.2 now" in [event.message for event in bed.store.timeline.of_job(job.id)]
    ended = await cancel(bed, job)
    assert {rank.signal for rank in ended.ranks} == {"TERM"}


FAILS_ON_B = STARTED + "import sys, time\nsys.exit(3) if os.environ['RANK'] == '1' else time.sleep(600)\n"


async def test_ranks_are_ended_though_the_logs_of_the_one_that_failed_do_not_come(
    bed: SlowBed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_steps, "ENDS_WITHIN", 0.2)
    monkeypatch.setattr(job_steps, "LOGS_WITHIN", 0.2)
    node = slow(bed)
    node.at, node.gate = "logs/read.sh", asyncio.Event()
    ended = await bed.until(bed.submit(FAILS_ON_B), JobState.FAILED)
    assert node.reached.is_set()
    assert ended.first_failure and (ended.first_failure.rank, ended.first_failure.exit_code) == (1, 3)


async def test_a_cancelled_job_is_over_before_its_logs_are_here(bed: SlowBed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_steps, "CANCELLED_LOGS_WITHIN", 0.2)
    node = slow(bed)
    job = await bed.until(bed.submit(STAY, nodes=("b",)), JobState.RUNNING)
    node.at, node.gate = "logs/read.sh", asyncio.Event()
    async with asyncio.timeout(job_steps.LOGS_WITHIN - 5):
        await cancel(bed, job)
    assert node.reached.is_set()


@pytest.mark.parametrize("error", [CommandTimedOut("b", "a command did not end within 30 s and was ended"), None])
async def test_a_node_that_hangs_is_given_up_when_a_person_says_so(
    bed: SlowBed, monkeypatch: pytest.MonkeyPatch, error: NodeError | None
) -> None:
    monkeypatch.setattr(job_steps, "CANCEL_GRACE", 0.5)
    monkeypatch.setattr(job_steps, "ABANDON_WITHIN", 1.5)
    job = await bed.until(bed.submit(STAY, nodes=("b",)), JobState.RUNNING)
    node = slow(bed)
    node.at, node.error, node.gate = "run/stop.sh", error, asyncio.Event()
    builders.cancel(bed.store, job.id, Wish.ABANDON)
    controller = another_process(bed)
    async with asyncio.timeout(15):
        await controller.complete(job.id)
    await controller.close()
    ended = bed.store.jobs.job(job.id)
    assert (ended.state, ended.abandoned) == (JobState.CANCELLED, ("b",))
    node.at = ""
    await bed.tick()
    assert not bed.store.cleanup.leftovers(), "it answers again"


async def test_a_command_rests_for_its_own_jobs_and_hardly_for_others(bed: SlowBed) -> None:
    node, job, launching = await code_on_its_way(bed)
    assert node.gate
    async with asyncio.timeout(10):
        await launching.rest([], within=0.2)
    assert launching.under_way == [job.id]
    waiting = asyncio.create_task(launching.rest([job.id], within=0.2))
    done, _ = await asyncio.wait([waiting], timeout=0.5)
    assert not done, "its own is waited for"
    node.gate.set()
    await waiting
    assert not launching.under_way and bed.store.jobs.job(job.id).state == JobState.RUNNING
    await launching.close()
    await cancel(bed, job)


async def test_a_cancel_says_who_is_in_its_way(bed: SlowBed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UGRO_HOME", str(bed.store.home))
    job = await bed.until(bed.submit(STAY, nodes=("b",)), JobState.RUNNING)
    context, ask = Context(None, bed.store.home), CheckCancelled(job=job.id)
    assert not ending._is_done(context, job.id, tried=False), "another process's tick went on, so nothing was tried"
    with pytest.raises(NodeError, match="b has not confirmed it"):
        await ending.check_cancelled(context, ask)
    with bed.store.alone_with(job.id), pytest.raises(NodeError, match="another UGRO process is at work on it"):
        await ending.check_cancelled(context, ask)
    await cancel(bed, job)


async def test_a_job_whose_secret_is_removed_while_it_is_placed_waits_for_it(
    bed: SlowBed, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed.store.secrets.set("T", "value-1")
    job = bed.submit(STARTED, nodes=("b",), secrets=("T",))
    with monkeypatch.context() as patch:
        patch.setattr(SecretStore, "missing", lambda *_: [])  # it is there when the queue is read
        bed.store.secrets.remove("T")
        await bed.tick()
    now = bed.store.jobs.job(job.id)
    assert now.state == JobState.QUEUED and now.taken_back and now.taken_back.reason == "the secret T is not set"
    assert bed.why(job)[0].startswith("is unschedulable: the secret T is not set; to start it: ugro secret set T")
    bed.store.secrets.set("T", "value-2")
    over = now.taken_back.model_copy(update={"until": time.time()})
    builders.change(bed.store, job.id, "queued", taken_back=over)
    await bed.until(job, JobState.SUCCEEDED)


async def test_a_job_whose_launch_is_cut_off_again_and_again_says_so_and_waits_longer_each_time(
    bed: SlowBed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_steps, "TRY_AGAIN_AFTER", 100.0)
    node = slow(bed)
    job, before = bed.submit(STARTED, nodes=("b",)), 0.0
    for times in (1, 2, 3):
        node.at, node.error = "run/folder.sh", LinkLost("b", "a command gave no answer within 30 s")
        for _ in range(2):  # the second tick does not try
            await bed.tick()
        now = bed.store.jobs.job(job.id)
        assert now.state == JobState.QUEUED and now.taken_back and now.taken_back.times == times
        said = " ".join(bed.why(job))
        assert "a command gave no answer within 30 s" in said and ("3 times in a row" in said) == (times == 3)
        queue = read_queue(bed.store, bed.inventory, [now], bed.store.config.remembered_nodes(), time.time())
        expected = forecast(queue, job.id)
        told = forecast_in_words(expected, queue.now)
        assert expected.at and "a command gave no answer within 30 s" in told, "so says `ugro launch`"
        pause = now.taken_back.until - time.time()
        assert pause > 1.5 * before
        before = pause
        over = now.taken_back.model_copy(update={"until": time.time()})
        builders.change(bed.store, job.id, "queued", taken_back=over)
    ended = await bed.until(job, JobState.SUCCEEDED)
    assert ended.taken_back is None
