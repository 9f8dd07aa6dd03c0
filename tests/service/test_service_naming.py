"""Jobs by number, by `@last`, by pattern and by state, through either backend."""

from __future__ import annotations

import pytest
from door import Door

from ugro.common.errors import InputError, NoSuchJob
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.service.schemas.naming import Select
from ugro.service.schemas.queries import ShowJob

STAYS = "import time\ntime.sleep(600)\n"


def ids(
    door: Door, command: str, *references: str, states: tuple[JobState, ...] = (), every: bool = False
) -> list[str]:
    selection = door.call(Select(command=command, references=references, states=states, every=every))
    return [one.job.id if one.job else f"!{one.reference}" for one in selection.found]


@pytest.fixture
def jobs(door: Door) -> list[Job]:
    return [door.submit(STAYS, name=name, hold=name == "eval") for name in ("lr-1", "lr-2", "eval", "lr-1", "42")]


def test_finds_a_job_by_its_number_and_the_last_one(door: Door, jobs: list[Job]) -> None:
    for reference in ("2", "002", "job-2", "job-002"):
        assert door.call(ShowJob(job=reference)).answer.id == "job-002"
    assert door.call(ShowJob(job="@last")).answer.id == "job-005"
    assert door.call(ShowJob(job="42")).answer.id == "job-005", "a name counts before a number"
    assert door.call(ShowJob(job="ev*")).answer.id == "job-003", "a pattern that means one job"


def test_finds_the_job_that_failed_last(door: Door) -> None:
    with pytest.raises(NoSuchJob, match="@last-failed names no job: none is failed"):
        door.call(ShowJob(job="@last-failed"))
    first = door.failed("raise SystemExit(3)\n")
    door.submit(STAYS)
    assert door.call(ShowJob(job="@last-failed")).answer.id == first.id


@pytest.mark.parametrize(
    ("reference", "message", "hint"),
    [
        ("99", "there is no job '99'", "`ugro status` lists the jobs"),
        ("@lost", "'@lost' names no job", "there are @last and @last-failed"),
        ("x*", "no job has an id or a name like 'x*'", "`ugro status` lists the jobs"),
        ("lr-*", "one job is expected here, and 'lr-*' matches 3: job-001, job-002, job-004",
         "name one of them; to list them: ugro status 'lr-*'"),
    ],
)  # fmt: skip
def test_refuses_a_reference_that_means_no_single_job(
    door: Door, jobs: list[Job], reference: str, message: str, hint: str
) -> None:
    with pytest.raises(NoSuchJob) as refused:
        door.call(ShowJob(job=reference))
    assert (refused.value.message, refused.value.hint) == (message, hint)


def test_refuses_the_last_job_where_there_is_none(door: Door) -> None:
    with pytest.raises(NoSuchJob, match="@last names no job: there are none") as refused:
        door.call(ShowJob(job="@last"))
    assert refused.value.hint == "`ugro launch` submits a first job"


def test_selects_what_a_command_accepts_and_each_job_once(door: Door, jobs: list[Job]) -> None:
    assert ids(door, "cancel", "lr-*") == ["job-001", "job-002", "job-004"]
    assert ids(door, "cancel", "4", "lr-1", "job-00[45]") == ["job-004", "job-005"]
    assert ids(door, "release", "*") == ["job-003"]
    assert ids(door, "cancel", every=True) == [job.id for job in jobs]
    assert ids(door, "cancel", states=(JobState.HELD,)) == ["job-003"]
    assert ids(door, "cancel", "lr-9", "3") == ["!lr-9", "job-003"], "a wrong one stops no other"


def test_asks_before_several_that_were_not_named_one_by_one(door: Door, jobs: list[Job]) -> None:
    question = door.call(Select(command="cancel", references=("lr-*",))).question
    assert (
        question and question.text == "Cancel these 3 jobs?" and question.hint == "use --yes: ugro cancel 'lr-*' --yes"
    )
    assert question.facts[0] == "job-001  lr-1  queued"
    for references in (("lr-2", "eval"), ("ev*",)):
        assert door.call(Select(command="cancel", references=references)).question is None
    assert door.call(Select(command="wait", references=("lr-*",))).question is None, "nothing is changed"
    every = door.call(Select(command="hold", every=True, states=(JobState.QUEUED,))).question
    assert every and every.hint == "use --yes: ugro hold --all --state queued --yes"


@pytest.mark.parametrize(
    ("command", "references", "states", "message"),
    [
        ("cancel", ("x*",), (), "there is no job with an id or a name like 'x*'"),
        ("rm", ("lr-*",), (), "`ugro rm` accepts no job of 3 jobs like 'lr-*': queued"),
        ("cancel", ("1",), (JobState.RUNNING,), "job-001 is queued, not running"),
        ("cancel", (), (JobState.RUNNING,), "`ugro cancel` accepts no job that is running of 5 jobs: queued, held"),
    ],
)
def test_refuses_what_means_no_job(
    door: Door, jobs: list[Job], command: str, references: tuple[str, ...], states: tuple[JobState, ...], message: str
) -> None:
    with pytest.raises(InputError) as refused:
        door.call(Select(command=command, references=references, states=states))
    assert refused.value.message == message and "ugro status" in refused.value.hint
