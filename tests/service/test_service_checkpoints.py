"""Checkpoints through the service layer."""

from __future__ import annotations

from pathlib import Path

import pytest
from door import Door

from tests.unit.control_plane.failure_handler.recovery.test_next_attempt import SCRIPT
from ugro.common.errors import InputError
from ugro.common.models.event_kind import EventKind
from ugro.common.models.job_state import JobState
from ugro.service.schemas.checkpoints import Checkpoints, SaveCheckpoint
from ugro.service.schemas.notices import AskedToSave
from ugro.testing import builders

ANSWERS = """\
import os, pathlib, time, zipfile
request = pathlib.Path(os.environ["UGRO_CHECKPOINT_REQUEST"])
while True:
    time.sleep(0.02)
    if request.exists():
        request.unlink()
        with zipfile.ZipFile(".partial", "w") as file:
            file.writestr("archive/data.pkl", "x" * 1000)
        os.replace(".partial", "checkpoint-5.pt")
"""


def test_lists_checkpoints_and_copies_the_last_one_to_the_master(door: Door) -> None:
    job = door.failed(SCRIPT)
    listed = door.call(Checkpoints(job=job.id))
    [one] = listed.checkpoints
    assert (one.step, one.whole, one.on_master, one.kept_at) == (70, True, False, None)
    assert listed.brought is None and (listed.silent, listed.passed) == ((), {})
    brought = door.call(Checkpoints(job=job.id, pull=True))
    [one] = brought.checkpoints
    assert one.on_master and one.kept_at == brought.brought and Path(brought.brought or "").is_file()
    assert list(one.as_json())[-3:] == ["whole", "on_master", "kept_at"]


def test_copies_nothing_where_there_is_nothing(door: Door) -> None:
    job = door.failed("raise SystemExit(3)\n")
    assert door.call(Checkpoints(job=job.id)).checkpoints == ()
    with pytest.raises(InputError, match="no checkpoint was found"):
        door.call(Checkpoints(job=job.id, pull=True))


def test_asks_a_running_job_to_save(door: Door) -> None:
    job = door.until(door.submit(ANSWERS), JobState.RUNNING)
    saved = door.call(SaveCheckpoint(job=job.id, patience=30.0))
    assert saved.answer.checkpoint and saved.answer.checkpoint.step == 5 and saved.answer.request_taken
    assert [(rank.rank, rank.answer) for rank in saved.answer.ranks] == [(0, "not caught")] and saved.answer.heard
    assert door.told[0] == AskedToSave(title=job.id, seconds=None, signalled=0)
    assert [event.node for event in door.store.timeline.of_job(job.id) if event.kind == EventKind.CHECKPOINT] == [
        "here"
    ]
    builders.cancel(door.store, job.id)
    door.until(job, JobState.CANCELLED)


def test_asks_no_job_that_does_not_run(door: Door) -> None:
    job = door.submit(ANSWERS, hold=True)
    with pytest.raises(InputError, match="only a running job can save") as refusal:
        door.call(SaveCheckpoint(job=job.id, patience=0.0))
    assert refusal.value.hint == f"see why it waits: ugro why {job.id}"
