"""Jobs that are run again, and waiting ones that are changed, through either backend."""

from __future__ import annotations

from typing import Any

import pytest
from door import Door

from ugro.common.errors import InputError, JobSpecError
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.service.code import read_new_code
from ugro.service.plan import PlanChanged
from ugro.service.schemas.again import (
    Edit,
    EditedDocument,
    EditOptions,
    FieldChange,
    PlanEdit,
    PlanRerun,
    Rerun,
    RerunOptions,
    RerunPlan,
    SpecChanges,
)
from ugro.service.schemas.jobs import JobDocument
from ugro.service.schemas.queue import Hold
from ugro.service.schemas.resume import CodeSource

STAYS = "import time\ntime.sleep(600)\n"
FAILS = "raise SystemExit(3)\n"


def planned(door: Door, job: Job, code: Any = None, **changes: Any) -> RerunPlan:
    return door.call(PlanRerun(options=RerunOptions(job=job.id, changes=SpecChanges(**changes), code=code)))


def rerun(door: Door, job: Job, **changes: Any) -> JobDocument:
    return door.call(Rerun(plan=planned(door, job, **changes), answers={}))


def edit(door: Door, job: Job, **changes: Any) -> EditedDocument:
    plan = door.call(PlanEdit(options=EditOptions(job=job.id, changes=SpecChanges(**changes))))
    return door.call(Edit(plan=plan, answers={"edit": True}))


# --- rerun -----------------------------------------------------------------------------------------------------------


def test_runs_the_same_again_with_the_same_code(door: Door) -> None:
    first = door.submit(FAILS, name="lr-1", args=("--lr", "1"), hold=True, priority=3, env={"A": "1"})
    (door.project / "t.py").write_text("something else")
    made = rerun(door, first)
    assert (made.id, made.name, made.state, made.priority) == ("job-002", "lr-1-r2", JobState.QUEUED, 3)
    code = door.store.jobs.job(made.id).code
    assert (code.digest, code.directory) == (first.code.digest, str(door.project))
    assert (door.store.jobs.files(made.id).snapshot(1) / "t.py").read_text() == FAILS
    assert door.store.jobs.spec(made.id).env == {"A": "1"} and not door.store.jobs.spec(made.id).hold
    assert rerun(door, door.store.jobs.job(made.id)).name == "lr-1-r3"


def test_changes_fields_and_arguments_of_the_new_job(door: Door) -> None:
    first = door.submit(STAYS, args=("--lr", "1", "--seed=4"), env={"A": "1"})
    plan = planned(door, first, fields={"env": {"B": "2"}, "name": "other"}, settings={"lr": "1e-3", "wd": "0"})
    assert plan.differences == (
        FieldChange(field="args", before="--lr 1 --seed=4", after="--lr 1e-3 --seed=4 --wd 0"),
        FieldChange(field="name", before=None, after="other"),
        FieldChange(field="env.B", before=None, after="2"),
    )
    made = door.call(Rerun(plan=plan, answers={}))
    assert made.command == ("t.py", "--lr", "1e-3", "--seed=4", "--wd", "0") and made.name == "other"
    assert rerun(door, first, args=("--epochs", "3")).command == ("t.py", "--epochs", "3")


def test_gives_a_variable_one_value_or_one_secret(door: Door) -> None:
    door.store.secrets.set("TOKEN", "s3cret")
    first = door.submit(STAYS, env={"A": "1", "B": "2"}, secrets=("TOKEN",))
    spec = planned(door, first, fields={"env": {"TOKEN": "x"}, "secrets": ["A=TOKEN"]}).draft.spec
    assert (spec.env, spec.secrets) == ({"B": "2", "TOKEN": "x"}, ("A=TOKEN",))


def test_runs_new_code_where_that_is_asked_for(door: Door) -> None:
    first = door.submit(STAYS)
    (door.project / "t.py").write_text("print(7)\n")
    source = door.call(CodeSource(job=first.id, any_state=True))
    code = door.backend.bring(read_new_code(source))
    made = door.call(Rerun(plan=planned(door, first, code=code), answers={}))
    assert (door.store.jobs.files(made.id).snapshot(1) / "t.py").read_text() == "print(7)\n"


def test_refuses_a_rerun_that_cannot_be(door: Door) -> None:
    first = door.submit(STAYS)
    with pytest.raises(JobSpecError, match="--nodes: found 0: a number of nodes, or their names, is expected"):
        planned(door, first, fields={"nodes": 0})
    with pytest.raises(InputError, match="'workdir' of a job cannot be changed"):
        planned(door, first, fields={"workdir": "/etc"})
    with pytest.raises(InputError, match="no job 'job-009'"):
        planned(door, first.changed(id="job-009"))
    door.store.jobs.files(first.id).snapshot(1).rename(door.project.parent / "away")
    with pytest.raises(InputError, match=f"the code of {first.id} is not kept any more") as refused:
        planned(door, first)
    assert refused.value.hint.endswith(f"ugro rerun {first.id} --new-code")


# --- edit ------------------------------------------------------------------------------------------------------------


def test_changes_a_job_that_waits_and_keeps_what_it_was_in_its_events(door: Door) -> None:
    job = door.submit(STAYS, args=("--lr", "1"), time_limit=3600)
    done = edit(door, job, fields={"time_limit": 7200, "priority": 5, "name": "mine"}, settings={"lr": "2"})
    assert (done.name, done.priority, done.command) == ("mine", 5, ("t.py", "--lr", "2"))
    assert (done.state, done.time_limit) == (JobState.QUEUED, 7200)
    spec = door.store.jobs.spec(job.id)
    assert (spec.args, spec.time_limit, spec.priority, spec.workdir) == (("--lr", "2"), 7200, 5, str(door.project))
    event = door.store.timeline.of_job(job.id)[-1]
    assert event.kind == "edited" and event.message == (
        "args: --lr 1 → --lr 2; name: default → mine; priority: 0 → 5; time_limit: 1h → 2h"
    )
    assert not edit(door, job, fields={"priority": 5}).changes
    assert door.store.timeline.of_job(job.id)[-1] == event, "the same again is no change"


def test_gives_what_a_whole_spec_leaves_out_its_default(door: Door) -> None:
    job = door.submit(STAYS, args=("--lr", "1"), env={"A": "1"}, hold=True)
    plan = door.call(
        PlanEdit(options=EditOptions(job=job.id, changes=SpecChanges(fields={"script": "t.py"}, whole=True)))
    )
    [question] = plan.questions
    assert question.text == f"Change {job.id} so?" and [one.field for one in plan.differences] == ["args", "env.A"]
    done = door.call(Edit(plan=plan, answers={question.id: True}))
    assert (done.command, done.state) == (("t.py",), JobState.HELD)


def test_refuses_to_edit_what_has_started_or_changed(door: Door) -> None:
    job = door.submit(STAYS)
    plan = door.call(PlanEdit(options=EditOptions(job=job.id, changes=SpecChanges(fields={"priority": 1}))))
    door.call(Hold(job=job.id))
    with pytest.raises(PlanChanged, match=f"the record of {job.id}"):
        door.call(Edit(plan=plan, answers={}))
    assert door.store.jobs.spec(job.id).priority == 0
    failed = door.failed(FAILS)
    with pytest.raises(InputError, match=f"{failed.id} has failed; only a job that waits can be edited") as refused:
        edit(door, failed, fields={"priority": 1})
    assert refused.value.hint == f"add the changes to: ugro rerun {failed.id}"


def test_refuses_to_edit_a_job_that_starts_in_between(door: Door) -> None:
    job = door.submit(STAYS)
    plan = door.call(PlanEdit(options=EditOptions(job=job.id, changes=SpecChanges(fields={"priority": 1}))))
    door.until(job, JobState.RUNNING)
    with pytest.raises(InputError, match="is running; only a job that waits can be edited"):
        door.call(Edit(plan=plan, answers={}))
    assert door.store.jobs.spec(job.id).priority == 0


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"nodes": "mars"}, "mars"),
        ({"nodes": 3}, "node"),
        ({"after": ["job-077"]}, "there is no job 'job-077'"),
        ({"after": ["job-001"]}, "job-001 would wait for itself"),
        ({"after": ["job-002"]}, "job-001 would wait for itself through job-002"),
        ({"hold": True}, "'hold' of a job cannot be changed"),
        ({"sweep": {"lr": ["1"]}}, "'sweep' of a job cannot be changed"),
        ({"priority": 5000}, "--priority"),
        ({"frobnicate": 1}, "frobnicate"),
    ],
)
def test_refuses_a_change_that_makes_no_sense(door: Door, fields: dict[str, Any], said: str) -> None:
    job = door.submit(STAYS)
    door.submit(STAYS, after=(job.id,))
    with pytest.raises(InputError, match=said):
        edit(door, job, fields=fields)
    assert [event.kind for event in door.store.timeline.of_job(job.id)] == ["submitted"]
