"""The bus: readers with cursors, bounded memory, and troubles that are reported once."""

from __future__ import annotations

import asyncio
import threading

from hypothesis import given
from hypothesis import strategies as st

from ugro.common.errors import InputError, StateError
from ugro.common.models.event import Event
from ugro.common.models.event_kind import EventKind
from ugro.control_plane.bus import Bus, RoundOver


def event(number: int) -> Event:
    return Event(at=float(number), job="job-001", kind=EventKind.RANKS, message=str(number))


@given(st.lists(st.integers(0, 7), max_size=30), st.integers(1, 10))
def test_reads_everything_once_or_is_told_how_much_it_missed(steps: list[int], keep: int) -> None:
    bus, cursor, number, missed, read = Bus(keep), 0, 0, 0, []
    for publish in steps:
        for _ in range(publish):
            bus.publish(event(number))
            number += 1
        batch = bus.read(cursor)
        assert len(batch.notices) <= keep
        if batch.missed:
            assert batch.kept_since == batch.events[0].at == cursor + batch.missed
        cursor, missed = batch.cursor, missed + batch.missed
        read += [int(one.message) for one in batch.events]
    assert len(read) + missed == number and read == sorted(set(read))
    assert bus.read(bus.cursor).notices == []


async def test_wakes_every_reader_also_from_another_thread() -> None:
    bus = Bus()
    bus.publish(event(0))
    assert (await bus.next(0)).events == [event(0)], "what is there is not waited for"
    readers = [asyncio.create_task(bus.next(1)) for _ in range(3)]
    await asyncio.sleep(0)
    thread = threading.Thread(target=bus.publish, args=(event(1),))
    thread.start()
    assert [batch.events for batch in await asyncio.gather(*readers)] == [[event(1)]] * 3
    thread.join()


async def test_a_reader_that_gives_up_is_forgotten() -> None:
    bus = Bus()
    reader = asyncio.create_task(bus.next(0))
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    assert not bus._waiting


def test_tells_a_trouble_once_as_long_as_it_stands() -> None:
    bus = Bus()
    for _ in range(3):
        bus.tell(StateError("the disk is full"))
        bus.tell(StateError("the disk is full"))
        assert len(bus.troubles) == 1
        bus.end_round()
    bus.end_round()
    bus.tell(StateError("the disk is full"))
    told = ["end" if isinstance(one, RoundOver) else str(one) for one in bus.read(0).notices]
    assert told == ["the disk is full", "end", "the disk is full"], "once more after a round without it"


def test_a_quiet_round_says_nothing() -> None:
    bus = Bus()
    bus.end_round()
    assert bus.cursor == 0
    bus.tell(InputError("a"))
    bus.end_round()
    bus.end_round()
    assert bus.cursor == 2


async def test_beats_with_each_notice_and_with_a_tick_that_told_nothing() -> None:
    bus = Bus()
    for happens in (lambda: bus.publish(event(1)), bus.end_round, bus.end_round):
        beat = bus.beat
        waiting = asyncio.create_task(bus.beats(beat))
        await asyncio.sleep(0)
        assert not waiting.done()
        happens()
        await waiting
    await bus.beats(beat)
