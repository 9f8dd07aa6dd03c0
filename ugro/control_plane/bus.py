"""Notices of this process, for any number of readers that keep a cursor of their own. Bounded in memory."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ugro.common.errors import UgroError
from ugro.common.models.event import Event

log = logging.getLogger(__name__)

KEEP = 10_000
"""Notices that are kept for readers that lag: some megabytes."""


@dataclass(frozen=True)
class RoundOver:
    """A tick is over, and all its notices come before this."""


Notice = Event | UgroError | RoundOver
"""A change of the timeline, a trouble that is new, or the end of a round in which there was either."""


@dataclass(frozen=True)
class Batch:
    """The notices from a cursor on, and the cursor to read on from.

    `missed` counts those that were not kept for so long. The events among them happened before `kept_since` (seconds
    since the epoch; None: no event is kept) and are in the cluster's timeline.
    """

    notices: Sequence[Notice]
    cursor: int
    missed: int = 0
    kept_since: float | None = None

    @property
    def events(self) -> list[Event]:
        """The events among them, in order."""
        return [notice for notice in self.notices if isinstance(notice, Event)]


class Bus:
    """Numbers what happens from 0 on. Written by any thread, read by any; waited for by coroutines."""

    def __init__(self, keep: int = KEEP) -> None:
        self._kept: deque[Notice] = deque(maxlen=keep)
        self._next = 0
        self._lock = threading.Lock()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._before: set[str] = set()
        self._is_round_over = True
        self._rounds = 0
        self.troubles: list[UgroError] = []
        """Troubles reported in this round, those that last since the previous one included."""

    @property
    def cursor(self) -> int:
        """The number of the next notice: a reader that begins here reads only what is new."""
        return self._next

    def publish(self, notice: Notice) -> None:
        """Add what happened, and wake who waits for it."""
        with self._lock:
            self._kept.append(notice)
            self._next += 1
            self._is_round_over = isinstance(notice, RoundOver)
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, set()
        for loop, event in waiting:
            with contextlib.suppress(RuntimeError):  # its loop is closed
                loop.call_soon_threadsafe(event.set)

    def tell(self, error: UgroError) -> None:
        """Publish a trouble, unless it was reported before in this round or the previous one."""
        if all(error.message != known.message for known in self.troubles):
            self.troubles.append(error)
            if error.message not in self._before:
                log.warning("%s", error.message)
                self.publish(error)

    def end_round(self) -> None:
        """Publish the end of a tick, if it had a notice. A trouble that it did not have is new when it comes again."""
        self._before, self.troubles = {error.message for error in self.troubles}, []
        self._rounds += 1
        if self._is_round_over:
            self._wake()
        else:
            self.publish(RoundOver())

    def read(self, cursor: int) -> Batch:
        """Return the notices from a cursor on; 0 for all that are kept."""
        with self._lock:
            oldest = self._next - len(self._kept)
            notices = list(self._kept)[max(0, cursor - oldest) :]
            missed, reached = max(0, oldest - cursor), self._next
        kept_since = next((notice.at for notice in notices if isinstance(notice, Event)), None)
        return Batch(notices, reached, missed, kept_since)

    async def next(self, cursor: int) -> Batch:
        """Wait for a notice from a cursor on, and return as `read` does."""
        await self._until(lambda: self._next > cursor)
        return self.read(cursor)

    @property
    def beat(self) -> int:
        """A number that grows with each notice and each tick, also one without notices."""
        return self._next + self._rounds

    async def beats(self, beat: int) -> None:
        """Wait until the beat is another."""
        await self._until(lambda: self.beat != beat)

    async def _until(self, ready: Callable[[], bool]) -> None:
        while True:
            came = asyncio.Event()
            with self._lock:
                if ready():
                    return
                self._waiting.add(entry := (asyncio.get_running_loop(), came))
            try:
                await came.wait()
            finally:
                with self._lock:
                    self._waiting.discard(entry)
