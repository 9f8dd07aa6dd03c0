"""Sweeps through the service layer."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from door import Door

from ugro.common.errors import InputError, NoSuchJob
from ugro.common.job_spec import JobSpec
from ugro.common.models.job_state import JobState
from ugro.service.code import read_code
from ugro.service.schemas.launch import Launch, LaunchSweep, PlanLaunch
from ugro.service.schemas.naming import Select
from ugro.service.schemas.queries import Status
from ugro.service.schemas.queue import Why
from ugro.service.schemas.sweeps import CompareSweep, SweepDocument, WhySweep
from ugro.testing import builders

SCRIPT = """\
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
parser.add_argument("--out", default="")
given = parser.parse_args()
print(f"step 1 loss {given.lr:.6f}", flush=True)
"""


def launched(door: Door, sweep: dict[str, object], **fields: object) -> SweepDocument:
    (door.project / "t.py").write_text(SCRIPT)
    spec = JobSpec.model_validate({"script": "t.py", "workdir": str(door.project), "sweep": sweep, **fields})
    plan = door.call(PlanLaunch(spec=spec, code=door.backend.bring(read_code(spec))))
    return door.call(LaunchSweep(plan=plan, answers={}))


def test_submits_a_job_for_each_combination_and_compares_them(door: Door) -> None:
    found = launched(door, {"lr": "0.5,0.25"}, name="rates", max_parallel=1, args=("--out", "o-{lr}"))
    assert (found.id, found.name, found.of, found.max_parallel) == ("sweep-001", "rates", 2, 1)
    assert [(job.id, job.name, job.values) for job in found.jobs] == [
        ("job-001", "rates-1", {"lr": "0.5"}),
        ("job-002", "rates-2", {"lr": "0.25"}),
    ]
    first, second = (door.store.jobs.job(job.id) for job in found.jobs)
    assert first.command == ("t.py", "--out", "o-0.5", "--lr", "0.5")
    door.until(second, JobState.SUCCEEDED)
    shown = door.call(CompareSweep(sweep="sweep-001"))
    assert {job.state for job in shown.jobs} == {JobState.SUCCEEDED}
    assert (shown.metric, shown.metrics, shown.best) == ("loss", ("loss",), "job-002")
    assert [(job.metric, job.last) for job in shown.jobs] == [(0.5, 0.5), (0.25, 0.25)]
    chosen = door.call(Select(command="status", references=("sweep-001",)))
    assert [one.job.id for one in chosen.found if one.job] == ["job-001", "job-002"]


def test_keeps_the_rest_waiting_and_says_why(door: Door) -> None:
    found = launched(door, {"lr": [0.5, 0.25, 0.125]}, max_parallel=1)
    reasons = door.call(Why(job=found.jobs[1].id)).answer.reasons
    assert reasons[0] == "sweep-001 runs 1 job at a time"
    waiting = [job.reason for job in door.call(WhySweep(sweep="sweep-001")).jobs if job.state == JobState.QUEUED]
    assert set(waiting[1:]) == {"sweep-001 runs 1 job at a time"} and len(waiting) >= 2
    door.until(door.store.jobs.job("job-003"), JobState.SUCCEEDED)
    starts = [door.store.jobs.job(job.id) for job in found.jobs]
    assert all(
        before.ended_at and after.launched_at and before.ended_at <= after.launched_at
        for before, after in itertools.pairwise(starts)
    )


def test_counts_a_sweep_as_one_of_the_last_jobs(door: Door) -> None:
    before = door.succeeded("pass")
    found = launched(door, {"lr": [str(number) for number in range(11)]}, hold=True, name="many")
    for job in found.jobs:
        builders.cancel(door.store, job.id)
        door.until(door.store.jobs.job(job.id), JobState.CANCELLED)
    listed = door.call(Status()).answer.jobs
    assert [job.id for job in listed] == [before.id, *(job.id for job in found.jobs)]
    with pytest.raises(NoSuchJob, match="there is no job 'many', but a sweep of that name: sweep-002"):
        door.call(Why(job="many"))


def test_refuses_what_is_no_sweep(door: Door) -> None:
    with pytest.raises(InputError, match="no argument 'rate'"):
        launched(door, {"rate": [1]})
    spec = JobSpec(script="t.py", workdir=str(door.project))
    plan = door.call(PlanLaunch(spec=spec, code=door.backend.bring(read_code(spec))))
    with pytest.raises(InputError, match="has no sweep"):
        door.call(LaunchSweep(plan=plan, answers={}))
    several = JobSpec(script="t.py", workdir=str(door.project), sweep={"lr": [1, 2]})
    plan = door.call(PlanLaunch(spec=several, code=door.backend.bring(read_code(several))))
    with pytest.raises(InputError, match="a sweep is several jobs"):
        door.call(Launch(plan=plan, answers={}))
    with pytest.raises(NoSuchJob, match="there is no sweep 'sweep-009'"):
        door.call(CompareSweep(sweep="sweep-009"))
    assert not list(Path(door.store.home / "jobs").glob("job-*"))
