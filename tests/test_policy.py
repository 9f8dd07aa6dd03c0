"""After a failure: tried again, proposed, or left; a proposal waits for a word, and a retry needs none."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_controller import Bed
from test_resume import job

from ugro.common.causes import CAUSES
from ugro.common.errors import InputError
from ugro.common.job_spec import FailurePolicy, JobSpec
from ugro.common.models import Attempt, Change, Checkpoint, Drain, FirstFailure, Job, JobState
from ugro.control_plane.diagnosis import causes
from ugro.control_plane.failure_handler.handler import FailureHandler, in_words
from ugro.control_plane.failure_handler.policy import decide

SMALLER = (Change(name="--batch", before="2", after="1"),)

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
        (asked("retry"), failed("peer_lost", 10, ("peer_lost", None)), 10, (), "retry"),
        (asked("retry"), failed("peer_lost", 10, ("peer_lost", None), ("peer_lost", 10)), 10, (), "leave"),
        (asked("retry"), failed("peer_lost", 10, ("peer_lost", None), ("nccl_error", 10)), 10, (), "retry"),
        (asked("retry"), failed("peer_lost", 10, ("peer_lost", None), ("peer_lost", 10)), 20, (), "retry"),
        (asked("retry"), failed("cuda_oom", 10, ("cuda_oom", None), ("cuda_oom", 10)), 10, SMALLER, "retry"),
        # as often as allowed, then a person is asked
        (asked("retry"), failed("peer_lost", 3, ("peer_lost", 0), ("peer_lost", 1), ("peer_lost", 2)), 4, (), "ask"),
    ],
)
def test_the_decision(spec: JobSpec, before: Job, at: int, changes: tuple[Change, ...], action: str) -> None:
    assert decide(before, spec, checkpoint(at), changes).action == action


def test_each_wait_is_twice_as_long() -> None:
    waits = [
        decide(
            failed("peer_lost", count, *[("peer_lost", step) for step in range(count)]), asked("retry"), None, ()
        ).wait
        for count in range(3)
    ]
    assert waits == [10, 20, 40]


def test_causes_are_the_same_everywhere() -> None:
    assert set(CAUSES) == set(causes.CAUSES)


@pytest.fixture
def bed(home: Path) -> Bed:
    return Bed(home)


async def test_standing_consent_needs_no_further_word(bed: Bed) -> None:
    submitted = bed.submit(LOSES_ITS_PEER, on_failure=FailurePolicy(causes={"peer_lost": "retry"}, backoff=0.1))
    ended = await bed.until(submitted, JobState.SUCCEEDED)
    assert ended.attempt == 3 and ended.resume_from and ended.resume_from.step == 20
    assert [(past.cause, past.step) for past in ended.past] == [("peer_lost", None), ("peer_lost", 10)]
    assert not bed.store.proposals() and not bed.store.undecided()


async def test_a_silent_node_takes_no_checkpoint_along_that_was_brought_here(bed: Bed) -> None:
    saves_once = LOSES_ITS_PEER.replace('os.environ["RANK"] == "0"', "attempt == 1")
    again = FailurePolicy(default="retry", backoff=0.1)
    submitted = bed.submit(saves_once, nodes=1, on_failure=again)
    await bed.until(submitted, JobState.RUNNING)
    assert bed.store.job(submitted.id).nodes == ("a",)
    bed.store.drain(Drain(node="a", reason="the next attempt goes elsewhere", since=0.0))
    while bed.store.job(submitted.id).nodes != ("b",):
        await bed.tick()
    bed.nodes["a"].silent = True
    ended = await bed.until(submitted, JobState.SUCCEEDED)
    assert [past.step for past in ended.past] == [None, 10] and ended.resume_from and ended.resume_from.step == 10


async def test_a_proposal_waits_and_is_carried_out_when_approved(bed: Bed) -> None:
    submitted = bed.submit(LOSES_ITS_PEER)
    await bed.until(submitted, JobState.FAILED)
    [proposal] = bed.store.proposals().values()
    assert in_words(proposal) == "go on from step 10 (checkpoint-10.pt)"
    for _ in range(3):
        await bed.tick()
    assert bed.store.job(submitted.id).state == JobState.FAILED, "nothing happens without a word"
    assert bed.kinds(submitted).count("proposal") == 1
    handler = FailureHandler(bed.store, bed.inventory, bed.pool)
    resumed = await handler.approve(proposal)
    assert (resumed.state, resumed.attempt) == (JobState.QUEUED, 2) and not bed.store.proposals()
    with pytest.raises(InputError, match="was resumed already"):
        await handler.approve(proposal)
    await bed.until(submitted, JobState.FAILED)
    assert [one.attempt for one in bed.store.proposals().values()] == [2]


async def test_a_job_that_says_so_is_left_alone(bed: Bed) -> None:
    submitted = bed.submit(LOSES_ITS_PEER, on_failure=FailurePolicy(default="fail"))
    await bed.until(submitted, JobState.FAILED)
    assert not bed.store.proposals() and "proposal" not in bed.kinds(submitted)


async def test_a_controller_killed_before_it_decides_decides_at_the_next_tick(bed: Bed) -> None:
    submitted = bed.submit(LOSES_ITS_PEER)
    await bed.until(submitted, JobState.FAILED)
    bed.store.withdraw(submitted.id)
    bed.store.remember_undecided(submitted.id)
    await bed.tick()
    assert list(bed.store.proposals()) == [submitted.id] and not bed.store.undecided()


async def test_a_script_that_cannot_be_told_is_no_proposal(bed: Bed) -> None:
    submitted = bed.submit(
        LOSES_ITS_PEER.replace('print("UGRO_RESUME_FROM is", os.environ.get("UGRO_RESUME_FROM"))', "")
    )
    await bed.until(submitted, JobState.FAILED)
    assert not bed.store.proposals()
    assert [event.message for event in bed.store.events(submitted.id) if event.kind == "recovery"]
