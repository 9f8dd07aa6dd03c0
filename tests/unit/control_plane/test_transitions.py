"""The table of edges, and the functions that take them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ugro.common.models.code_version import CodeVersion
from ugro.common.models.event import Event
from ugro.common.models.event_kind import EventKind
from ugro.common.models.first_failure import FirstFailure
from ugro.common.models.job import Job, NodeShare, Placement, Rank, TakenBack, Wish
from ugro.common.models.job_state import JobState
from ugro.control_plane import transitions
from ugro.control_plane.transitions import EDGES, Change, ImpossibleTransition, Stage, stage

DRAFT = Placement(shares=(NodeShare(node="a", node_rank=0, first_rank=0, nproc=1),))
MET = DRAFT.model_copy(update={"master_addr": "10.0.0.1", "master_port": 29500})
FAILURE = FirstFailure(rank=0, node="a", exit_code=1)
RANKS = (Rank(rank=0, local_rank=0, node="a"),)


def job_in(where: Stage) -> Job:
    """Return a job in that stage."""
    job = Job(
        id="job-001",
        uid="0" * 32,
        name="job-001",
        submitted_at=1.0,
        command=("train.py",),
        code=CodeVersion(directory="/code", files=1, size_bytes=1),
        last_event=Event(at=5.0, job="job-001", kind=EventKind.MOVED, message="gpu1 is reached at 10.0.0.9 now"),
    )
    if where == Stage.FAILING:
        return job.changed(state=JobState.RUNNING, placement=MET, first_failure=FAILURE)
    if where == Stage.PLACED:
        return job.changed(state=JobState.STARTING, placement=MET)
    placement = DRAFT if where == Stage.STARTING else None if where in (Stage.QUEUED, Stage.HELD) else MET
    return job.changed(state=JobState(where.value), placement=placement)


TAKEN: dict[str, Callable[[Job], Change | Job]] = {
    "hold": lambda job: transitions.hold(job, "later"),
    "release": transitions.release,
    "reprioritize": lambda job: transitions.reprioritize(job, 3),
    "place": lambda job: transitions.place(job, DRAFT, RANKS, "a is free"),
    "set_meeting_point": lambda job: transitions.set_meeting_point(job, MET, 9.0, "ranks meet"),
    "take_back": lambda job: transitions.take_back(job, TakenBack(reason="cut", times=1, until=9.0), "cut"),
    "launch_again": lambda job: transitions.launch_again(job, "cut", "cut; again"),
    "run": lambda job: transitions.run(job, 9.0, "1 rank started"),
    "follow_ranks": lambda job: transitions.follow_ranks(job, 9.0, "rank 0 on a started"),
    "wait_for_leftovers": lambda job: transitions.wait_for_leftovers(job, 9.0, "a: tensorboard"),
    "lose_sight": lambda job: transitions.lose_sight(job, "a: no route", 9.0),
    "move": lambda job: transitions.move(job, job.placement or MET, "moved"),
    "find_unmet": lambda job: transitions.find_unmet(job, "no rank has begun"),
    "hang": lambda job: transitions.hang(job, "rank 0 waits"),
    "calm": transitions.calm,
    "idle": lambda job: transitions.idle(job, "its 1 GPU did nothing"),
    "cancel": lambda job: transitions.cancel(job, Wish.CANCEL, "asked"),
    "fail": lambda job: transitions.fail(job, FAILURE, "rank 0 failed first"),
    "fail_hang": lambda job: transitions.fail_hang(job, 0, "as approved"),
    "succeed": lambda job: transitions.end(job, JobState.SUCCEEDED, "", 9.0, ""),
    "end_failed": lambda job: transitions.end(job, JobState.FAILED, "", 9.0, ""),
    "end_cancelled": lambda job: transitions.end(job, JobState.CANCELLED, "", 9.0, ""),
    "resume": lambda job: transitions.resume(job, job.command, None),
}


@pytest.mark.parametrize("where", Stage)
@pytest.mark.parametrize("name", TAKEN)
def test_takes_an_edge_of_the_table_or_none(name: str, where: Stage) -> None:
    job = job_in(where)
    assert stage(job) == where
    try:
        taken = TAKEN[name](job)
    except ImpossibleTransition as bug:
        assert EDGES[bug.kind].get(where) != bug.target, "the table has this edge"
        assert (bug.job_id, bug.source) == ("job-001", where)
    else:
        after, kind = (taken.job, taken.kind) if isinstance(taken, Change) else (taken, EventKind.RESUMED)
        assert EDGES[kind][where] == stage(after)


def test_every_function_is_possible_from_some_stage() -> None:
    for name, edge in TAKEN.items():
        possible = 0
        for where in Stage:
            try:
                edge(job_in(where))
                possible += 1
            except ImpossibleTransition:
                continue
        assert possible, name


def test_names_the_story_of_a_job_that_cannot_go_there() -> None:
    with pytest.raises(ImpossibleTransition) as bug:
        transitions.run(job_in(Stage.SUCCEEDED), 9.0, "1 rank started")
    assert (bug.value.source, bug.value.target, bug.value.kind) == (Stage.SUCCEEDED, Stage.RUNNING, EventKind.RUNNING)
    for told in ("job-001, attempt 1", "`running`", "from succeeded to running", "`moved`", "10.0.0.9"):
        assert told in str(bug.value)


def test_never_runs_again_once_its_first_failure_is_known() -> None:
    unread = transitions.lose_sight(job_in(Stage.FAILING), "a: no route", 9.0).job
    assert (unread.state, stage(unread)) == (JobState.UNKNOWN, Stage.FAILING)
    with pytest.raises(ImpossibleTransition):
        transitions.run(unread, 9.0, "its nodes answer again")
    assert transitions.end(unread, JobState.FAILED, "", 9.0, "").job.state == JobState.FAILED


def test_is_not_queued_again_once_a_node_may_have_been_told_to_start() -> None:
    with pytest.raises(ImpossibleTransition):
        TAKEN["take_back"](job_in(Stage.PLACED))


def test_blames_a_hang_on_the_rank_that_takes_no_part() -> None:
    ranks = (Rank(rank=0, local_rank=0, node="a"), Rank(rank=1, local_rank=0, node="b"))
    hanging = transitions.hang(job_in(Stage.RUNNING).changed(ranks=ranks), "rank 1 waits").job
    assert (hanging.alert, hanging.hang) == ("hangs: rank 1 waits", "rank 1 waits")
    failing = transitions.fail_hang(hanging, 1, "as the job allows")
    assert failing.job.first_failure == FirstFailure(rank=1, node="b", cause="hang", message="rank 1 waits")
    assert (failing.job.alert, failing.job.reason) == (None, "hangs: rank 1 waits")
    assert failing.message == "hangs: rank 1 waits; ended, as the job allows"


def test_ends_no_earlier_than_it_started() -> None:
    started = job_in(Stage.RUNNING).changed(started_at=50.0, wish=Wish.CANCEL, alert="hangs: x", unknown_since=3.0)
    ended = transitions.end(started, JobState.CANCELLED, "", 9.0, "").job
    assert ended.ended_at == 50.0
    assert (ended.wish, ended.alert, ended.unknown_since) == (None, None, None)
