"""The promises of every engine (`ugro/engines/base.py`), each on a simulated cluster of its own.

A new engine joins by a `Place` of its own in `PLACES`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from ugro.common.errors import NodeError
from ugro.common.job_spec import JobSpec
from ugro.common.models.job import Job
from ugro.common.models.job_state import RankState
from ugro.common.models.run import RunFiles
from ugro.control_plane.scheduler import tracker
from ugro.control_plane.scheduler.tracker import Phase
from ugro.engines.base import Cargo, Engine, Prepared
from ugro.engines.ssh.engine import SshEngine
from ugro.testing import builders
from ugro.testing.cluster import STAY, Bed

NODES = ("a", "b")
PATIENCE = 30.0


class Place(Protocol):
    """Where an engine runs jobs of a test: on two nodes, a and b."""

    def engine(self) -> Engine:
        """The engine of a process that has just been started: it remembers nothing."""

    def silence(self, node: str, silent: bool = True) -> None:
        """Let a node give no answers."""

    def traces(self) -> list[Path]:
        """What is on the nodes."""


class OverSsh:
    """Nodes of this machine, each with a folder of its own."""

    def __init__(self, bed: Bed) -> None:
        self._bed = bed

    def engine(self) -> Engine:
        return SshEngine(self._bed.inventory, self._bed.pool, self._bed.store.clock, self._bed.store.config.master)

    def silence(self, node: str, silent: bool = True) -> None:
        self._bed.nodes[node].silent = silent

    def traces(self) -> list[Path]:
        return [path for node in NODES for path in (self._bed.home / node).rglob("*")]


PLACES: dict[str, Callable[[Bed], Place]] = {"ssh": OverSsh}


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, bed: Bed) -> Place:
    return PLACES[request.param](bed)


class Attempt:
    """An attempt of a job with a rank on each node."""

    def __init__(self, bed: Bed, place: Place, script: str) -> None:
        job = bed.submit(script)
        self.home = bed.home
        self.place = place
        self.spec: JobSpec = bed.store.jobs.spec(job.id)
        self.job: Job = job.changed(placement=builders.placement(*NODES))
        self.copies = bed.store.jobs.files(job.id).logs(1)
        self.cargo = Cargo(bed.store.jobs.files(job.id).snapshot(1), self._no_checkpoint)

    @staticmethod
    async def _no_checkpoint() -> Path:
        raise AssertionError("it goes on from nothing")

    async def prepare(self) -> Prepared:
        """Prepare it by a process of its own, and take down where the ranks meet."""
        prepared = await self.place.engine().prepare(self.job, self.spec, self.cargo)
        self.job = self.job.changed(placement=prepared.placement)
        return prepared

    async def start(self) -> None:
        """Prepare and start it, by a process that remembers nothing of an earlier time."""
        prepared = await self.prepare()
        await self.place.engine().start(self.job, prepared)

    async def runs(self) -> dict[str, RunFiles | NodeError]:
        """What each node says of it."""
        return (await self.place.engine().observe([self.job], NODES)).runs[self.job.id]

    async def until(self, phase: Phase) -> tracker.Assessment:
        """Observe until its ranks have begun and add up to that."""
        async with asyncio.timeout(PATIENCE):
            while True:
                found = tracker.assess(self.job, await self.runs())
                if found.phase == phase and all(rank.pid for rank in found.ranks):
                    return found
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """End it, and see that this is proved."""
        ending = await self.place.engine().stop(self.job, 1.0, NODES)
        assert (ending.problems, sorted(ending.proved)) == ([], [*NODES])

    async def fetch(self, node: str, most: int = 2**20) -> int:
        """Bring what is new in the logs of a node. Returns how much that was."""
        engine = self.place.engine()
        return (await engine.fetch_logs(self.job, node, self.copies, at=1.0, starts={}, most=most)).bytes


async def test_an_attempt_that_is_started_again_runs_once(bed: Bed, place: Place) -> None:
    attempt = Attempt(bed, place, STAY)
    await attempt.start()
    met = attempt.job.placement
    first = await attempt.until(Phase.RUNNING)
    for _ in range(2):  # a controller that crashed after the start finds the record, and begins again
        await attempt.start()
    assert attempt.job.placement == met, "ranks that run have met"
    assert [rank.pid for rank in (await attempt.until(Phase.RUNNING)).ranks] == [rank.pid for rank in first.ranks]
    await attempt.stop()
    assert sorted((attempt.home / "started").read_text()) == ["0", "1"]


async def test_does_not_start_a_stopped_attempt_again(bed: Bed, place: Place) -> None:
    attempt = Attempt(bed, place, STAY)
    await attempt.start()
    await attempt.until(Phase.RUNNING)
    await attempt.stop()
    await attempt.start()
    await attempt.until(Phase.FAILED)
    assert sorted((attempt.home / "started").read_text()) == ["0", "1"]


async def test_a_rehearsal_says_what_would_run_and_writes_nothing(bed: Bed, place: Place) -> None:
    attempt = Attempt(bed, place, STAY)
    prepared = await place.engine().prepare(attempt.job, attempt.spec)
    assert set(prepared.scripts) == {*NODES} and all("t.py" in script for script in prepared.scripts.values())
    assert place.traces() == []


async def test_to_prepare_starts_nothing(bed: Bed, place: Place) -> None:
    attempt = Attempt(bed, place, STAY)
    prepared = await attempt.prepare()
    assert prepared.placement.master_port, "it is known before the start whether there was one"
    assert all(isinstance(run, RunFiles) and not run.claimed for run in (await attempt.runs()).values())
    await attempt.stop()


async def test_a_rank_that_was_killed_is_seen_to_have_ended_so(bed: Bed, place: Place) -> None:
    attempt = Attempt(bed, place, STAY)
    await attempt.start()
    one, other = (await attempt.until(Phase.RUNNING)).ranks
    assert one.pid
    os.kill(one.pid, signal.SIGKILL)
    found = await attempt.until(Phase.FAILED)
    assert (found.ranks[0].state, found.ranks[0].signal) == (RankState.FAILED, "KILL")
    assert (found.ranks[1].state, found.ranks[1].pid) == (RankState.RUNNING, other.pid)
    await attempt.stop()


async def test_a_node_without_an_answer_proves_nothing(bed: Bed, place: Place) -> None:
    attempt = Attempt(bed, place, STAY)
    await attempt.start()
    await attempt.until(Phase.RUNNING)
    place.silence("b")
    runs = await attempt.runs()
    assert isinstance(runs["a"], RunFiles) and isinstance(runs["b"], NodeError)
    ending = await place.engine().stop(attempt.job, 1.0, NODES)
    assert (ending.proved, ending.unreached) == (["a"], ["b"]) and ending.problems
    with pytest.raises(NodeError):
        await attempt.fetch("b")
    with pytest.raises(NodeError):
        await place.engine().start(attempt.job, Prepared(builders.placement(*NODES), {"a": "", "b": ""}))
    place.silence("b", False)
    assert isinstance(run := (await attempt.runs())["b"], RunFiles) and run.runner_alive, "it was not reached"
    await attempt.stop()


async def test_a_stop_proves_the_end_however_often_it_is_asked_for(bed: Bed, place: Place) -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    attempt = Attempt(bed, place, stubborn + STAY)
    await attempt.start()
    ranks = (await attempt.until(Phase.RUNNING)).ranks
    await attempt.stop()
    assert not any(Path(f"/proc/{rank.pid}").exists() for rank in ranks)
    await attempt.stop()


async def test_logs_go_on_from_where_their_copies_end(bed: Bed, place: Place) -> None:
    says = "import os, sys, time\nprint('x' * 5000, flush=True)\n"
    waits = "while not os.path.exists(os.environ['HOME'] + '/go'): time.sleep(0.02)\nprint('the end')\n"
    attempt = Attempt(bed, place, says + waits)
    await attempt.start()
    await attempt.until(Phase.RUNNING)
    copy = attempt.copies / "rank-0.log"
    async with asyncio.timeout(PATIENCE):
        while not copy.exists() or copy.stat().st_size < 5001:
            assert await attempt.fetch("a", most=2000) < 3000, "a log is brought piece by piece"
    assert await attempt.fetch("a") == 0, "nothing comes twice"
    (attempt.home / "go").touch()
    await attempt.until(Phase.SUCCEEDED)
    assert await attempt.fetch("a") == len("the end\n")
    assert copy.read_text() == "x" * 5000 + "\nthe end\n"
    (end,) = [end for name, end in (await place.engine().log_ends(attempt.job, "a", 1, 100)).items() if "rank" in name]
    assert (end.size, end.start) == (5009, 5001)
    await attempt.stop()
