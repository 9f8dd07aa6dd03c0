"""The board: one reading for all subscribers, deltas that bring each to the same state, no work without one."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugro.common.errors import InputError
from ugro.service import board as boards
from ugro.service.board import Board, State, Update, difference, joined

STATES = st.fixed_dictionaries(
    {"at": st.integers(0, 3), "jobs": st.dictionaries(st.sampled_from("abc"), st.integers(0, 3), max_size=3)}
)


class World:
    """A state, a pulse, and how often the state was read."""

    def __init__(self) -> None:
        self.state: State = {"at": 1, "jobs": {"a": 1}}
        self.beat, self.reads = 0, 0
        self._beats = asyncio.Condition()

    async def read(self, topic: str) -> State:
        self.reads += 1
        if topic == "nosuch":
            raise InputError("there is no job nosuch")
        return {**self.state, "jobs": dict(self.state["jobs"])}

    async def beats(self, beat: int) -> None:
        async with self._beats:
            await self._beats.wait_for(lambda: self.beat != beat)

    async def change(self, **values: object) -> None:
        self.state |= values
        async with self._beats:
            self.beat += 1
            self._beats.notify_all()


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(boards, "AT_MOST_EVERY", 0.0)
    return World()


async def following(updates: AsyncGenerator[Update, None]) -> Update:
    async with asyncio.timeout(30):
        return await anext(updates)


def applied(state: State, delta: State) -> State:
    """What a client makes of a delta."""
    state = {name: dict(value) if isinstance(value, dict) else value for name, value in state.items()}
    for name, value in delta.items():
        if isinstance(value, dict):
            for key, item in value.items():
                if item is None:
                    state[name].pop(key, None)
                else:
                    state[name][key] = item
        else:
            state[name] = value
    return state


@given(st.lists(STATES, min_size=2, max_size=6))
def test_deltas_bring_a_client_to_each_state_also_joined(states: list[State]) -> None:
    deltas = [difference(before, after) for before, after in itertools.pairwise(states)]
    state = states[0]
    for delta, after in zip(deltas, states[1:], strict=True):
        state = applied(state, delta)
        assert state == after
    assert applied(states[0], joined(deltas)) == states[-1]
    assert difference(states[0], states[0]) == {}


async def test_yields_a_snapshot_then_what_changed(world: World) -> None:
    async with contextlib.aclosing(Board(world.read, world).watch("cluster")) as updates:
        first = await following(updates)
        assert (first.kind, first.data) == ("snapshot", {"at": 1, "jobs": {"a": 1}})
        await world.change(jobs={"b": 2})
        second = await following(updates)
        assert (second.kind, second.data) == ("delta", {"jobs": {"b": 2, "a": None}})
        assert json.loads(second.text) == second.data and second.seq > first.seq


async def test_reads_once_for_all_and_not_at_all_without_a_subscriber(world: World) -> None:
    board = Board(world.read, world)
    watchers = [board.watch("cluster") for _ in range(5)]
    firsts = [await following(one) for one in watchers]
    assert world.reads == 1 and len({id(one) for one in firsts}) == 1, "one update, written as JSON once"
    await world.change(at=2)
    assert {(await following(one)).seq for one in watchers} == {board.numbers.last} and world.reads == 2
    for one in watchers:
        await one.aclose()
    await world.change(at=3)
    await asyncio.sleep(0)
    assert world.reads == 2


async def test_resumes_after_a_known_number_and_else_begins_with_a_snapshot(world: World) -> None:
    board = Board(world.read, world)
    async with contextlib.aclosing(board.watch("cluster")) as updates:
        known = (await following(updates)).seq
        for at in (2, 3):
            await world.change(at=at)
            last = await following(updates)
    await world.change(jobs={})
    async with contextlib.aclosing(board.watch("cluster", known)) as updates:
        again = await following(updates)
        assert (again.kind, again.data) == ("delta", {"at": 3, "jobs": {"a": None}})
    async with contextlib.aclosing(board.watch("cluster", last.seq)) as updates:
        assert (await following(updates)).data == {"jobs": {"a": None}}
    for unknown in (known - 1, board.numbers.last + 1, 0):
        async with contextlib.aclosing(board.watch("cluster", unknown)) as updates:
            assert (await following(updates)).kind == "snapshot"
    async with contextlib.aclosing(board.watch("cluster", again.seq)) as updates:
        waiting = asyncio.create_task(anext(updates))
        await asyncio.sleep(0)
        await world.change(at=9)
        assert (await waiting).data == {"at": 9}, "nothing is told twice"


async def test_a_slow_subscriber_gets_what_it_missed_as_one_delta(world: World) -> None:
    board = Board(world.read, world)
    slow, fast = board.watch("cluster"), board.watch("cluster")
    await following(slow)
    await following(fast)
    for at in range(2, 2 + boards.DELTAS_KEPT):
        await world.change(at=at)
        await following(fast)
    update = await following(slow)
    assert (update.kind, update.data) == ("delta", {"at": at})
    for at in range(100, 101 + boards.DELTAS_KEPT):
        await world.change(at=at)
        await following(fast)
    assert (await following(slow)).kind == "snapshot", "the deltas are not kept for so long"
    await slow.aclose()
    await fast.aclose()


async def test_an_unreadable_topic_ends_the_watch_and_the_next_one_tries_again(world: World) -> None:
    board = Board(world.read, world)
    for reads in (1, 2):
        with pytest.raises(InputError, match="nosuch"):
            await following(board.watch("nosuch"))
        assert world.reads == reads


async def test_keeps_few_topics_without_a_subscriber(world: World) -> None:
    board = Board(world.read, world)
    for number in range(boards.TOPICS_KEPT + 50):
        async with contextlib.aclosing(board.watch(f"job:{number}")) as updates:
            await following(updates)
    assert len(board._topics) <= boards.TOPICS_KEPT + 1
