"""Properties of plans: what a tick does about a job, whatever its record and its nodes say."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import event, given, settings
from hypothesis import strategies as st

from ugro.common.errors import AnswerPending, NodeError, Unreachable
from ugro.common.job_spec import JobSpec
from ugro.common.models.first_failure import FirstFailure
from ugro.common.models.job import Job, Rank, Wish
from ugro.common.models.job_state import JobState, RankState
from ugro.common.models.run import RankFiles, RunFiles
from ugro.control_plane import transitions
from ugro.control_plane.controller.plan import (
    SAMPLE_SECONDS,
    Action,
    AskMeeting,
    Conclude,
    Fail,
    JobFacts,
    RecordChange,
    RunWatchdog,
    Sample,
    Start,
    Stop,
    TellLimit,
    plan,
)
from ugro.control_plane.scheduler.tracker import expected_ranks
from ugro.control_plane.transitions import EDGES, Change, Stage, stage
from ugro.engines.base import Observation
from ugro.testing import builders

NODES = ("gpu1", "gpu2")
NOW = 1000.0

World = tuple[Job, Observation, JobFacts]

MANY = settings(max_examples=150, deadline=None)
LIVE = tuple(state for state in JobState if not state.ended)
FOLLOWED = (JobState.RUNNING, JobState.UNKNOWN)

times = st.one_of(st.none(), st.floats(0.0, 2 * NOW))
failures = st.one_of(st.none(), st.just(FirstFailure(rank=0, node="gpu1", exit_code=1)))


@st.composite
def jobs(draw: st.DrawFn, states: tuple[JobState, ...], wishes: tuple[Wish | None, ...], fails: bool) -> Job:
    """Return any job that a record can hold in one of these states. It may be failing if it `fails`."""
    state = draw(st.sampled_from(states))
    job = builders.job(state, wish=draw(st.sampled_from(wishes)), started_at=draw(times))
    if not state.on_nodes:
        return job
    placement = builders.placement(*NODES)
    if state != JobState.STARTING or draw(st.booleans()):
        placement = placement.model_copy(update={"master_addr": "10.0.0.1", "master_port": 29500})
    failure = draw(failures) if fails else None
    job = job.changed(placement=placement, first_failure=failure, alert=draw(st.sampled_from([None, "hangs: x"])))
    return job.changed(ranks=tuple(draw(ranks_as_known(rank)) for rank in expected_ranks(job)))


def ranks_as_known(rank: Rank) -> st.SearchStrategy[Rank]:
    """Return a rank as an earlier tick may have seen it."""
    return st.sampled_from(RankState).map(lambda state: rank.model_copy(update={"state": state}))


@st.composite
def runs(draw: st.DrawFn, node: str, number: int) -> RunFiles | NodeError:
    """Return what a node may say of a run with one rank: nothing, or files that make sense or not."""
    kind = draw(st.sampled_from(["unreachable", "pending", "files", "files", "files"]))
    if kind == "unreachable":
        return Unreachable(node, "no route")
    if kind == "pending":
        return AnswerPending(node, "no answer so far")
    code = draw(st.sampled_from([None, 0, 1, 137]))
    signal = draw(st.sampled_from([None, "KILL"]))
    files = RankFiles(number, 100 + number, draw(st.booleans()), code, signal, draw(times))
    return RunFiles(
        node_time=NOW,
        claimed=draw(st.booleans()),
        uid="u",
        runner_alive=draw(st.booleans()),
        exit_code=draw(st.sampled_from([None, 0, 1])),
        time_limit=draw(st.sampled_from([None, 60.0])),
        ranks=draw(st.sampled_from([(), (files,)])),
    )


@st.composite
def worlds(
    draw: st.DrawFn,
    states: tuple[JobState, ...] = LIVE,
    wishes: tuple[Wish | None, ...] = (None, *Wish),
    fails: bool = True,
) -> World:
    """Return a job, what its nodes say, and what else is known."""
    job = draw(jobs(states, wishes, fails))
    said = {node: draw(runs(node, number)) for number, node in enumerate(NODES)}
    view = builders.node_view("gpu1", builders.gpu())
    views = {node: one if isinstance(one, NodeError) else view for node, one in said.items()}
    limit = draw(st.sampled_from([None, 60.0, 90.0]))
    spec = JobSpec(script="t.py", workdir="/w", time_limit=limit) if limit else None
    facts = JobFacts(draw(times), spec, draw(times), draw(st.booleans()), draw(times))
    return job, Observation(views, {job.id: said}, NOW), facts


def edges_of(action: Action) -> list[Change]:
    """Take the edges that an action may lead to. Raises ImpossibleTransition for one that is not in the table."""
    match action:
        case RecordChange(change):
            return [change]
        case Start(job):
            assert job.placement
            met = job.placement.model_copy(update={"master_addr": "10.0.0.1", "master_port": 29500})
            placed = transitions.set_meeting_point(job, met, NOW, "ranks meet")
            failure = FirstFailure(rank=None, node="gpu1")
            return [placed, transitions.run(placed.job, NOW, "started"), transitions.fail(job, failure, "refused")]
        case Conclude(job):
            ended = transitions.end(job, JobState.SUCCEEDED, "", NOW, "")
            return [ended, transitions.wait_for_leftovers(job, NOW, "tensorboard")]
        case Fail(job):
            failing = transitions.fail(job, FirstFailure(rank=0, node="gpu1"), "rank 0 failed first")
            return [failing, transitions.end(failing.job, JobState.FAILED, "", NOW, "")]
        case Stop(job, state):
            return [transitions.end(job, state, "", NOW, ""), transitions.lose_sight(job, "gpu1: no route", NOW)]
        case _:
            return []


def subject(action: Action) -> str:
    """Return the id of the job that an action is about."""
    match action:
        case RecordChange(change):
            return change.job.id
        case Sample(job_id, _):
            return job_id
        case _:
            return action.job.id


@MANY
@given(worlds())
def test_plans_the_same_for_the_same_world(world: World) -> None:
    job, seen, facts = world
    assert plan(job, seen, facts, NOW) == plan(job, seen, facts, NOW)


@MANY
@given(worlds())
def test_leads_nowhere_outside_the_table(world: World) -> None:
    job, seen, facts = world
    for action in plan(job, seen, facts, NOW):
        event(type(action).__name__)
        assert subject(action) == job.id
        for change in edges_of(action):
            assert stage(change.job) in EDGES[change.kind].values()


@MANY
@given(worlds())
def test_does_one_thing_at_a_time(world: World) -> None:
    job, seen, facts = world
    actions = plan(job, seen, facts, NOW)
    decisive = [one for one in actions if not isinstance(one, Sample | RunWatchdog | AskMeeting | TellLimit)]
    assert len(decisive) <= 1
    assert len(actions) == len({type(one) for one in actions})


@MANY
@given(worlds(FOLLOWED, (None,), fails=False))
def test_an_unchanged_world_plans_nothing(world: World) -> None:
    """What was recorded, sampled and looked at is not planned again: the second tick finds nothing new."""
    job, seen, facts = world
    first = plan(job, seen, facts, NOW)
    if not all(isinstance(one, RecordChange | Sample | RunWatchdog | AskMeeting) for one in first):
        return  # something is done on its nodes first
    after = next((one.change.job for one in first if isinstance(one, RecordChange)), job)
    again = plan(after, seen, replace(facts, sampled_at=NOW, watch_due=False, meeting_asked=0.0), NOW)
    assert [one for one in again if not isinstance(one, TellLimit)] == []
    if not any(isinstance(one, RecordChange) for one in first):
        assert again == []


@MANY
@given(worlds(FOLLOWED, (None,), fails=False))
def test_an_unreachable_node_decides_nothing(world: World) -> None:
    """Without an answer no job ends, whatever was known of it."""
    job, seen, facts = world
    job = job.changed(ranks=expected_ranks(job))  # none of them was seen to end
    silent: dict[str, RunFiles | NodeError] = {node: Unreachable(node, "no route") for node in NODES}
    actions = plan(job, replace(seen, runs={job.id: silent}), facts, NOW)
    changes = [one.change for one in actions if isinstance(one, RecordChange)]
    assert all(isinstance(one, RecordChange | Sample) for one in actions)
    assert [stage(change.job) for change in changes] == [Stage.UNKNOWN] * (job.state != JobState.UNKNOWN)


@MANY
@given(worlds(wishes=tuple(Wish)))
def test_a_requested_end_is_always_acted_on(world: World) -> None:
    job, seen, facts = world
    [action] = plan(job, seen, facts, NOW)
    assert isinstance(action, Stop | Fail) or (isinstance(action, RecordChange) and action.change.job.state.ended)


@MANY
@given(worlds(), st.floats(0.0, SAMPLE_SECONDS, exclude_max=True))
def test_keeps_no_sample_sooner_than_it_is_due(world: World, since: float) -> None:
    job, seen, facts = world
    actions = plan(job, seen, replace(facts, sampled_at=NOW - since), NOW)
    assert not any(isinstance(one, Sample) for one in actions)
