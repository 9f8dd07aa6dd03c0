"""The resident controller: a tick every few seconds over connections that stay open, and at once when it is woken.

It knows no terminal: what happens is on the bus of its store, and what surprised it in the log. Nothing that goes wrong
in a tick ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import time
from collections.abc import Callable, Iterator

from ugro.common.config import Inventory
from ugro.common.errors import StateLocked
from ugro.common.troubles import trouble_of
from ugro.control_plane.controller.tick import Controller
from ugro.control_plane.failure_handler.alerts.courier import Courier
from ugro.control_plane.metadata_store import MetadataStore
from ugro.engines.ssh.engine import SshEngine
from ugro.nodes.pool import Pool

log = logging.getLogger(__name__)

BREATH = 0.2
"""Seconds between two ticks at least, however slow they are: commands that wait for the lock look for it as often."""

USED_LATER = (
    "ugro.control_plane.failure_handler.handler",
    "ugro.control_plane.failure_handler.watchdog.watch",
    "ugro.control_plane.metadata_store.removal",
)
"""Modules that a tick imports when it first needs them: an import takes as long as many ticks, and the loop waits."""


class Resident:
    """Acts for one state directory until it is stopped. The caller ensures that it is the only one."""

    def __init__(self, store: MetadataStore, read_inventory: Callable[[], Inventory], every: float) -> None:
        """`read_inventory` is called in a thread before each tick; `every` is the seconds between two ticks."""
        self._store = store
        self._read_inventory = read_inventory
        self._every = every
        self._woken = asyncio.Event()
        self._stopped = asyncio.Event()
        self.pool: Pool | None = None
        """The connections, while the controller runs."""
        self.inventory: Inventory | None = None
        """The inventory that ticks use; None until the controller runs."""
        self.ticks = 0
        """Number of finished ticks."""

    def wake(self) -> None:
        """Have the next tick begin at once: a request came in. Called in the event loop."""
        self._woken.set()

    def stop(self) -> None:
        """Have `stay` return. A tick under way is finished: cut short it would be continued, but that is harder to
        explain.
        """
        self._stopped.set()
        self._woken.set()

    async def stay(self) -> None:
        """Tick until it is stopped.

        Raises:
            InputError: the inventory has a mistake from the beginning on.
        """
        self.inventory = inventory = await asyncio.to_thread(self._read_inventory)
        await asyncio.to_thread(lambda: [importlib.import_module(name) for name in USED_LATER])
        log.info("watches %s", ", ".join(inventory.nodes))
        async with Pool(inventory) as pool, Courier(self._store) as courier:
            engine = SshEngine(inventory, pool, self._store.clock, self._store.config.master)
            self.pool, controller = pool, Controller(self._store, engine, pool)
            try:
                while not self._stopped.is_set():
                    began = time.monotonic()
                    self._woken.clear()
                    await self._tick(controller, courier)
                    self.ticks += 1
                    took = time.monotonic() - began
                    self._store.counts.ticks.add(took)
                    log.debug("tick %d took %.3f s", self.ticks, took)
                    await self._rest(began)
            finally:
                self.pool = None
                await controller.close()
                self._store.bus.end_round()
        log.info("ends")

    async def _tick(self, controller: Controller, courier: Courier) -> None:
        """One tick, by the inventory as it is now; with a mistake in an edited one, by the last good one."""
        with self._boundary("the inventory"):
            inventory = await asyncio.to_thread(self._read_inventory)
            await controller.adopt(inventory)
            self.inventory = inventory
        with self._boundary("a tick"), contextlib.suppress(StateLocked):  # another process's does the same work
            await controller.tick(patience=0)
        with self._boundary("alerts"):
            courier.begin()
        with self._boundary("the state directory"):
            for problem in await asyncio.to_thread(self._store.problems):
                self._store.bus.tell(problem)
        self._store.bus.end_round()

    @contextlib.contextmanager
    def _boundary(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._store.bus.tell(trouble_of(what, error))

    async def _rest(self, began: float) -> None:
        """Wait for the time of the next tick, or for a wake-up; for `BREATH` in any case but the end."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), BREATH)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), max(0.0, self._every - (time.monotonic() - began)))
