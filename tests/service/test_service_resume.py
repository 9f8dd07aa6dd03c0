"""Resuming a job through the service layer: the plan, its questions, and the act."""

from __future__ import annotations

from pathlib import Path

import pytest
from door import Door

from tests.service.test_service_proposals import OOM
from tests.unit.control_plane.failure_handler.recovery.test_next_attempt import SCRIPT
from ugro.common.errors import Declined, InputError
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.service.code import read_new_code
from ugro.service.local import Local
from ugro.service.plan import PlanChanged
from ugro.service.schemas.code import CodeDocument
from ugro.service.schemas.resume import (
    BEGIN_AGAIN,
    RESUME,
    SMALLER_BATCH,
    CodeSource,
    PlanResume,
    Resume,
    ResumeOptions,
    ResumePlan,
)


def planned(door: Door, job: Job, **options: object) -> ResumePlan:
    return door.call(PlanResume(options=ResumeOptions.checked({"job": job.id} | options)))


def asked(plan: ResumePlan) -> list[str]:
    return [question.id for question in plan.questions]


def brought(door: Door, job: Job) -> CodeDocument:
    """The job's working directory as it is now."""
    return door.backend.bring(read_new_code(door.call(CodeSource(job=job.id))))


def test_does_not_suggest_to_resume_a_job_that_succeeded(door: Door) -> None:
    job = door.succeeded(SCRIPT.replace("sys.exit(3)", "sys.exit(0)"))
    [question] = planned(door, job).questions
    assert (question.id, question.default) == (RESUME, False)


def test_resumes_from_the_last_complete_checkpoint_once_that_is_answered(door: Door) -> None:
    job = door.failed(SCRIPT)
    plan = planned(door, job, time_limit=60.0)
    assert plan.checkpoint and plan.checkpoint.step == 70 and asked(plan) == [RESUME]
    assert plan.questions[0].default
    assert [change.text for change in plan.changes] == ["--time (not given) → 1m 00s"] and not plan.smaller_batch
    with pytest.raises(InputError) as refusal:
        door.call(Resume(plan=plan, answers={}))
    assert (refusal.value.message, refusal.value.hint) == (
        "confirmation needed, but stdin is not a terminal",
        "use --yes to resume without a question",
    )
    with pytest.raises(Declined):
        door.call(Resume(plan=plan, answers={RESUME: False}))
    assert door.store.jobs.job(job.id) == job
    resumed = door.call(Resume(plan=plan, answers={RESUME: True})).answer
    assert (resumed.attempt, resumed.time_limit, resumed.code_changes) == (2, 60.0, None)
    assert resumed.resume_from and resumed.resume_from.step == 70
    assert list(resumed.as_json())[-1] == "code_changes"
    door.until(job, JobState.SUCCEEDED)


def test_refuses_a_plan_whose_checkpoint_is_gone(door: Door) -> None:
    job = door.failed(SCRIPT)
    plan = planned(door, job)
    [place] = plan.checkpoint.places if plan.checkpoint else ()
    Path(place.path).unlink()
    with pytest.raises(PlanChanged) as refusal:
        door.call(Resume(plan=plan, answers={RESUME: True}))
    assert refusal.value.changed == (f"the checkpoint that {job.id} is resumed from",)
    assert door.store.jobs.job(job.id) == job


def test_asks_whether_to_begin_again_where_there_is_no_checkpoint(door: Door) -> None:
    job = door.failed("raise SystemExit(3)\n")
    plan = planned(door, job)
    assert plan.checkpoint is None and asked(plan) == [BEGIN_AGAIN, RESUME]
    with pytest.raises(InputError, match="no checkpoint was found") as refusal:
        door.call(Resume(plan=plan, answers={RESUME: True}))
    assert "--from 0" in refusal.value.hint
    assert asked(planned(door, job, step=0)) == [RESUME], "it was said"
    with pytest.raises(InputError, match="no checkpoint of step 7"):
        planned(door, job, step=7)


@pytest.mark.parametrize(("smaller", "ends"), [(True, JobState.SUCCEEDED), (False, JobState.FAILED)])
def test_offers_a_smaller_batch_that_can_be_left_out(door: Door, smaller: bool, ends: JobState) -> None:
    job = door.failed(OOM)
    plan = planned(door, job, step=0)
    assert asked(plan) == [SMALLER_BATCH, RESUME] and [one.after for one in plan.smaller_batch] == ["2"]
    resumed = door.call(Resume(plan=plan, answers={SMALLER_BATCH: smaller, RESUME: True})).answer
    assert ("--batch-size" in resumed.command) == smaller
    assert door.until(job, ends).attempt == 2
    if not smaller:
        assert asked(planned(door, job, step=0, settings={"batch_size": "1"})) == [RESUME], "the change was said"


def test_resumes_with_the_code_of_now(door: Door) -> None:
    job = door.failed("raise SystemExit(3)\n")
    (door.project / "t.py").write_text("import more\n")
    (door.project / "more.py").write_text("")
    plan = planned(door, job, step=0, code=brought(door, job))
    assert plan.code_changes and (plan.code_changes.changed, plan.code_changes.added) == (("t.py",), ("more.py",))
    if isinstance(door.backend, Local):  # over a socket the code went along as it was agreed to
        (door.project / "more.py").write_text("raise SystemExit(4)\n")
        with pytest.raises(PlanChanged, match="the code in "):
            door.call(Resume(plan=plan, answers={RESUME: True}))
    (door.project / "more.py").write_text("print('fine')\n")
    plan = planned(door, job, step=0, code=brought(door, job))
    resumed = door.call(Resume(plan=plan, answers={RESUME: True})).answer
    assert resumed.code_changes == plan.code_changes and resumed.code.attempt == 2
    door.until(job, JobState.SUCCEEDED)
    assert not list(door.store.jobs.files(job.id).folder.glob(".tmp-code-*")), "no copy is left"


def test_resumes_no_job_that_has_not_ended(door: Door) -> None:
    job = door.submit(SCRIPT, hold=True)
    for request in (PlanResume(options=ResumeOptions(job=job.id)), CodeSource(job=job.id)):
        with pytest.raises(InputError, match="has not ended: it is held"):
            door.call(request)
