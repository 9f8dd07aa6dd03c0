"""The resident controller: woken at once, ended between two ticks, and alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ugro.common.config import Inventory
from ugro.common.errors import InventoryError, StateError
from ugro.common.models.event import Event
from ugro.common.models.job_state import JobState
from ugro.control_plane.bus import RoundOver
from ugro.control_plane.resident import Resident
from ugro.testing.cluster import STARTED, Bed


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
            with contextlib.suppress(TimeoutError):  # a tick before its end changes nothing
                async with asyncio.timeout(0.5):
                    batch = await bed.store.bus.next(cursor)
                cursor, kinds = batch.cursor, kinds + [event.kind for event in batch.events if event.job == job.id]
    assert bed.store.jobs.job(job.id).state == JobState.SUCCEEDED
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
        while mistakes or bed.store.jobs.job(job.id).state != JobState.SUCCEEDED:
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
        patched.setattr(bed.store.jobs if part == "settle" else bed.store, part, broken)
        resident = Resident(bed.store, lambda: bed.inventory, every=0.2)
        async with staying(resident):
            while errors:
                await asyncio.sleep(0.01)
            patched.undo()
            job = bed.submit(STARTED)
            while bed.store.jobs.job(job.id).state != JobState.SUCCEEDED:
                await asyncio.sleep(0.05)
