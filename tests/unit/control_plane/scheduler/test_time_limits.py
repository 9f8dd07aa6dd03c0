"""A time limit that is extended: recorded at once, sent to the nodes by a tick, kept by the ranks."""

from __future__ import annotations

import asyncio
import time

import pytest

from ugro.common.errors import InputError, JobFailed
from ugro.common.models.first_failure import FirstFailure
from ugro.common.models.job import Job, Wish
from ugro.common.models.job_state import JobState
from ugro.control_plane.scheduler.time_limits import Told, extend, longer, require_hearing, told, too_late
from ugro.testing import builders
from ugro.testing.cluster import STAY, WAITS, Bed, Master, controller_over


def kept(bed: Bed, job: Job, node: str) -> list[str]:
    """What the ranks of a node get of their limit."""
    rank = job.nodes.index(node)
    return (bed.home / node / "jobs" / job.id / "1" / f"node-{rank}" / "time-limit").read_text().split()


async def look(bed: Bed, job: Job) -> Told:
    controller = controller_over(bed.store, bed.inventory, bed.pool)
    try:
        seen = await controller.observe([job])
    finally:
        await controller.close()
    return told(bed.store.jobs.spec(job.id), seen.runs[job.id])


@pytest.mark.long
async def test_a_running_job_outlives_the_limit_it_was_started_with(bed: Bed) -> None:
    job = await bed.until(bed.submit(WAITS, time_limit=4.0, time_warning=0.5), JobState.RUNNING)
    _, before, limit = extend(bed.store, job.id, 600, add=True)
    assert (before, limit) == (4.0, 604.0) and bed.store.jobs.spec(job.id).time_limit == 604.0
    assert sorted((await look(bed, job)).pending) == ["a", "b"]
    await bed.tick()
    assert await look(bed, job) == Told(nodes=["a", "b"])
    assert kept(bed, job, "a") == kept(bed, job, "b") == ["604", "0.5"]
    events = [(event.node, event.message) for event in bed.store.timeline.of_job(job.id) if event.kind == "extended"]
    assert events == [
        ("", "time limit 10m 04s, before 4s"),
        ("a", "a lets it run for 10m 04s"),
        ("b", "b lets it run for 10m 04s"),
    ]
    begun = bed.store.jobs.job(job.id).launched_at or 0.0
    while (now := await bed.looked_at(job)).state == JobState.RUNNING and now.ranks and time.time() < begun + 6:
        await bed.tick()
        await asyncio.sleep(0.5)
    assert now.state == JobState.RUNNING, "the limit it was started with is over"
    (bed.home / "go").touch()
    assert (await bed.until(job, JobState.SUCCEEDED)).first_failure is None


async def test_a_node_that_cannot_be_reached_is_told_by_a_later_tick(bed: Bed) -> None:
    job = await bed.until(bed.submit(STAY, time_limit=600.0), JobState.RUNNING)
    bed.nodes["b"].silent = True
    extend(bed.store, job.id, 1200, add=False)
    await bed.tick()
    found = await look(bed, job)
    assert (found.nodes, list(found.pending)) == (["a"], ["b"]) and "b" in found.pending["b"]
    assert kept(bed, job, "b") == ["600", "60"]
    bed.nodes["b"].silent = False
    await bed.tick()
    assert kept(bed, job, "b") == ["1200", "120"] and (await look(bed, job)).nodes == ["a", "b"]
    before = bed.store.timeline.of_job(job.id)
    await bed.tick()
    assert bed.store.timeline.of_job(job.id) == before, "what every node keeps is told once"
    builders.cancel(bed.store, job.id)
    await bed.until(job, JobState.CANCELLED)


async def test_a_run_of_an_earlier_ugro_keeps_its_limit_and_that_is_told(bed: Bed) -> None:
    job = await bed.until(bed.submit(STAY, time_limit=600.0), JobState.RUNNING)
    (bed.home / "b" / "jobs" / job.id / "1" / "node-1" / "time-limit").unlink()
    with pytest.raises(InputError, match="was started by an earlier UGRO on b") as refused:
        require_hearing(job, await look(bed, job), 1200.5)
    assert refused.value.hint.endswith(f"ugro cancel {job.id} && ugro resume {job.id} --time 1201s")
    builders.cancel(bed.store, job.id)
    await bed.until(job, JobState.CANCELLED)


async def test_a_rank_that_its_limit_just_ended_is_seen(bed: Bed) -> None:
    deaf = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    job = await bed.until(bed.submit(deaf + STAY, time_limit=1.0, nodes=("a",)), JobState.RUNNING)
    while not (await look(bed, job)).late:
        await asyncio.sleep(0.1)
    assert str(too_late(job, 61.0)) and isinstance(too_late(job, 61.0), JobFailed)
    failed = await bed.until(job, JobState.FAILED)
    assert failed.first_failure and failed.first_failure.cause == "time_limit"


def test_a_job_that_waits_needs_no_node(bed: Bed) -> None:
    job = bed.submit(STAY, time_limit="1h", hold=True)
    extend(bed.store, job.id, 3600, add=True)
    extend(bed.store, job.id, 6 * 3600, add=False)
    assert bed.store.jobs.spec(job.id).time_limit == 6 * 3600
    assert bed.store.jobs.spec(job.id).warning_seconds == 300


def test_what_cannot_be_extended_is_refused(bed: Bed) -> None:
    free, limited = bed.submit(STAY, name="free"), bed.submit(STAY, name="limited", time_limit="1h")
    with pytest.raises(InputError, match="has no time limit"):
        extend(bed.store, free.id, 60, add=True)
    for seconds in (60.0, 3600.0):
        with pytest.raises(InputError, match="may run for 1h 00m already"):
            longer(limited, 3600.0, seconds, add=False)
    with pytest.raises(InputError, match="at most 10000d"):
        extend(bed.store, limited.id, 10_000 * 86400, add=True)
    failing = FirstFailure(rank=0, node="a")
    for changed in ({"wish": Wish.CANCEL}, {"first_failure": failing}):
        stopping = builders.change(bed.store, limited.id, "ranks", **changed)
        with pytest.raises(InputError, match="is stopping"):
            extend(bed.store, stopping.id, 60, add=True)
    builders.change(bed.store, limited.id, "failed", state=JobState.FAILED)
    with pytest.raises(InputError, match="has ended") as refused:
        extend(bed.store, limited.id, 60, add=True)
    assert refused.value.hint.endswith(f"ugro resume {limited.id} --time 3660s")


def test_more_time_as_a_person_types_it(master: Master) -> None:
    master.ugro("launch", "t.py", "--hold", "--time", "1h", "--name", "mine")
    told = master.ugro("extend", "mine", "90m").stdout
    assert told == "job-001 (mine) may run for 2h 30m now, before it was 1h 00m\n"
    extended = master.json("extend", "job-001", "--to", "4h")
    assert (extended["time_limit"], extended["time_limit_before"]) == (4 * 3600, 9000)
    assert (extended["told"], extended["pending"]) == ([], [])
    assert "4h 00m" in master.ugro("status", "mine").stdout
    assert [event["message"] for event in master.json("events", "mine") if event["kind"] == "extended"] == [
        "time limit 2h 30m, before 1h 00m", "time limit 4h 00m, before 2h 30m",
    ]  # fmt: skip


def test_mistakes_about_more_time_are_told(master: Master) -> None:
    master.ugro("launch", "t.py", "--hold", "--time", "1h")
    master.ugro("launch", "t.py", "--hold")
    for words, said in (
        (("job-001",), "a TIME is expected"),
        (("job-001", "1h", "--to", "3h"), "one TIME is expected"),
        (("job-001", "soon"), "a duration like 90s"),
        (("job-001", "--to", "30m"), "may run for 1h 00m already"),
        (("job-002", "1h"), "job-002 has no time limit"),
        (("job-003", "1h"), "there is no job"),
    ):
        assert said in master.ugro("extend", *words, code=2).stderr
    master.ugro("cancel", "job-001")
    over = master.ugro("extend", "job-001", "1h", code=2).stderr
    assert over.endswith("ugro resume job-001 --time 7200s\n")
    refused = master.ugro("resume", "job-001", "--from", "0", "--yes", "--time", "soon", code=2).stderr
    assert refused.startswith("error: Invalid value for '--time': 'soon': a duration like 90s")
    assert (
        "--time 1h 00m → 2h 00m" in master.ugro("resume", "job-001", "--from", "0", "--yes", "--time", "7200s").stderr
    )
    assert master.json("status", "job-001")["time_limit"] == 7200
