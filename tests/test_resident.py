"""The resident controller: woken at once, ended between two ticks, and alone."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cluster import Ugro, document, until
from test_controller import STARTED, Bed
from test_jobs_in_sandbox import project, sandbox, ugro  # noqa: F401

from ugro.common.config import Inventory
from ugro.common.errors import InventoryError, StateError
from ugro.common.models.event import Event
from ugro.common.models.job import JobState
from ugro.control_plane.bus import RoundOver
from ugro.control_plane.resident import Resident
from ugro.sandbox.cluster import Sandbox


class LocalBed(Bed):
    """A bed whose one node is this machine."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        here = self.inventory.nodes["a"].model_copy(update={"local": True})
        self.inventory = Inventory(nodes={"a": here})


@pytest.fixture
def bed(home: Path) -> LocalBed:
    return LocalBed(home)


@asynccontextmanager
async def staying(resident: Resident) -> AsyncIterator[None]:
    stay = asyncio.create_task(resident.stay())
    try:
        async with asyncio.timeout(60):
            yield
    finally:
        resident.stop()
        await stay


async def test_a_request_wakes_the_next_tick(bed: LocalBed) -> None:
    resident = Resident(bed.store, lambda: bed.inventory, every=3600)
    async with staying(resident):
        while not resident.ticks:
            await asyncio.sleep(0.01)
        job, cursor = bed.submit(STARTED), bed.store.bus.cursor
        kinds: list[str] = []
        while "succeeded" not in kinds:
            resident.wake()
            batch = await bed.store.bus.next(cursor)
            cursor, kinds = batch.cursor, kinds + [event.kind for event in batch.events if event.job == job.id]
    assert bed.store.job(job.id).state == JobState.SUCCEEDED
    assert kinds[0] == "starting" and resident.ticks > 1


async def test_stops_at_once_between_two_ticks(bed: LocalBed) -> None:
    resident = Resident(bed.store, lambda: bed.inventory, every=3600)
    async with staying(resident):
        while not resident.ticks:
            await asyncio.sleep(0.01)
    assert resident.ticks == 1


async def test_a_mistake_in_an_edited_inventory_is_told_once_and_the_last_good_one_counts(bed: LocalBed) -> None:
    answers: list[Inventory | Exception] = [bed.inventory, bed.inventory]
    mistakes = [InventoryError("inventory.yaml:3: a mistake")] * 3 + [ValueError("no mistake that anybody foresaw")]

    def read() -> Inventory:
        answer = (answers or mistakes or [bed.inventory]).pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    resident = Resident(bed.store, read, every=0.2)
    job = bed.submit(STARTED)
    async with staying(resident):
        while mistakes or bed.store.job(job.id).state != JobState.SUCCEEDED:
            await asyncio.sleep(0.05)
    told = [str(one) for one in bed.store.bus.read(0).notices if not isinstance(one, (Event, RoundOver))]
    assert told == ["inventory.yaml:3: a mistake", "the inventory: unexpected ValueError"]


async def test_does_not_begin_with_a_mistake(bed: LocalBed) -> None:
    def read() -> Inventory:
        raise InventoryError("a mistake")

    with pytest.raises(InventoryError, match="a mistake"):
        await Resident(bed.store, read, every=0.2).stay()


@pytest.mark.parametrize("part", ["problems", "turn", "settle"])
async def test_no_part_of_a_tick_ends_it(bed: LocalBed, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    def broken(*args: object, **options: object) -> None:
        raise errors.pop(0)

    errors: list[Exception] = [StateError("refused"), RuntimeError("a bug"), OSError(5, "I/O error"), MemoryError()]
    with monkeypatch.context() as patched:
        patched.setattr(bed.store, part, broken)
        resident = Resident(bed.store, lambda: bed.inventory, every=0.2)
        async with staying(resident):
            while errors:
                await asyncio.sleep(0.01)
            patched.undo()
            job = bed.submit(STARTED)
            while bed.store.job(job.id).state != JobState.SUCCEEDED:
                await asyncio.sleep(0.05)


@pytest.fixture
def serving(sandbox: Sandbox, project: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:  # noqa: F811
    """`ugro serve` on the sandbox."""
    env = os.environ | sandbox.environment() | {"PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "ugro", "--log-level", "debug", "serve", "--every", "0.5"]
    with subprocess.Popen(command, cwd=project, env=env, stdout=-1, stderr=-1, text=True) as process:
        try:
            assert process.stdout and "watching gpu-master, gpu1, gpu2" in process.stdout.readline()
            yield process
        finally:
            process.kill()
            process.communicate()


def test_serves_the_sandbox_and_finishes_its_tick_at_sigterm(
    serving: subprocess.Popen[str],
    sandbox: Sandbox,  # noqa: F811
    ugro: Ugro,  # noqa: F811
) -> None:
    job = document(ugro("launch", "brief.py", "--hold", "--json"))["id"]
    document(ugro("release", job, "--json"))
    until(lambda: document(ugro("status", job, "--json"))["state"] == "succeeded", 120)
    serving.send_signal(signal.SIGTERM)
    said, complained = serving.communicate(timeout=60)
    assert serving.returncode == 0 and complained == ""
    assert f"{job} succeeded" in said and said.rstrip().endswith("ends; jobs go on")
    logged = Path(sandbox.environment()["UGRO_HOME"], "log", "ugro.log").read_text()
    assert "connected to gpu1" in logged and f"{job} succeeded" in logged and "tick 1 took" in logged
