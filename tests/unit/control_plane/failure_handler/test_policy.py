"""After a failure: tried again, proposed, or left; a proposal waits for a word, and a retry needs none."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from tests.unit.control_plane.failure_handler.recovery.test_next_attempt import job
from ugro.common.causes import CAUSES
from ugro.common.errors import InputError
from ugro.common.job_spec import FailurePolicy, JobSpec
from ugro.common.models.argument_change import ArgumentChange
from ugro.common.models.checkpoint import Checkpoint
from ugro.common.models.drain import Drain
from ugro.common.models.first_failure import FirstFailure
from ugro.common.models.job import Attempt, Job, Wish
from ugro.common.models.job_state import JobState
from ugro.control_plane.diagnosis import causes
from ugro.control_plane.failure_handler.handler import FailureHandler, proposal_in_words
from ugro.control_plane.failure_handler.retry import decide, trouble
from ugro.control_plane.failure_handler.watchdog.sights import WatchMemory
from ugro.control_plane.metadata_store import MetadataStore
from ugro.testing import builders
from ugro.testing.clock import FakeClock
from ugro.testing.cluster import STAY, WAITS, Bed

SMALLER = (ArgumentChange(name="--batch", before="2", after="1"),)

# Each attempt leaves the next checkpoint, then loses its peer; the third one ends well.
LOSES_ITS_PEER = """\
import os, sys, zipfile
attempt = int(os.environ["UGRO_ATTEMPT"])
if attempt == 3:
    sys.exit()
if os.environ["RANK"] == "0":
    with zipfile.ZipFile(f"checkpoint-{attempt}0.pt", "w") as file:
        file.writestr("archive/data.pkl", "x")
print("UGRO_RESUME_FROM is", os.environ.get("UGRO_RESUME_FROM"))
raise RuntimeError("Connection closed by peer [10.0.0.1]:29500")
"""


def failed(cause: str, step: int | None = None, *past: tuple[str, int | None]) -> Job:
    before = tuple(
        Attempt(
            attempt=number,
            state=JobState.FAILED,
            started_at=None,
            ended_at=None,
            placement=None,
            code=builders.CODE,
            reason="",
            cause=earlier,
            step=at,
        )
        for number, (earlier, at) in enumerate(past, start=1)
    )
    return job(
        attempt=len(past) + 1,
        first_failure=FirstFailure(rank=0, node="a", cause=cause),
        past=before,
        resume_from=checkpoint(step) if step is not None else None,
    )


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(step=step, kind="torch", name=f"c-{step}.pt", bytes=1, saved_at=1.0, places=())


def asked(default: str = "ask", **causes_: str) -> JobSpec:
    return JobSpec(script="t.py", on_failure={"default": default, "causes": causes_, "backoff": "10s"})


@pytest.mark.parametrize(
    ("spec", "before", "at", "changes", "action"),
    [
        (asked(), failed("peer_lost"), 10, (), "ask"),
        (asked(), failed("python_exception"), 10, (), "leave"),  # the same would happen again
        (asked(), failed("cuda_oom"), 10, (), "leave"),
        (asked(), failed("cuda_oom"), 10, SMALLER, "ask"),
        (asked("fail"), failed("peer_lost"), 10, (), "leave"),
        (asked("retry"), failed("peer_lost"), 10, (), "retry"),
        (asked("ask", peer_lost="retry"), failed("peer_lost"), 10, (), "retry"),
        (asked("ask", peer_lost="retry"), failed("nccl_error"), 10, (), "ask"),
        (asked("retry", peer_lost="fail"), failed("peer_lost"), 10, (), "leave"),
        # never a third time at the same step with the same cause
        (asked("retry"), failed("peer_lost"), 10, (), "retry"),
        (asked("retry"), failed("peer_lost", 10, ("peer_lost", None)), 10, (), "leave"),
        (asked("retry"), failed("peer_lost", None, ("peer_lost", None)), None, (), "leave"),
        (asked("retry"), failed("peer_lost", 10, ("nccl_error", None)), 10, (), "retry"),
        (asked("retry"), failed("peer_lost", 10, ("peer_lost", None)), 20, (), "retry"),
        (asked("retry"), failed("peer_lost", 20, ("peer_lost", None), ("peer_lost", 10)), 20, (), "leave"),
        (asked("retry"), failed("peer_lost", 20, ("peer_lost", None), ("nccl_error", 10)), 20, (), "retry"),
        (asked("retry"), failed("cuda_oom", 10, ("cuda_oom", None)), 10, SMALLER, "retry"),
        # as often as allowed, then the user is asked
        (asked("retry"), failed("peer_lost", 3, ("peer_lost", 0), ("peer_lost", 1), ("peer_lost", 2)), 4, (), "ask"),
    ],
)
def test_the_decision(
    spec: JobSpec, before: Job, at: int | None, changes: tuple[ArgumentChange, ...], action: str
) -> None:
    last = checkpoint(at) if at is not None else None
    assert decide(before, trouble(before) or "", spec, last, changes).action == action


def test_what_another_code_did_does_not_count() -> None:
    again = failed("peer_lost", 10, ("peer_lost", None))
    assert decide(again, "peer_lost", asked("retry"), checkpoint(10), ()).action == "leave"
    mended = again.changed(code=replace(again.code, attempt=2))
    assert decide(mended, "peer_lost", asked("retry"), checkpoint(10), ()).action == "retry"


def test_nobody_consents_beforehand_to_begin_again_where_a_checkpoint_may_be() -> None:
    before, unseen = failed("peer_lost"), ["a: /code/runs/x: a link in a linked folder"]
    asks = decide(before, "peer_lost", asked("retry"), None, (), unseen=unseen)
    assert asks.action == "ask" and "a link in a linked folder" in asks.why
    assert decide(before, "peer_lost", asked("retry"), None, ()).action == "retry"
    assert decide(before, "peer_lost", asked("retry"), checkpoint(10), (), unseen=unseen).action == "retry"


def test_epochs_are_told_apart_as_steps_are() -> None:
    def epoch(number: int) -> Checkpoint:
        return checkpoint(0).model_copy(update={"step": None, "epoch": number})

    again = failed("peer_lost", None, ("peer_lost", None)).model_copy(update={"resume_from": epoch(3)})
    assert decide(again, "peer_lost", asked("retry"), epoch(4), ()).action == "retry"
    assert decide(again, "peer_lost", asked("retry"), epoch(3), ()).why.endswith(
        "after epoch 3, another retry would fail the same way"
    )


def test_nobody_consents_beforehand_to_go_on_without_a_node() -> None:
    twice = failed("node_rebooted", 10, ("node_rebooted", None), ("node_rebooted", 10))
    assert decide(twice, "node_rebooted", asked("retry"), checkpoint(10), (), ["b"]).action == "ask"
    assert decide(twice, "node_rebooted", asked("fail"), checkpoint(10), (), ["b"]).action == "leave"
    assert decide(failed("python_exception"), "python_exception", asked(), None, (), ["b"]).action == "leave"


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"state": JobState.FAILED}, "unknown"),
        ({"state": JobState.RUNNING}, None),
        ({"state": JobState.RUNNING, "alert": "hangs: rank 1"}, "hang"),
        ({"state": JobState.RUNNING, "alert": "hangs: rank 1", "wish": Wish.CANCEL}, None),
        ({"state": JobState.RUNNING, "alert": "hangs: rank 1", "first_failure": FirstFailure(rank=1, node="a")}, None),
        ({"state": JobState.UNKNOWN}, "node_lost"),
        ({"state": JobState.UNKNOWN, "wish": Wish.ABANDON}, None),
        ({"state": JobState.CANCELLED}, None),
        ({"state": JobState.QUEUED}, None),
    ],
)
def test_the_trouble_of_a_job(fields: dict[str, object], cause: str | None) -> None:
    assert trouble(job(**fields)) == cause


def test_each_wait_is_twice_as_long() -> None:
    waits = [
        decide(
            failed("peer_lost", count, *[("peer_lost", step) for step in range(count)]),
            "peer_lost",
            asked("retry"),
            checkpoint(count + 1),
            (),
        ).wait
        for count in range(3)
    ]
    assert waits == [10, 20, 40]


def test_causes_are_the_same_everywhere() -> None:
    assert set(CAUSES) == set(causes.CAUSES)


async def test_standing_consent_needs_no_further_word(bed: Bed) -> None:
    submitted = bed.submit(
        LOSES_ITS_PEER, nodes=("a",), on_failure=FailurePolicy(causes={"peer_lost": "retry"}, backoff=0.1)
    )
    ended = await bed.until(submitted, JobState.SUCCEEDED)
    assert ended.attempt == 3 and ended.resume_from and ended.resume_from.step == 20
    assert [(past.cause, past.step) for past in ended.past] == [("peer_lost", None), ("peer_lost", 10)]
    assert not bed.store.decisions.proposals() and not bed.store.decisions.undecided()


async def test_a_silent_node_takes_no_checkpoint_along_that_was_brought_here(bed: Bed) -> None:
    saves_once = LOSES_ITS_PEER.replace('os.environ["RANK"] == "0"', "attempt == 1").replace(
        "raise", 'if attempt == 2:\n    raise RuntimeError("NCCL error: unhandled system error")\nraise'
    )
    again = FailurePolicy(default="retry", backoff=0.1)
    submitted = bed.submit(WAITS + saves_once, nodes=1, on_failure=again)
    await bed.until(submitted, JobState.RUNNING)
    assert bed.store.jobs.job(submitted.id).nodes == ("a",)
    bed.store.config.drain(Drain(node="a", reason="the next attempt goes elsewhere", since=0.0))
    (bed.home / "go").touch()
    while bed.store.jobs.job(submitted.id).nodes != ("b",):
        await bed.tick()
    bed.nodes["a"].silent = True
    ended = await bed.until(submitted, JobState.SUCCEEDED)
    assert [past.step for past in ended.past] == [None, 10] and ended.resume_from and ended.resume_from.step == 10


async def test_a_proposal_waits_and_is_carried_out_when_approved(bed: Bed) -> None:
    submitted = bed.submit(LOSES_ITS_PEER, nodes=("a",))
    await bed.until(submitted, JobState.FAILED)
    [proposal] = bed.store.decisions.proposals().values()
    assert proposal_in_words(proposal) == "resume from step 10 (checkpoint-10.pt)"
    for _ in range(3):
        await bed.tick()
    assert bed.store.jobs.job(submitted.id).state == JobState.FAILED, "nothing happens without a word"
    assert bed.kinds(submitted).count("proposal") == 1
    handler = FailureHandler(bed.store, bed.inventory, bed.pool)
    resumed = await handler.approve(proposal)
    assert (resumed.state, resumed.attempt) == (JobState.QUEUED, 2) and not bed.store.decisions.proposals()
    with pytest.raises(InputError, match="was resumed already"):
        await handler.approve(proposal)
    await bed.until(submitted, JobState.FAILED)
    assert [one.attempt for one in bed.store.decisions.proposals().values()] == [2]


async def test_a_node_that_is_gone_is_left_out_if_a_person_says_so(bed: Bed) -> None:
    submitted = bed.submit(LOSES_ITS_PEER, on_failure=FailurePolicy(default="retry", causes={"peer_lost": "ask"}))
    await bed.until(submitted, JobState.FAILED)
    bed.store.decisions.withdraw(submitted.id)
    bed.store.decisions.remember_undecided(submitted.id)
    bed.nodes["b"].silent = True
    await bed.tick()
    [proposal] = bed.store.decisions.proposals().values()
    assert proposal_in_words(proposal) == "resume from step 10 (checkpoint-10.pt); on a only"
    assert proposal.text.endswith("without b: does not answer")
    await FailureHandler(bed.store, bed.inventory, bed.pool).approve(proposal)
    await bed.until(submitted, JobState.FAILED)
    again = bed.store.jobs.job(submitted.id)
    assert (again.attempt, again.nodes) == (2, ("a",)) and bed.store.jobs.spec(submitted.id).nodes == ("a",)
    assert "on a only" in str(
        [event.message for event in bed.store.timeline.of_job(submitted.id) if event.kind == "resumed"]
    )


async def silent_for_long(bed: Bed, node: str) -> None:
    bed.nodes[node].silent = True
    clock = FakeClock(time.time())
    bed.store = MetadataStore(bed.store.home, clock)
    for _ in range(12):
        await bed.tick()
        clock.advance(60)


async def test_a_job_that_waits_for_a_silent_node_may_go_on_without_it(bed: Bed) -> None:
    submitted = bed.submit(STAY, on_failure=FailurePolicy(default="retry"))
    await bed.until(submitted, JobState.RUNNING)
    await silent_for_long(bed, "b")
    [proposal] = bed.store.decisions.proposals().values()
    assert (proposal.cause, proposal.ends, proposal.nodes) == ("node_lost", True, ("a",))
    assert proposal_in_words(proposal) == "end it; begin again; on a only"
    assert bed.store.jobs.job(submitted.id).state == JobState.UNKNOWN, "which is not dead by UGRO's own word"
    handler = FailureHandler(bed.store, bed.inventory, bed.pool)
    handler.end(proposal)
    assert bed.store.decisions.proposals()[submitted.id].approved, "which survives whoever was told"
    await bed.tick()
    resumed = bed.store.jobs.job(submitted.id)
    assert (resumed.attempt, resumed.past[0].state) == (2, JobState.CANCELLED)
    assert (await bed.until(submitted, JobState.RUNNING)).nodes == ("a",) and not bed.store.decisions.proposals()
    bed.nodes["b"].silent = False
    await bed.tick()
    assert not bed.store.cleanup.leftovers(), "what the first attempt left on b is ended"
    builders.cancel(bed.store, submitted.id)
    await bed.until(submitted, JobState.CANCELLED)


async def test_a_node_that_answers_again_needs_no_answer(bed: Bed) -> None:
    submitted = bed.submit(STAY)
    await bed.until(submitted, JobState.RUNNING)
    await silent_for_long(bed, "b")
    [proposal] = bed.store.decisions.proposals().values()
    bed.nodes["b"].silent = False
    await bed.tick()
    assert not bed.store.decisions.proposals() and bed.kinds(submitted)[-2:] == ["running", "withdrawn"]
    with pytest.raises(InputError, match="has not ended: it is running"):
        FailureHandler(bed.store, bed.inventory, bed.pool).end(proposal)
    builders.cancel(bed.store, submitted.id)
    await bed.until(submitted, JobState.CANCELLED)


async def hangs_for(bed: Bed, submitted: Job, seconds: float) -> None:
    """Let a job look as the watchdog leaves one that it has called hung."""
    memory = WatchMemory(attempt=1, looked_at=time.time(), watched=1000.0 + seconds, hung_at=1000.0, culprit=1)
    bed.store.jobs.files(submitted.id).watchdog.write_text(memory.model_dump_json())
    await bed.tick()


async def test_a_hang_is_ended_by_consent_once_it_was_told_for_long(bed: Bed) -> None:
    again = FailurePolicy(causes={"hang": "retry"}, backoff=0.1)
    submitted = bed.submit(STAY, on_failure=again, hang_after={"min": 300, "max": 600})
    running = await bed.until(submitted, JobState.RUNNING)
    bed.store.decisions.remember_undecided(submitted.id)
    bed.store.jobs.save(running.model_copy(update={"alert": "hangs: rank 1 on b waits"}), "hang", "rank 1 on b waits")
    await hangs_for(bed, submitted, 290.0)
    assert bed.store.jobs.job(submitted.id).first_failure is None and bed.store.decisions.undecided() == [submitted.id]
    await hangs_for(bed, submitted, 300.0)
    told = [event.message for event in bed.store.timeline.of_job(submitted.id) if event.kind == "failing"]
    assert told == ["hangs: rank 1 on b waits; ended, as the job allows"]
    while bed.store.jobs.job(submitted.id).attempt == 1:
        await bed.tick()
    [past] = (await bed.until(submitted, JobState.RUNNING)).past
    assert (past.state, past.cause) == (JobState.FAILED, "hang")
    assert bed.store.jobs.job(submitted.id).alert is None and not bed.store.decisions.undecided()
    builders.cancel(bed.store, submitted.id)
    await bed.until(submitted, JobState.CANCELLED)


@pytest.mark.long
async def test_a_hang_waits_for_a_word_where_nobody_consented(bed: Bed) -> None:
    submitted = bed.submit(STAY)
    running = await bed.until(submitted, JobState.RUNNING)
    bed.store.decisions.remember_undecided(submitted.id)
    bed.store.jobs.save(running.model_copy(update={"alert": "hangs: rank 1 on b waits"}), "hang", "rank 1 on b waits")
    await hangs_for(bed, submitted, 1e6)
    [proposal] = bed.store.decisions.proposals().values()
    assert proposal_in_words(proposal) == "end it; begin again" and not bed.store.decisions.undecided()
    await hangs_for(bed, submitted, 2e6)
    assert "restored" not in bed.kinds(submitted), "a note is no change of the record"
    assert bed.store.jobs.job(submitted.id).state == JobState.RUNNING and bed.kinds(submitted).count("proposal") == 1
    handler = FailureHandler(bed.store, bed.inventory, bed.pool)
    handler.end(proposal)
    await bed.tick()
    assert bed.store.jobs.job(submitted.id).past[0].cause == "hang" and not bed.store.decisions.proposals()
    assert bed.kinds(submitted).count("proposal") == 1, "nothing is asked again"
    await bed.until(submitted, JobState.RUNNING)
    builders.cancel(bed.store, submitted.id)
    await bed.until(submitted, JobState.CANCELLED)


async def test_a_job_that_says_so_is_left_alone(bed: Bed) -> None:
    submitted = bed.submit(LOSES_ITS_PEER, nodes=("a",), on_failure=FailurePolicy(default="fail"))
    await bed.until(submitted, JobState.FAILED)
    assert not bed.store.decisions.proposals() and "proposal" not in bed.kinds(submitted)


async def test_a_controller_killed_before_it_decides_decides_at_the_next_tick(bed: Bed) -> None:
    submitted = bed.submit(LOSES_ITS_PEER, nodes=("a",))
    await bed.until(submitted, JobState.FAILED)
    bed.store.decisions.withdraw(submitted.id)
    bed.store.decisions.remember_undecided(submitted.id)
    await bed.tick()
    assert list(bed.store.decisions.proposals()) == [submitted.id] and not bed.store.decisions.undecided()


async def test_a_script_that_cannot_be_told_is_no_proposal(bed: Bed) -> None:
    submitted = bed.submit(
        LOSES_ITS_PEER.replace('print("UGRO_RESUME_FROM is", os.environ.get("UGRO_RESUME_FROM"))', ""), nodes=("a",)
    )
    await bed.until(submitted, JobState.FAILED)
    assert not bed.store.decisions.proposals()
    assert [event.message for event in bed.store.timeline.of_job(submitted.id) if event.kind == "recovery"]
