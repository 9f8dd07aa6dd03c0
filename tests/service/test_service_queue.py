"""Jobs that wait: held, released, moved and explained, through either backend."""

from __future__ import annotations

import pytest
from door import Door

from ugro.common.errors import InputError
from ugro.common.models.job_state import JobState
from ugro.service.schemas.queue import Hold, Release, Reprioritize, Why

STAYS = "import time\ntime.sleep(600)\n"


def test_holds_and_releases_a_job(door: Door) -> None:
    job = door.submit(STAYS)
    held = door.call(Hold(job=job.id, reason="for\nAda"))
    assert (held.state, held.reason) == (JobState.HELD, "held: for Ada")
    released = door.call(Release(job=job.id))
    assert released.was_held and released.job.state == JobState.QUEUED
    assert not door.call(Release(job=job.id)).was_held
    kinds = [event.kind for event in door.store.timeline.of_job(job.id)]
    assert kinds == ["submitted", "held", "released"]


def test_gives_a_waiting_job_another_priority_once(door: Door) -> None:
    job = door.submit(STAYS)
    assert door.call(Reprioritize(job=job.id, priority=7)).priority == 7
    door.call(Reprioritize(job=job.id, priority=7))
    assert len(door.store.timeline.of_job(job.id)) == 2, "the same again is no change"


def test_refuses_what_has_ended(door: Door) -> None:
    job = door.failed("raise SystemExit(3)\n")
    for request in (Hold(job=job.id), Reprioritize(job=job.id, priority=1)):
        with pytest.raises(InputError, match=f"{job.id} has failed; only a job that waits can be changed"):
            door.call(request)
    with pytest.raises(InputError, match="only a held job can be released") as refused:
        door.call(Release(job=job.id))
    assert refused.value.hint == f"see: ugro status {job.id}"


def test_explains_why_a_job_waits_and_where_one_ran(door: Door) -> None:
    held = door.submit(STAYS, hold=True)
    answer = door.call(Why(job=held.id)).answer
    assert answer.state == JobState.HELD and answer.reasons and not answer.attended
    ended = door.failed("raise SystemExit(3)\n")
    shown = door.call(Why(job=ended.id))
    assert shown.recorded_state == JobState.FAILED and any("on here" in reason for reason in shown.answer.reasons)
    assert shown.answer.starts_at is None and not shown.answer.never_starts
