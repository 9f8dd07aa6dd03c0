"""The tick on two simulated nodes of this machine: real processes, no SSH and no torch, so that it is quick."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from code_folders import plant

from ugro.common.errors import AnswerPending, InternalError, NodeRefused, RecordUnreadable, StateError
from ugro.common.models.drain import Drain
from ugro.common.models.first_failure import FirstFailure
from ugro.common.models.job import Job, Wish
from ugro.common.models.job_state import JobState
from ugro.common.models.metrics import GpuLook, GpuSample
from ugro.common.models.owed import Owed
from ugro.control_plane.failure_handler import blame
from ugro.control_plane.metadata_store import MetadataStore, gpu_history
from ugro.control_plane.metadata_store.config_store import ConfigStore
from ugro.control_plane.metadata_store.job_registry import JobRegistry
from ugro.control_plane.metadata_store.metrics_store import store as metrics_store
from ugro.control_plane.resource_manager import monitor
from ugro.control_plane.scheduler import tracker
from ugro.control_plane.scheduler.launcher import nothing_runs
from ugro.nodes.pool import Pool
from ugro.nodes.remote.bundle import load
from ugro.nodes.remote.logs import log_streamer
from ugro.nodes.transport import Outcome
from ugro.testing import builders
from ugro.testing.clock import FakeClock
from ugro.testing.cluster import STARTED, STAY, WAITS, Bed, controller_over
from ugro.testing.transport import Silencing


async def test_a_job_runs_to_its_end(bed: Bed) -> None:
    job = await bed.until(bed.submit(STARTED), JobState.SUCCEEDED)
    assert bed.kinds(job) == ["submitted", "starting", "placed", "running", "succeeded"]
    assert [(rank.node, rank.exit_code) for rank in job.ranks] == [("a", 0), ("b", 0)]
    assert sorted((bed.home / "started").read_text()) == ["0", "1"]
    told = {event.kind: event.message for event in bed.store.timeline.of_job(job.id)}
    assert told["running"] == "2 ranks started"


async def test_one_rank_is_one_rank(bed: Bed) -> None:
    job = await bed.until(bed.submit(STARTED, nodes=("a",)), JobState.SUCCEEDED)
    assert "1 rank started" in [event.message for event in bed.store.timeline.of_job(job.id)]


async def test_a_job_ended_when_its_ranks_did_and_not_when_somebody_looked(bed: Bed) -> None:
    job = await bed.until(bed.submit(WAITS, nodes=("a",)), JobState.RUNNING)
    (bed.home / "go").touch()
    ended_there = bed.home / "a/jobs/job-001/1/node-0/exit"
    async with asyncio.timeout(20):
        while not ended_there.exists():
            await asyncio.sleep(0.05)
    looked = time.time()
    ended = await bed.until(job, JobState.SUCCEEDED)
    assert ended.ended_at and ended.ended_at < looked + 0.5, "but for what the clocks' difference is unsure of"
    assert abs(ended.ended_at - max(rank.ended_at or 0 for rank in ended.ranks)) < 1, "in the master's clock"


async def test_an_unchanged_world_plans_nothing(bed: Bed) -> None:
    job = await bed.until(bed.submit(STAY, nodes=("a",)), JobState.RUNNING)
    while not all(rank.pid for rank in bed.store.jobs.job(job.id).ranks):
        await bed.tick()
    files = bed.store.jobs.files(job.id)
    before = files.record.read_bytes(), files.events.read_bytes()
    for _ in range(3):
        await bed.tick()
    assert (files.record.read_bytes(), files.events.read_bytes()) == before
    await cancel(bed, job)


async def test_nodes_are_observed_once_where_only_data_is_brought(bed: Bed) -> None:
    job = await bed.until(bed.submit(STAY, nodes=("a",)), JobState.RUNNING)
    while not all(rank.pid for rank in bed.store.jobs.job(job.id).ranks):
        await bed.tick()
    async with bed.controller() as (controller, _):
        observe = controller.observe = Mock(wraps=controller.observe)  # type: ignore[method-assign]
        await controller.complete()
        assert observe.call_count == 1
    await cancel(bed, job)


async def test_a_job_never_ends_before_it_began_whatever_the_clocks_say(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await bed.until(bed.submit(STAY, nodes=("a",)), JobState.RUNNING)
    started = bed.store.jobs.job(job.id).started_at
    monkeypatch.setattr(tracker, "end_of_ranks", lambda ranks, clock_offsets: 1000.0)
    ended = await cancel(bed, job)
    assert ended.ended_at == ended.started_at == started


MISSES = (
    "import os, sys, time\n"
    "if os.environ['RANK'] == '0': sys.exit('RuntimeError: Connection closed by peer [10.0.0.2]:1')\n"
    + WAITS
    + "raise ValueError('bad batch')\n"
)


@pytest.mark.parametrize("patient", [True, False])
async def test_who_is_missed_may_end_by_itself_for_a_while(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, patient: bool
) -> None:
    monkeypatch.setattr(blame, "LATE_LEAVER_PATIENCE", 600.0 if patient else 0.0)
    job = bed.submit(MISSES)
    async with asyncio.timeout(30):
        while not any(word in bed.store.jobs.job(job.id).reason for word in ("to end", "failed first")):
            await bed.tick()
            await asyncio.sleep(0.1)
    now = bed.store.jobs.job(job.id)
    assert now.state == (JobState.RUNNING if patient else JobState.FAILED)
    if patient:
        assert now.reason.startswith("rank 0 on a: exit code 1; ") and "rank 1 on b to end" in now.reason
        told = len(bed.store.timeline.of_job(job.id))
        await bed.tick()
        live = await bed.looked_at(job)
        assert (live.state, live.first_failure, live.reason) == (JobState.RUNNING, None, now.reason)
        assert len(bed.store.timeline.of_job(job.id)) == told
        (bed.home / "go").touch()
    ended = await bed.until(job, JobState.FAILED)
    first = ended.first_failure
    assert first and (first.rank, first.node) == (1, "b")
    said = ("python_exception", "ValueError: bad batch") if patient else ("peer_lost", "left its process group while")
    assert first.cause == said[0] and first.message.startswith(said[1])


async def test_a_run_whose_folder_is_gone_is_not_proved_to_have_never_begun(bed: Bed) -> None:
    job = await bed.until(bed.submit(STAY), JobState.RUNNING)
    while not all(rank.pid for rank in bed.store.jobs.job(job.id).ranks):
        await bed.tick()
    shutil.rmtree(bed.home / "b/jobs/job-001")
    builders.cancel(bed.store, job.id)
    assert (await bed.until(job, JobState.CANCELLED)).gone_from == ("a",)


async def test_an_unreadable_job_keeps_its_gpus_and_the_others_are_followed(bed: Bed) -> None:
    lost = await bed.until(bed.submit(STAY, nodes=("a",)), JobState.RUNNING)
    other = await bed.until(bed.submit(STAY, nodes=("b",)), JobState.RUNNING)
    record = bed.store.jobs.files(lost.id).record
    whole = record.read_text()
    record.write_text("{")
    waiting = bed.submit(STARTED)
    builders.cancel(bed.store, other.id)
    async with asyncio.timeout(30):
        while bed.store.jobs.job(other.id).state != JobState.CANCELLED:
            with pytest.raises(RecordUnreadable, match=str(record)):
                await bed.tick()
    with pytest.raises(RecordUnreadable, match=str(record)):
        await bed.tick()
    assert bed.store.jobs.job(waiting.id).state == JobState.QUEUED
    record.write_text(whole)
    await cancel(bed, lost)
    await bed.until(waiting, JobState.SUCCEEDED)


@pytest.mark.parametrize("torn", [True, False])
async def test_what_a_lost_job_left_on_a_node_keeps_no_other_waiting(bed: Bed, torn: bool) -> None:
    job = bed.submit(STARTED, nodes=("a",))
    await bed.until(job, JobState.SUCCEEDED)
    bed.store.cleanup.remember_leftovers(job, ["a"])
    other = bed.submit(STARTED, nodes=("a",))
    folder = bed.store.jobs.files(job.id).folder
    bed.store.jobs.files(job.id).record.write_text("{") if torn else folder.rename(bed.home / "elsewhere")
    await bed.until(other, JobState.SUCCEEDED)
    assert bed.store.cleanup.leftovers() == {(job.id, 1): ("a",)}


async def cancel(bed: Bed, job: Job) -> Job:
    builders.cancel(bed.store, job.id)
    return await bed.until(job, JobState.CANCELLED)


async def test_cancel(bed: Bed) -> None:
    job = await bed.until(bed.submit(STAY, nodes=("a",)), JobState.RUNNING)
    queued = bed.submit(STAY, nodes=("a",))
    await bed.tick()
    last = bed.submit(STAY, nodes=("a",))
    await bed.tick()
    assert bed.store.jobs.job(queued.id).state == JobState.QUEUED
    assert [reason for reason in bed.why(queued) if "job-001" in reason]
    assert [reason for reason in bed.why(last) if "job-002" in reason]
    await cancel(bed, last)
    assert (await cancel(bed, queued)).placement is None
    cancelled = await cancel(bed, job)
    assert {rank.signal for rank in cancelled.ranks} <= {"TERM", None} and cancelled.wish is None


class Killed(Exception):
    """The controller dies here."""


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(4))
async def test_a_controller_killed_at_any_record_is_continued(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, at: int, after: bool
) -> None:
    """Killed before or after the n-th record it writes: nothing is started twice and nothing is lost."""
    job = bed.submit(STARTED, nodes=("a",))
    save, saves = JobRegistry.save, []

    def dying(self: MetadataStore, job: Job, kind: str, message: str) -> Job:
        saves.append(kind)
        if after:
            job = save(self, job, kind, message)
        if len(saves) > at:
            raise Killed
        return job if after else save(self, job, kind, message)

    monkeypatch.setattr(JobRegistry, "save", dying)
    with pytest.raises(InternalError, match="Killed"):
        async with asyncio.timeout(30):
            while True:
                await bed.tick()
    monkeypatch.undo()
    monkeypatch.setenv("HOME", str(bed.home))
    ended = await bed.until(job, JobState.SUCCEEDED, JobState.FAILED)
    assert ended.state == JobState.SUCCEEDED, ended.reason
    assert (bed.home / "started").read_text() == "0"


async def test_silent_is_unknown_and_nothing_is_decided(bed: Bed) -> None:
    job = await bed.until(bed.submit(STAY, nodes=("b",)), JobState.RUNNING)
    bed.nodes["b"].silent = True
    unknown = await bed.until(job, JobState.UNKNOWN)
    assert unknown.unknown_since and "b: does not answer" in unknown.reason
    builders.cancel(bed.store, job.id)
    await bed.tick()
    assert bed.store.jobs.job(job.id).state == JobState.UNKNOWN, "a cancel that is not confirmed is not done"
    bed.nodes["b"].silent = False
    assert (await bed.until(job, JobState.CANCELLED)).unknown_since is None


async def test_one_node_that_cannot_start_stops_the_others(bed: Bed) -> None:
    job = bed.submit(STAY)
    (bed.home / "b").mkdir()
    (bed.home / "b" / "jobs").write_text("in the way")
    failed = await bed.until(job, JobState.FAILED)
    assert failed.first_failure and failed.first_failure.cause == "launch_failed" and failed.first_failure.node == "b"
    assert bed.store.timeline.of_job(failed.id)[-1].message != failed.reason, "which the event before has told"
    assert not (bed.home / "started").exists()


@pytest.mark.parametrize("lost", ["spec.json", "snapshot"])
async def test_a_broken_job_fails_and_does_not_keep_the_others_waiting(bed: Bed, lost: str) -> None:
    broken, fine = bed.submit(STARTED, nodes=("a",)), bed.submit(STARTED, nodes=("a",))
    path = bed.store.jobs.files(broken.id).folder / lost
    path.rename(path.with_name("lost"))
    assert lost in (await bed.until(broken, JobState.FAILED)).reason
    await bed.until(fine, JobState.SUCCEEDED)


async def test_the_rank_that_failed_is_named_and_the_other_is_ended(bed: Bed) -> None:
    text = "import os, sys, time\nif os.environ['RANK'] == '1': raise ValueError('boom')\ntime.sleep(600)\n"
    failed = await bed.until(bed.submit(text), JobState.FAILED)
    failure = failed.first_failure
    assert failure and (failure.rank, failure.cause, failure.message) == (1, "python_exception", "ValueError: boom")
    assert [(rank.exit_code, rank.signal) for rank in failed.ranks] == [(None, "TERM"), (1, None)]
    told = [(event.kind, event.message) for event in bed.store.timeline.of_job(failed.id)[-2:]]
    assert told == [("failing", failed.reason), ("failed", "no processes of it remain on a, b")], "each says its own"


async def test_a_failure_keeps_its_reason_while_a_silent_node_delays_the_end(bed: Bed) -> None:
    job = await bed.until(bed.submit(STAY), JobState.RUNNING)
    reason = "rank 1 on b failed first (python_exception): ValueError: boom"
    failing = bed.store.jobs.job(job.id).model_copy(
        update={"first_failure": FirstFailure(rank=1, node="b", cause="python_exception", message="ValueError: boom")}
    )
    bed.store.jobs.save(failing, "failing", reason)
    bed.nodes["a"].silent = True
    await bed.tick()
    assert "a: does not answer" in bed.store.jobs.job(job.id).reason
    bed.nodes["a"].silent = False
    assert (await bed.until(job, JobState.FAILED)).reason == reason


async def test_a_node_that_left_the_inventory_does_not_spoil_looking(bed: Bed) -> None:
    job = await bed.until(bed.submit(STAY, nodes=("b",)), JobState.RUNNING)
    smaller = bed.inventory.model_copy(update={"nodes": {"a": bed.inventory.nodes["a"]}})
    controller = controller_over(bed.store, smaller, Pool(smaller, lambda config: bed.nodes[config.name]))
    seen = await controller.observe([job], job.nodes)
    assert (await controller.live(job, seen)).state == JobState.RUNNING
    await cancel(bed, job)


async def test_drained_nodes_get_nothing_new_and_keep_what_they_run(bed: Bed) -> None:
    running = await bed.until(bed.submit(STAY, nodes=("a",)), JobState.RUNNING)
    bed.store.config.drain(Drain(node="a", reason="new fan", since=time.time()))
    waiting, elsewhere = bed.submit(STARTED, nodes=("a",)), bed.submit(STARTED, nodes=("b",))
    await bed.until(elsewhere, JobState.SUCCEEDED)
    assert bed.store.jobs.job(running.id).state == JobState.RUNNING
    await cancel(bed, running)
    await bed.tick()
    assert bed.store.jobs.job(waiting.id).state == JobState.QUEUED
    assert [reason for reason in bed.why(waiting) if "new fan" in reason]
    bed.store.config.undrain("a")
    await bed.until(waiting, JobState.SUCCEEDED)


async def test_a_removed_node_is_watched_and_drained_until_its_job_ends(bed: Bed) -> None:
    job = await bed.until(bed.submit(STAY, nodes=("b",)), JobState.RUNNING)
    whole, only_a = bed.inventory, bed.inventory.model_copy(update={"nodes": {"a": bed.inventory.nodes["a"]}})
    bed.inventory = only_a.with_departed(bed.store.config.remembered_configs(), ["b"])
    await bed.tick()
    assert bed.store.jobs.job(job.id).state == JobState.RUNNING
    assert "not in the inventory any more" in bed.store.config.drains()["b"].reason
    await cancel(bed, job)
    bed.inventory = whole
    await bed.tick()
    assert not bed.store.config.drains()


@pytest.mark.long
async def test_priority_holds_dependencies_and_times(bed: Bed) -> None:
    blocker = await bed.until(bed.submit(STAY, nodes=("a",)), JobState.RUNNING)
    low, high = bed.submit(STARTED, nodes=("a",)), bed.submit(STARTED, priority=5, nodes=("a",))
    held = bed.submit(STARTED, hold=True, nodes=("a",), priority=9)
    after = bed.submit(STARTED, after=(low.id,), nodes=("a",))
    never = bed.submit(STARTED, after=(blocker.id,), nodes=("a",))
    anyhow = bed.submit(STARTED, after=(f"{blocker.id}:any",), nodes=("a",))
    later = bed.submit(STARTED, not_before=time.time() + 3600, nodes=("a",))
    await cancel(bed, blocker)
    for job in (high, low, after, anyhow):
        await bed.until(job, JobState.SUCCEEDED)
    started = [bed.store.jobs.job(job.id).started_at or 0.0 for job in (high, low, after)]
    assert started == sorted(started)
    assert [bed.store.jobs.job(job.id).state for job in (held, never, later)] == [JobState.HELD, *[JobState.QUEUED] * 2]
    assert [reason for reason in bed.why(never) if "unschedulable" in reason]


async def test_a_time_limit_is_kept_on_the_node_and_named(bed: Bed) -> None:
    text = "import signal, time\nsignal.signal(signal.SIGUSR2, lambda *_: print('saving', flush=True))\n" + STAY
    failed = await bed.until(bed.submit(text, nodes=("a",), time_limit=1.5, time_warning=1.0), JobState.FAILED)
    assert failed.first_failure and failed.first_failure.cause == "time_limit"
    assert {rank.limit for rank in failed.ranks} == {"ended"}
    assert "saving" in (bed.store.jobs.files(failed.id).logs(1) / "rank-0.log").read_text()


async def test_a_node_given_up_frees_the_job_and_is_cleared_when_it_is_back(bed: Bed) -> None:
    job = await bed.until(bed.submit(STAY, nodes=("b",)), JobState.RUNNING)
    while not all(rank.pid for rank in bed.store.jobs.job(job.id).ranks):
        await bed.tick()
    pid = bed.store.jobs.job(job.id).ranks[0].pid
    bed.nodes["b"].silent = True
    await bed.until(job, JobState.UNKNOWN)
    builders.cancel(bed.store, job.id, Wish.ABANDON)
    ended = await bed.until(job, JobState.CANCELLED)
    assert ended.abandoned == ("b",) and Path(f"/proc/{pid}").exists()
    bed.nodes["b"].silent = False
    await bed.tick()
    assert not bed.store.cleanup.leftovers()
    last = bed.store.timeline.of_job(job.id)[-1]
    assert (last.kind, last.node, last.message) == ("cleared", "b", f"no processes of {job.id} remain on b")
    assert not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text()


def test_what_is_not_proved_of_a_node_is_not_claimed() -> None:
    assert nothing_runs("it", ["a", "b"], ["b", "a"]) == "no processes of it remain on a, b"
    assert nothing_runs("job-001", ["a"], []) == "no process of job-001 was found on a"
    assert nothing_runs("it", ["a", "b"], ["a"]) == "no processes of it remain on a; no process of it was found on b"
    assert nothing_runs("it", [], []) == ""


async def test_what_a_removed_job_left_goes_once_its_node_answers(bed: Bed) -> None:
    folder = plant(bed.home / "a/jobs/job-009", {"uid": "u\n", "code/t.py": ""})
    bed.store.cleanup.remember_removals([Owed(job="job-009", uid="u", config=bed.inventory.nodes["a"])])
    bed.nodes["a"].silent = True
    await bed.tick()
    assert folder.exists() and [owed.job for owed in bed.store.cleanup.removals()] == ["job-009"]
    bed.nodes["a"].silent = False
    await bed.tick()
    assert not folder.exists() and bed.store.cleanup.removals() == []
    assert [event.message for event in bed.store.timeline.of_cluster() if event.kind == "cleared"] == [
        "what job-009 left on a was removed"
    ]


async def test_a_cancel_that_comes_after_the_end_finds_a_success(bed: Bed) -> None:
    job = bed.submit(WAITS, nodes=("a",))
    await bed.until(job, JobState.RUNNING)
    (bed.home / "go").touch()
    async with asyncio.timeout(30):
        while (await bed.looked_at(job)).state != JobState.SUCCEEDED:
            await asyncio.sleep(0.05)
    assert bed.store.jobs.job(job.id).state == JobState.RUNNING, "nobody has acted since"
    builders.cancel(bed.store, job.id)
    await bed.tick()
    assert bed.store.jobs.job(job.id).state == JobState.SUCCEEDED


async def test_a_cancel_that_comes_after_a_failure_finds_it_and_what_ends_for_it_is_no_failure(bed: Bed) -> None:
    job = bed.submit(WAITS + "raise SystemExit(3 if os.environ['RANK'] == '1' else time.sleep(600))\n")
    await bed.until(job, JobState.RUNNING)
    (bed.home / "go").touch()
    async with asyncio.timeout(30):
        while (await bed.looked_at(job)).state != JobState.FAILED:
            await asyncio.sleep(0.05)
    assert bed.store.jobs.job(job.id).state == JobState.RUNNING, "nobody has acted since"
    builders.cancel(bed.store, job.id)
    assert (await bed.looked_at(job)).state == JobState.RUNNING, "what ends from now on, ends for the cancel"
    await bed.tick()
    failed = bed.store.jobs.job(job.id)
    assert failed.state == JobState.FAILED and failed.wish is None
    assert failed.first_failure and (failed.first_failure.rank, failed.first_failure.exit_code) == (1, 3)
    assert failed.id in bed.store.decisions.undecided() or bed.kinds(job)[-1] == "failed"


async def test_what_was_unknown_and_answers_again_is_shown_without_the_reason_of_before(bed: Bed) -> None:
    job = await bed.until(bed.submit(STAY, nodes=("a",)), JobState.RUNNING)
    bed.nodes["a"].silent = True
    await bed.tick()
    assert "a: does not answer" in bed.store.jobs.job(job.id).reason
    assert (await bed.looked_at(job)).state == JobState.UNKNOWN
    bed.nodes["a"].silent = False
    shown = await bed.looked_at(job)
    assert (shown.state, shown.reason, shown.unknown_since) == (JobState.RUNNING, "", None)
    assert bed.store.jobs.job(job.id).state == JobState.UNKNOWN, "who only looks changes nothing"
    await cancel(bed, job)


async def test_a_node_that_is_only_slow_to_answer_is_named_beside_what_is_known(bed: Bed) -> None:
    job = await bed.until(bed.submit(STAY, nodes=("a",)), JobState.RUNNING)
    controller = controller_over(bed.store, bed.inventory, bed.pool)
    seen = await controller.observe([job])
    slow = AnswerPending("a", "no answer within 1.7 s")
    shown = await controller.live(job, replace(seen, runs={job.id: {**seen.runs[job.id], "a": slow}}))
    assert (shown.state, shown.reason) == (JobState.RUNNING, "a: no answer within 1.7 s: shown as it was last seen")
    await controller.close()
    await cancel(bed, job)


async def test_a_job_with_another_home_runs_with_the_nodes_python(bed: Bed) -> None:
    nodes = {name: config.model_copy(update={"python": "~/python"}) for name, config in bed.inventory.nodes.items()}
    bed.inventory = bed.inventory.model_copy(update={"nodes": nodes})
    bed.nodes = {name: Silencing(config) for name, config in nodes.items()}
    job = bed.submit("", nodes=("a",), env={"HOME": "/nowhere"})
    assert (await bed.until(job, JobState.SUCCEEDED, JobState.FAILED)).state == JobState.SUCCEEDED


async def test_a_node_of_another_master_gets_nothing(bed: Bed) -> None:
    (bed.home / "b").mkdir()
    (bed.home / "b" / "owner").write_text("f00d eve@elsewhere since 2026-01-01T00:00:00+0000\n")
    job = bed.submit(STARTED)
    await bed.tick()
    assert bed.store.jobs.job(job.id).state == JobState.QUEUED
    assert [reason for reason in bed.why(job) if "eve@elsewhere" in reason]
    fine = bed.submit(STARTED, nodes=("a",))
    await bed.until(fine, JobState.SUCCEEDED)
    assert (bed.home / "a" / "owner").read_text().split()[0] == bed.store.config.master().split()[0]


async def test_silence_is_news_and_only_watched_time_leads_to_a_proposal(bed: Bed) -> None:
    await bed.tick()
    bed.nodes["b"].silent = True
    clock = FakeClock(time.time())
    bed.store = MetadataStore(bed.store.home, clock)
    await bed.tick()
    clock.advance(86400)  # the master slept: no observation
    await bed.tick()
    assert [event.kind for event in bed.store.timeline.of_cluster() if event.node == "b"] == ["joined", "silent"]
    for _ in range(11):
        clock.advance(60)
        await bed.tick()
    bed.nodes["b"].silent = False
    await bed.tick()
    kinds = [event.kind for event in bed.store.timeline.of_cluster() if event.node == "b"]
    assert kinds == ["joined", "silent", "proposal", "answers"]


async def test_a_history_that_cannot_be_written_is_told_and_stops_nothing(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "looks", lambda view, held: [GpuLook(at=view.seen_at, uuid="GPU-1")])
    job = bed.submit(WAITS, nodes=("a",))
    folder = bed.store.home / "history"
    folder.touch()
    (trouble,) = await bed.tick()
    assert str(folder) in trouble.message
    assert bed.store.jobs.job(job.id).state == JobState.RUNNING
    folder.unlink()
    (bed.home / "go").touch()
    await bed.until(job, JobState.SUCCEEDED)
    history = bed.store.metrics.history
    assert [(node, len(history.read(node, 0.0))) for node in history.nodes()] == [("a", 1), ("b", 1)], "once a minute"


async def test_nothing_starts_on_the_gpus_of_a_job_whose_record_is_gone(bed: Bed) -> None:
    lost = await bed.until(bed.submit(STAY, nodes=("a",)), JobState.RUNNING)
    files, aside = bed.store.jobs.files(lost.id), bed.home / "aside"
    shutil.copytree(files.folder, aside)
    waiting = bed.submit(STARTED, nodes=("b",))
    before = files.record.with_name("job.json.before")
    for gone in ((files.record,), (files.record, before), (files.folder,)):
        for path in gone:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for _ in range(2):
            with pytest.raises(RecordUnreadable, match=f"{files.record} is gone"):
                await bed.tick()
        assert bed.store.jobs.job(waiting.id).state == JobState.QUEUED
        shutil.copytree(aside, files.folder, dirs_exist_ok=True)
    await cancel(bed, lost)
    await bed.until(waiting, JobState.SUCCEEDED)


async def test_a_tick_goes_on_without_what_a_full_disk_does_not_take_and_tells_it(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "looks", lambda view, held: [GpuLook(at=view.seen_at, uuid="GPU-1")])
    monkeypatch.setattr(monitor, "samples", lambda job, views, now: [GpuSample(at=now, rank=0, memory_mib=1)])
    job = await bed.until(bed.submit(STAY, nodes=("a",)), JobState.RUNNING)
    while not all(rank.pid for rank in bed.store.jobs.job(job.id).ranks):
        await bed.tick()
    other = bed.submit(STARTED)
    bed.store.jobs.files(job.id).metrics.unlink(missing_ok=True)
    shutil.rmtree(bed.store.home / "history")
    builders.cancel(bed.store, other.id)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patched:
        views = Mock(side_effect=StateError("cluster.json: No space left on device"))
        patched.setattr(ConfigStore, "remember_nodes", views)
        for module in (gpu_history, metrics_store):
            patched.setattr(module, "append_line", Mock(side_effect=full))
        told = [trouble.message for trouble in await bed.tick()]
    assert bed.store.jobs.job(other.id).state == JobState.CANCELLED, "what the disk took was done"
    assert [words.rpartition("/")[2] for words in told] == [
        "cluster.json: No space left on device",
        "metrics.jsonl: No space left on device",
    ]
    await cancel(bed, job)


async def test_a_look_goes_on_without_the_logs_that_a_full_disk_does_not_take(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await bed.until(bed.submit(WAITS + "import sys; print('boom'); sys.exit(3)", nodes=("a",)), JobState.RUNNING)
    (bed.home / "go").touch()
    controller = controller_over(bed.store, bed.inventory, bed.pool)
    full = Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    monkeypatch.setattr(log_streamer, "append_line", full)
    async with asyncio.timeout(30):
        while (now := await controller.live(job, await controller.observe([job]))).state != JobState.FAILED:
            await asyncio.sleep(0.05)
    assert now.first_failure and now.first_failure.exit_code == 3
    await controller.live(job, await controller.observe([job]))
    (trouble,) = bed.store.bus.troubles
    assert "No space left" in trouble.message and "UGRO_HOME" in trouble.hint and "ugro gc" in trouble.hint
    monkeypatch.undo()
    await bed.until(job, JobState.FAILED)


async def test_a_node_that_cannot_start_its_part_ends_the_launch_once_the_code_is_there(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The observation and the code go at the same time; the job is not given up while something is still under way."""
    steps: list[str] = []
    run, real_save, refused = Silencing.run, JobRegistry.save, asyncio.Event()

    async def watched(node: Silencing, script: str, args: Sequence[str] = (), **options: Any) -> Outcome:
        if options.get("data") == load("run/prepare.py").encode():
            refused.set()
            raise NodeRefused(node.name, "it cannot")
        receives = load("code/receive_code.py") in args
        if receives:
            await refused.wait()  # so they are under way together, or this waits for ever
        outcome = await run(node, script, args, **options)
        steps.extend(["code"] * receives)
        return outcome

    def save(store: MetadataStore, job: Job, kind: str, message: str) -> Job:
        steps.append(kind)
        return real_save(store, job, kind, message)

    monkeypatch.setattr(Silencing, "run", watched)
    monkeypatch.setattr(JobRegistry, "save", save)
    job = bed.submit(STARTED)
    async with asyncio.timeout(30):
        await bed.tick()
    assert bed.store.jobs.job(job.id).reason == "a: it cannot"
    assert "code" in steps and "code" not in steps[steps.index("failing") :], "it came to its end first"
