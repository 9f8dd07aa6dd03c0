"""Runs the resident controller, and lets others act through it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from ugro.common.config import Inventory, WebSettings
from ugro.common.errors import StateError, StateLocked, UgroError
from ugro.common.locations import inventory_path
from ugro.common.models.event import Event
from ugro.control_plane.bus import Batch, RoundOver
from ugro.control_plane.metadata_store import RESIDENT_LOCK
from ugro.control_plane.resident import Resident
from ugro.service.board import Board, Pulse, State
from ugro.service.context import Context, Reach
from ugro.service.lag import LoopLag
from ugro.service.live import read_topic
from ugro.service.monitoring import Monitor, Serve, Snapshot
from ugro.service.news import is_news
from ugro.service.schemas.jobs import EventDocument
from ugro.service.web_door import NotServed, WebDoor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Missed:
    """Changes that came too fast to be kept for this reader."""

    count: int


@dataclass(frozen=True)
class TickOver:
    """A tick is over, and what it changed comes before this."""


Happening = EventDocument | UgroError | TickOver | Missed


class Serving:
    """The resident controller of a state directory."""

    def __init__(self, inventory: str | None, every: float) -> None:
        """`every` is the seconds between two ticks."""
        self._option = inventory
        self._main = Context(inventory)
        self._resident: Resident | None = None
        self._stopped = False
        self._every = every
        self._begins_with: Inventory | None = None
        self._cursor = self._main.store.bus.cursor
        self.board = Board(self._state_of, self._main.store.bus)
        """The live views."""
        self._monitor = Monitor(self._main.store)
        self.web: WebDoor | NotServed = NotServed("it has only just begun, or ends")
        """Where the dashboard is served, or why it is not."""
        self.lag = LoopLag()
        """How late the event loop is, while something is served over HTTP."""

    def mask(self, text: str) -> str:
        """Return a text with the value of each secret masked."""
        return self._main.store.mask(text)

    @property
    def home(self) -> Path:
        """The state directory."""
        return self._main.store.home

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that are watched.

        Raises:
            InventoryError: the inventory does not exist, or has a mistake.
        """
        self._begins_with = self._begins_with or Context(self._option).cluster
        return tuple(self._begins_with.nodes)

    @property
    def inventory(self) -> str:
        """The path of the inventory in use."""
        return str(inventory_path(self._option).resolve())

    @property
    def settings(self) -> WebSettings:
        """The inventory's settings of the dashboard, as of the last tick."""
        inventory = (self._resident and self._resident.inventory) or self._begins_with
        return inventory.dashboard if inventory else WebSettings()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only resident of the state directory.

        Raises:
            StateLocked: another one runs.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._main.store.exclusive(RESIDENT_LOCK, patience=1))
            except StateLocked as error:
                how = f"`kill {error.pid}` ends it" if error.pid else "`pgrep -af 'ugro serve'` finds it, to end it"
                hint = f"one is enough: {how} (jobs keep running); then start this one"
                raise StateLocked(f"`ugro serve` runs already: {error.message}", hint, error.pid) from None
            yield

    def _read_inventory(self) -> Inventory:
        """Return the inventory as it is now; at first what `nodes` named, however soon it was edited after that."""
        found, self._begins_with = self._begins_with, None
        return found or Context(self._option).cluster

    async def stay(self) -> None:
        """Tick until `stop`.

        Raises:
            InputError: the inventory has a mistake from the beginning on.
        """
        self._resident = Resident(self._main.store, self._read_inventory, self._every)
        if self._stopped:  # the signal came while everything was being opened
            self._resident.stop()
        await self._resident.stay()

    def stop(self, why: str) -> None:
        """Have `stay` return once the tick under way is finished, also where it has not begun so far.

        The log has `why`: the name of a signal.
        """
        log.info("%s: ends once the tick under way is finished", why)
        self._stopped = True
        if self._resident:
            self._resident.stop()

    # --- for those who act through it --------------------------------------------------------------------------------

    def context(self) -> Context:
        """Return what one call acts on: it shares the store and the connections, and wakes a tick at its end."""
        context = _ContextOfCall(self._option, self._main, self._resident)
        context.board, context.web = self.board, self.web
        return context

    async def _state_of(self, topic: str) -> State:
        """Return the state of a topic of the board, by what the last tick left.

        Raises:
            StateError: there was no tick so far, or the state directory cannot be read. InputError: no such job.
        """
        return await asyncio.to_thread(read_topic, self._main.store, self._ticked(), True, topic)

    def _ticked(self) -> Inventory:
        """Return the inventory that ticks use."""
        if self._resident is None or self._resident.inventory is None:
            raise StateError("the resident controller is not ready", "ask again in a moment")
        return self._resident.inventory

    @property
    def pulse(self) -> Pulse:
        """Beats with each tick, and with all that happens."""
        return self._main.store.bus

    async def snapshot(self, clients: int) -> Snapshot:
        """Return what monitoring gets, by what the last tick left; `clients` is the number of open live views.

        Raises:
            StateError: there was no tick so far, or the state directory cannot be read.
        """
        inventory = self._ticked()
        serve = Serve(self._main.store.counts, clients, self.lag.quantile(0.99))
        return await asyncio.to_thread(self._monitor.read, inventory, serve)

    # --- for those who watch -----------------------------------------------------------------------------------------

    async def happenings(self) -> AsyncIterator[list[Happening]]:
        """Yield what happens, in batches, as it happens."""
        while True:
            yield self._taken(await self._main.store.bus.next(self._cursor))

    def rest(self) -> list[Happening]:
        """Return what happened since the last batch."""
        return self._taken(self._main.store.bus.read(self._cursor))

    def _taken(self, batch: Batch) -> list[Happening]:
        self._cursor = batch.cursor
        found: list[Happening] = [Missed(batch.missed)] if batch.missed else []
        for notice in batch.notices:
            match notice:
                case Event() if is_news(notice):
                    found.append(EventDocument.of(notice))
                case UgroError():
                    found.append(notice)
                case RoundOver():
                    found.append(TickOver())
        return found


class _ContextOfCall(Context):
    """What one call to the resident acts on. It has a controller of its own over the connections of the resident."""

    def __init__(self, inventory: str | None, main: Context, resident: Resident | None) -> None:
        super().__init__(inventory)
        self.store = main.store
        self._resident = resident
        self._began_at = main.store.bus.cursor

    async def reach(self) -> Reach:
        if self._reach is None:
            if self._resident is None or self._resident.pool is None:
                raise StateError("the resident controller is not ready", "ask again in a moment")
            pool = self._resident.pool
            await self._open.enter_async_context(self.courier)
            self._reach = self._over(pool)
        return self._reach

    async def close(self, rest: bool = True) -> None:
        """Let go of the controller; the next tick, which any change wakes, continues what it began."""
        await super().close(rest)
        if self._resident and any(isinstance(one, Event) for one in self.store.bus.read(self._began_at).notices):
            self._resident.wake()
