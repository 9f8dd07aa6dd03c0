"""Live views for subscribers: each is made once a tick for all of them, and not at all without a subscriber.

A state is JSON of two levels, `{collection: {key: item}}`; what is no such collection is a plain value. A delta has
the full new values and items, and `null` for an item that is gone. A slow reader gets the deltas that it missed as
one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ugro.common.errors import UgroError
from ugro.common.troubles import trouble_of

State = dict[str, Any]

DELTAS_KEPT = 60
"""Deltas of a topic that are kept for those who were away: two minutes of a tick every two seconds."""

AT_MOST_EVERY = 0.25
"""Seconds between two states of a topic at least: many changes of one moment are one delta."""

TOPICS_KEPT = 64
"""Topics without a subscriber that are kept for one who comes back."""


class Pulse(Protocol):
    """Says when something may have changed: the bus of the resident controller, or a clock."""

    @property
    def beat(self) -> int:
        """A number that is another once something may have changed."""

    async def beats(self, beat: int) -> None:
        """Wait until the beat is another than this."""


@dataclass(frozen=True)
class Update:
    """A snapshot of a topic or a delta; `text` is the JSON of its `data`."""

    kind: str
    seq: int
    data: State
    text: str


def difference(before: State, after: State) -> State:
    """Return what changed from one state to the next."""
    found: State = {}
    for name in {**before, **after}:
        old, new = before.get(name), after.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            if changed := _changed(old, new):
                found[name] = changed
        elif old != new:
            found[name] = new
    return found


def _changed(old: State, new: State) -> State:
    return {key: item for key, item in new.items() if key not in old or old[key] != item} | {
        key: None for key in old if key not in new
    }


def joined(deltas: list[State]) -> State:
    """Return several deltas, the oldest first, as one: the newest item wins."""
    found: State = {}
    for delta in deltas:
        for name, value in delta.items():
            known = found.get(name)
            found[name] = known | value if isinstance(known, dict) and isinstance(value, dict) else value
    return found


class Topic:
    """One view that is watched."""

    def __init__(self, read: Callable[[], Awaitable[State]], pulse: Pulse, numbers: Numbers) -> None:
        """`read` returns the state as it is now; it may change with each beat of the pulse."""
        self._read, self._pulse, self._numbers = read, pulse, numbers
        self._state: State = {}
        self._seq = 0
        self._snapshot: Update | None = None
        self._deltas: deque[tuple[int, Update]] = deque(maxlen=DELTAS_KEPT)
        self._news = asyncio.Event()
        self._fresh = False
        self._error: UgroError | None = None
        self._reading: asyncio.Task[None] | None = None
        self.watchers = 0

    async def updates(self, since: int | None = None) -> AsyncGenerator[Update, None]:
        """Yield a snapshot, then deltas; after `since` only deltas, where those are still known.

        Raises:
            UgroError: the state cannot be read.
        """
        known = since
        self._begin()
        try:
            while True:
                while not self._fresh or known == self._seq:
                    if self._error:
                        raise self._error
                    await self._news.wait()
                update = self._after(known)
                known = update.seq
                yield update
        finally:
            self._leave()

    def _begin(self) -> None:
        self.watchers += 1
        if self._reading is None:
            self._error = None
            self._reading = asyncio.create_task(self._keep_reading())

    def _leave(self) -> None:
        self.watchers -= 1
        if not self.watchers and self._reading:
            self._reading.cancel()
            self._reading, self._fresh = None, False

    async def _keep_reading(self) -> None:
        try:
            while True:
                beat = self._pulse.beat
                self._take(await self._read())
                await asyncio.sleep(AT_MOST_EVERY)
                await self._pulse.beats(beat)
        except Exception as error:
            self._error, self._fresh, self._reading = trouble_of("a live view", error), False, None
            self._tell()

    def _take(self, state: State) -> None:
        delta = difference(self._state, state)
        if delta or not self._seq:
            before, self._seq, self._state, self._snapshot = self._seq, next(self._numbers), state, None
            if before:
                self._deltas.append((before, _update("delta", self._seq, delta)))
        self._fresh = True
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _after(self, seq: int | None) -> Update:
        """Return the one update that brings who knows the state of a number to this one."""
        missed = list(itertools.dropwhile(lambda one: one[0] != seq, self._deltas))
        if not missed:
            self._snapshot = self._snapshot or _update("snapshot", self._seq, self._state)
            return self._snapshot
        if len(missed) == 1:
            return missed[0][1]
        return _update("delta", self._seq, joined([update.data for _, update in missed]))


def _update(kind: str, seq: int, data: State) -> Update:
    return Update(kind, seq, data, json.dumps(data, separators=(",", ":")))


class Numbers:
    """Numbers of updates: they only grow, and begin at the clock, so that none of an earlier process is taken for one
    of this.
    """

    def __init__(self) -> None:
        self._next = itertools.count(time.time_ns() // 1_000_000)
        self.last = 0

    def __next__(self) -> int:
        self.last = next(self._next)
        return self.last


class Board:
    """The topics of one process."""

    def __init__(self, read: Callable[[str], Awaitable[State]], pulse: Pulse) -> None:
        """`read` returns the state of a topic by its name; any may change with each beat of the pulse."""
        self._read, self._pulse = read, pulse
        self._topics: dict[str, Topic] = {}
        self.numbers = Numbers()

    async def watch(self, name: str, since: int | None = None) -> AsyncGenerator[Update, None]:
        """Yield the updates of a topic (`Topic.updates`).

        Raises:
            UgroError: its state cannot be read.
        """
        topic = self._topics.pop(name, None) or Topic(lambda: self._read(name), self._pulse, self.numbers)
        self._topics[name] = topic  # the one that was asked for last is the last
        unwatched = [key for key, one in self._topics.items() if not one.watchers and one is not topic]
        for key in unwatched[:-TOPICS_KEPT]:
            del self._topics[key]
        async with contextlib.aclosing(topic.updates(since)) as updates:
            async for update in updates:
                yield update
