"""Stacks through the service layer."""

from __future__ import annotations

import time

import pytest
from door import Door

from tests.unit.control_plane.controller.test_tick import STARTED, STAY
from ugro.common.errors import InputError
from ugro.common.models.job_state import JobState
from ugro.common.models.stacks import RankStack, StackFrame, Thread
from ugro.control_plane.failure_handler.stacks import keep
from ugro.nodes.remote.stacks.stacks import NodeStacks
from ugro.service.schemas.stacks import Stacks
from ugro.testing import builders
from ugro.testing.commands import until


def test_shows_the_ranks_of_a_running_job(door: Door) -> None:
    job = door.until(door.submit(STAY), JobState.RUNNING)
    until((door.project.parent / "started").exists)  # torchrun runs before its rank does
    found = door.call(Stacks(job=job.id))
    assert found.answer.at is None and found.exit_code == 0
    assert [(rank.node, rank.rank, bool(rank.threads)) for rank in found.answer.ranks] == [("here", 0, True)]
    with pytest.raises(InputError, match="has no rank 7"):
        door.call(Stacks(job=job.id, rank=7))
    builders.cancel(door.store, job.id)
    door.until(job, JobState.CANCELLED)


def test_shows_where_the_ranks_of_an_ended_job_hung(door: Door) -> None:
    job = door.succeeded(STARTED)
    with pytest.raises(InputError, match="only a running job"):
        door.call(Stacks(job=job.id))
    thread = Thread(tid=1, name="main", frames=(StackFrame(function="step", file="t.py", line=3),))
    stacks = NodeStacks(ranks=(RankStack(rank=0, pid=1, threads=(thread,)), RankStack(rank=1)), nccl="hung")
    at = time.time()
    keep(door.store.jobs.files(job.id).hang(1), {"here": stacks}, at)
    found = door.call(Stacks(job=job.id, rank=0))
    assert found.answer.at == pytest.approx(at, abs=0.001) and found.answer.nccl == "hung"
    assert [rank.threads for rank in found.answer.ranks] == [(thread,)]
