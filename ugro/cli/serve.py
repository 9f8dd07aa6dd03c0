"""`ugro serve`: the resident controller, with connections kept open and a tick every few seconds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import Sequence

import click

from ugro.cli.app import App, command, json_option
from ugro.cli.output import print_json
from ugro.cli.render.news import news_line
from ugro.common.errors import InputError, StateError, StateLocked, UgroError
from ugro.common.models.event import Event
from ugro.common.text import clock
from ugro.control_plane.controller.tick import Controller
from ugro.control_plane.metadata_store import RESIDENT_LOCK
from ugro.nodes.pool import Pool
from ugro.service.news import news_of
from ugro.service.schemas.jobs import EventDocument
from ugro.service.schemas.maintenance import ChangesDocument

BREATH = 0.2
"""Seconds between two ticks at least, however slow they are: commands that wait for the lock look for it as often."""


@command()
@click.option("--every", type=click.FloatRange(min=0.2), default=2.0, show_default=True, help="Seconds between ticks.")
@json_option
def serve(app: App, every: float, as_json: bool) -> None:
    """Stay and act: a tick every few seconds over connections that stay open. Ends at SIGTERM or Ctrl-C.

    An edited inventory is taken up at the next tick. Jobs do not depend on it: they go on when it ends.
    """
    with contextlib.ExitStack() as alone:
        try:
            alone.enter_context(app.store.exclusive(RESIDENT_LOCK, patience=1))
        except StateLocked as error:
            hint = "one is enough: `ps -fp PID` shows it, `kill PID` ends it (jobs go on); then start this one"
            raise StateLocked(f"`ugro serve` runs already: {error.message}", hint) from None
        asyncio.run(_Resident(app, as_json).stay(every))


class _Resident:
    def __init__(self, app: App, as_json: bool) -> None:
        self._app = app
        self._as_json = as_json
        self._complaints: set[str] = set()
        self._told: set[str] = set()

    async def stay(self, every: float) -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        cluster = self._app.cluster
        self._say(f"watching {', '.join(cluster.nodes)}; state in {self._app.store.home}")
        async with Pool(cluster) as pool, self._app.courier:
            controller = Controller(self._app.store, cluster, pool)
            try:
                while not stop.is_set():
                    began = time.monotonic()
                    # A tick under way is finished: cut short it would be continued, but that is harder to explain.
                    await self._act(controller)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), max(BREATH, every - (time.monotonic() - began)))
            finally:
                await controller.close()
        self._say("ends; jobs go on")

    async def _act(self, controller: Controller) -> None:
        """One tick, by the inventory as it is now; with a mistake in an edited one, by the last good one."""
        self._told, self._complaints = self._complaints, set()
        try:
            self._app.reread()
            await controller.adopt(self._app.cluster)
        except InputError as error:
            self._complain(error)
        try:
            await self._app.tick_if_free(controller)
            for problem in self._app.store.problems():
                self._complain(problem)
        except UgroError as error:
            self._complain(error)
        except OSError as error:  # what the disk says, where nobody knew better
            self._complain(StateError(str(error)))
        for trouble in self._app.store.troubles:
            self._complain(trouble)
        self._tell(news_of(self._app.store))
        self._app.store.timeline.added.clear()
        self._app.store.troubles.clear()

    def _complain(self, error: UgroError) -> None:
        """Say it, unless it was said at the tick before."""
        if error.message not in self._told | self._complaints:
            self._say(f"{error.message} ({error.hint})" if error.hint else error.message)
            if self._as_json:
                click.echo(json.dumps({"error": error.as_dict()}), err=True)
        self._complaints.add(error.message)

    def _tell(self, news: Sequence[Event]) -> None:
        changes = tuple(map(EventDocument.of, news))
        for event in changes:
            self._say(news_line(event))
        if news and self._as_json:
            print_json(ChangesDocument(changes=changes).as_json())

    def _say(self, text: str) -> None:
        if not self._as_json:
            click.echo(f"{clock(time.time())}  {text}")
