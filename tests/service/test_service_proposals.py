"""Proposals through the service layer."""

from __future__ import annotations

import pytest
from door import Door

from ugro.common.errors import Declined, InputError
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.service.plan import PlanChanged
from ugro.service.schemas.proposals import APPROVE, Approve, ApprovePlan, Deny, Offer, PlanApprove, Proposals

OOM = """\
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--batch-size", type=int, default=4)
if parser.parse_args().batch_size > 2:
    raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
"""


@pytest.fixture
def job(door: Door) -> Job:
    """A job that ran out of memory, about which a smaller batch is proposed."""
    return door.failed(OOM)


def planned(door: Door, job: Job) -> ApprovePlan:
    return door.call(PlanApprove(job=job.id))


def test_lists_what_is_proposed(door: Door, job: Job) -> None:
    [one] = door.call(Proposals()).answer
    assert (one.job, one.cause, one.checkpoint) == (job.id, "cuda_oom", None)
    assert one.what == "begin again; --batch-size (not given) → 2"
    assert list(one.as_json())[-2:] == ["ends", "what"] and "approved" not in one.as_json()


def test_does_what_is_proposed_once_that_is_answered(door: Door, job: Job) -> None:
    plan = planned(door, job)
    [question] = plan.questions
    assert question.text == "Retry with smaller batch size?" and door.call(Offer(job=job.id)).plan == plan
    with pytest.raises(InputError) as refusal:
        door.call(Approve(plan=plan, answers={}))
    assert refusal.value.hint == f"ugro approve {job.id}, or ugro deny {job.id}"
    with pytest.raises(Declined):
        door.call(Approve(plan=plan, answers={APPROVE: False}))
    assert door.store.jobs.job(job.id).attempt == 1
    resumed = door.call(Approve(plan=plan, answers={APPROVE: True})).job
    assert resumed.attempt == 2 and resumed.command[-2:] == ("--batch-size", "2")
    door.until(job, JobState.SUCCEEDED)
    assert door.call(Offer(job=job.id)).plan is None


def test_refuses_a_plan_that_was_answered_meanwhile(door: Door, job: Job) -> None:
    plan = planned(door, job)
    denied = door.call(Deny(job=job.id))
    assert denied.answer.as_json() == {"job": job.id, "denied": True}
    assert denied.later == f"ugro resume {job.id} --from 0 --set batch-size=2"
    with pytest.raises(PlanChanged) as refusal:
        door.call(Approve(plan=plan, answers={APPROVE: True}))
    assert refusal.value.changed == (f"the proposal about {job.id}",)
    for request in (PlanApprove(job=job.id), Deny(job=job.id)):
        with pytest.raises(InputError, match="nothing is proposed"):
            door.call(request)
