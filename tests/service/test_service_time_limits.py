"""Time limits through the service layer."""

from __future__ import annotations

import pytest
from door import Door

from tests.unit.control_plane.controller.test_tick import STAY
from ugro.common.errors import InputError
from ugro.common.models.job_state import JobState
from ugro.service.schemas.notices import TellingNodes
from ugro.service.schemas.time_limits import Extend
from ugro.testing import builders


def test_extends_a_job_that_waits(door: Door) -> None:
    job = door.submit(STAY, time_limit=600.0, hold=True)
    extended = door.call(Extend(job=job.id, seconds=60.0, add=True))
    assert (extended.time_limit_before, extended.time_limit, extended.state) == (600.0, 660.0, JobState.HELD)
    assert extended.told == extended.pending == () and door.told == []
    document = extended.as_json()
    assert list(document)[-3:] == ["time_limit_before", "told", "pending"]


def test_tells_the_nodes_of_a_running_job(door: Door) -> None:
    job = door.until(door.submit(STAY, time_limit=600.0), JobState.RUNNING)
    extended = door.call(Extend(job=job.id, seconds=1200.0, add=False))
    assert (extended.told, extended.pending, extended.time_limit) == (("here",), (), 1200.0)
    assert door.told == [TellingNodes(job=job.id)]
    builders.cancel(door.store, job.id)
    door.until(job, JobState.CANCELLED)


def test_refuses_a_limit_that_is_not_longer_and_a_job_without_one(door: Door) -> None:
    door.submit(STAY, time_limit=600.0, hold=True)
    door.submit(STAY, hold=True)
    with pytest.raises(InputError, match="may run for 10m 00s already"):
        door.call(Extend(job="job-001", seconds=60.0, add=False))
    with pytest.raises(InputError, match="has no time limit"):
        door.call(Extend(job="job-002", seconds=60.0, add=True))
