"""The removal of ended jobs and of what old ones left, through the service layer."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from door import Door

from ugro.common.errors import EXIT_INPUT, Declined, InputError
from ugro.common.models.event_kind import EventKind
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.service.plan import PlanChanged
from ugro.service.schemas.records import Rebuild
from ugro.service.schemas.removal import Collect, PlanCollect, PlanRemove, Remove
from ugro.testing import builders

FAILS = "raise SystemExit('enough')"
SAVES = "import pathlib; pathlib.Path('checkpoint-20.pt').write_bytes(b'x'); raise SystemExit('enough')"


def folder(home: Path, job: Job) -> Path:
    return home / "node/jobs" / job.id


def changed(door: Door, job: Job) -> None:
    """Make the record one of another attempt."""
    builders.change(door.store, job.id, EventKind.RANKS, attempt=2)


def test_removes_a_job_once_that_is_agreed_to(door: Door, home: Path) -> None:
    job = door.failed(FAILS)
    plan = door.call(PlanRemove(jobs=(job.id, "nosuch")))
    assert [use.id for use in plan.jobs] == [job.id] and [part.node for part in plan.jobs[0].parts] == ["here"]
    assert [one.name for one in plan.refused] == ["nosuch"] and plan.exit_code == EXIT_INPUT
    assert [question.id for question in plan.questions] == ["remove"]
    with pytest.raises(InputError, match="not a terminal") as missing:
        door.call(Remove(plan=plan, answers={}))
    assert missing.value.hint == f"use --yes: ugro rm {job.id} --yes"
    with pytest.raises(Declined, match="nothing was removed"):
        door.call(Remove(plan=plan, answers={"remove": False}))
    assert folder(home, job).exists()
    done = door.call(Remove(plan=plan, answers={"remove": True}))
    [removed] = done.removed
    assert removed.id == job.id and [node.error for node in removed.nodes] == [None]
    assert done.failed == plan.refused and not folder(home, job).exists()
    with pytest.raises(InputError, match="no job"):
        door.store.jobs.find(job.id)


def test_asks_once_more_for_a_job_that_could_be_resumed(door: Door, home: Path) -> None:
    job = door.failed(SAVES)
    plan = door.call(PlanRemove(jobs=(job.id,)))
    assert [question.id for question in plan.questions] == ["remove", f"resumable {job.id}"]
    with pytest.raises(InputError, match="it has checkpoints; nothing was removed"):
        door.call(Remove(plan=plan, answers={"remove": True}))
    assert folder(home, job).exists()
    assert len(door.call(PlanRemove(jobs=(job.id,), with_checkpoints=True)).questions) == 1
    done = door.call(Remove(plan=plan, answers={"remove": True, f"resumable {job.id}": True}))
    assert [one.step for one in done.removed[0].checkpoints] == [20]


def test_refuses_to_remove_another_attempt_than_planned(door: Door, home: Path) -> None:
    job = door.failed(FAILS)
    plan = door.call(PlanRemove(jobs=(job.id,)))
    changed(door, job)
    with pytest.raises(PlanChanged, match=f"the record of {job.id}"):
        door.call(Remove(plan=plan, answers={"remove": True}))
    assert folder(home, job).exists()


def test_refuses_to_remove_checkpoints_that_the_plan_does_not_name(door: Door, home: Path) -> None:
    job = door.failed(FAILS)
    plan = door.call(PlanRemove(jobs=(job.id,)))
    [code] = folder(home, job).glob("**/t.py")
    (code.parent / "checkpoint-30.pt").write_bytes(b"x")
    with pytest.raises(PlanChanged, match=f"the checkpoints of {job.id}"):
        door.call(Remove(plan=plan, answers={"remove": True}))
    assert folder(home, job).exists()


def test_removes_no_job_that_has_not_ended(door: Door) -> None:
    job = door.submit(FAILS, hold=True)
    with pytest.raises(InputError, match="has not ended"):
        door.call(PlanRemove(jobs=(job.id,)))


def test_collects_what_was_planned(door: Door, home: Path) -> None:
    job, saved = door.failed(FAILS), door.failed(SAVES)
    plan = door.call(PlanCollect(older_than=0.0))
    found = plan.found
    assert not found.answer.deleted and plan.questions == ()
    assert [(one.id, one.kept) for one in found.answer.jobs] == [(job.id, None), (saved.id, "checkpoints")]
    assert [said.resumable for said in found.jobs] == [False, True]
    assert folder(home, job).exists()
    done = door.call(Collect(plan=plan)).answer
    assert done.deleted and [one.id for one in done.jobs] == [job.id, saved.id]
    assert not folder(home, job).exists() and folder(home, saved).exists()
    assert not door.store.jobs.files(saved.id).all_logs.is_dir()
    assert door.store.jobs.job(job.id).state is JobState.FAILED


def test_collects_environments_that_no_job_used_for_so_long(door: Door, home: Path) -> None:
    job = door.succeeded("pass", setup="echo made > $UGRO_ENV_DIR/file")
    [setup] = (home / "node/setups").iterdir()
    for path in (setup, *setup.rglob("*")):
        os.utime(path, (1000, 1000))
    young = door.call(PlanCollect(older_than=0.0, keep=1)).found.answer
    assert [(one.node, one.name) for one in young.environments] == [("here", f"setups/{setup.name}")]
    builders.change(door.store, job.id, EventKind.RANKS, started_at=500.0)  # the job that is kept used it then
    assert door.call(PlanCollect(older_than=0.0, keep=1)).found.answer.environments == ()
    plan = door.call(PlanCollect(older_than=3600.0))
    assert plan.found.answer.environments == () and plan.idle > 1_000_000_000
    plan = door.call(PlanCollect(older_than=0.0))
    [shown] = plan.found.answer.environments
    assert (shown.bytes > 5, shown.used_at, shown.kept) == (True, 1000.0, None) and setup.exists()
    (setup / "used").touch()
    wide = replace(plan, idle=3600)
    assert [one.kept for one in door.call(Collect(plan=wide)).answer.environments] == ["running"]
    os.utime(setup / "used", (1000, 1000))
    [gone] = door.call(Collect(plan=plan)).answer.environments
    assert gone.kept is None and not setup.exists()


def test_refuses_to_collect_another_attempt_than_planned(door: Door, home: Path) -> None:
    job = door.failed(FAILS)
    plan = door.call(PlanCollect(older_than=0.0))
    changed(door, job)
    with pytest.raises(PlanChanged, match=f"the record of {job.id}"):
        door.call(Collect(plan=plan))
    assert folder(home, job).exists()


def test_collects_nothing_of_young_jobs_without_an_inventory(door: Door, home: Path) -> None:
    door.failed(FAILS)
    (home / "inventory.yaml").unlink()
    door.context.__dict__.pop("inventory", None)
    assert door.call(PlanCollect(older_than=3600.0)).found.answer.jobs == ()


def test_rebuilds_the_indexes(door: Door) -> None:
    door.failed(FAILS)
    live = door.submit(FAILS, hold=True)
    assert (done := door.call(Rebuild())).answer.live == done.answer.ended == 1
    door.store.jobs.files(live.id).record.write_text("torn")
    [broken] = door.call(Rebuild()).answer.unreadable
    assert broken.id == live.id and broken.error.hint
