"""The end of jobs through the service layer: cancel them, carry that out, wait."""

from __future__ import annotations

import pytest
from door import Door

from tests.service.test_service_proposals import OOM
from tests.unit.control_plane.controller.test_tick import STARTED, STAY
from ugro.common.errors import InputError, NodeError
from ugro.common.models.job import Wish
from ugro.common.models.job_state import JobState
from ugro.service.schemas.ending import Cancel, CarryOutCancels, CheckCancelled, Wait


def test_records_a_cancel_and_carries_it_out(door: Door) -> None:
    job = door.until(door.submit(STAY), JobState.RUNNING)
    asked = door.call(Cancel(job=job.id))
    assert asked.cancel_requested and asked.stopping and asked.state == JobState.RUNNING
    with pytest.raises(NodeError) as refusal:
        door.call(CheckCancelled(job=job.id))
    assert "here has not confirmed it" in refusal.value.message and "--abandon" in refusal.value.hint
    first, *_, last = door.stream(CarryOutCancels(jobs=(job.id,)))
    assert first.job.stopping and first.grace == 10.0 and first.since >= (job.started_at or 0)
    assert last.job.state == JobState.CANCELLED and not last.job.stopping
    ended = door.call(CheckCancelled(job=job.id))
    assert ended.job.as_json() == last.job.as_json() and "on here" in ended.remains


def test_a_cancel_reaches_several_jobs_and_leaves_ended_ones(door: Door) -> None:
    done = door.succeeded(STARTED)
    waiting = [door.submit(STARTED, hold=True) for _ in range(2)]
    for job in waiting:
        door.call(Cancel(job=job.id, abandon=True))
        assert door.store.jobs.job(job.id).wish == Wish.ABANDON
    assert not door.call(Cancel(job=done.id)).cancel_requested and door.store.jobs.job(done.id) == done
    seen = {one.job.id: one.job.state for one in door.stream(CarryOutCancels(jobs=tuple(job.id for job in waiting)))}
    assert seen == {job.id: JobState.CANCELLED for job in waiting}
    with pytest.raises(InputError, match="nobody"):
        door.call(Cancel(job="nobody"))


def test_waits_for_the_end(door: Door) -> None:
    job = door.submit(STARTED)
    first, *_, last = door.stream(Wait(job=job.id))
    assert first.job.state == JobState.QUEUED and last.job.state == JobState.SUCCEEDED and not last.proposed
    [again, same] = door.stream(Wait(job=job.id))
    assert again == same == last


def test_says_that_something_is_proposed_about_what_failed(door: Door) -> None:
    job = door.submit(OOM)
    *_, last = door.stream(Wait(job=job.id))
    assert last.job.state == JobState.FAILED and last.proposed
