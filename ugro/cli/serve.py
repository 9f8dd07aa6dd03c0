"""`ugro serve`: runs the resident controller, and prints what it does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time

import click

from ugro.cli.app import App, command, json_option
from ugro.cli.output import print_json
from ugro.cli.render.news import news_line
from ugro.common import log
from ugro.common.config import Inventory
from ugro.common.errors import StateLocked, UgroError
from ugro.common.models.event import Event
from ugro.common.text import clock
from ugro.control_plane.bus import Batch, Bus, RoundOver
from ugro.control_plane.metadata_store import RESIDENT_LOCK
from ugro.control_plane.resident import Resident
from ugro.service.news import is_news
from ugro.service.schemas.jobs import EventDocument
from ugro.service.schemas.maintenance import ChangesDocument


@command()
@click.option("--every", type=click.FloatRange(min=0.2), default=2.0, show_default=True, help="Seconds between ticks.")
@click.option("--log-level", type=click.Choice(log.LEVELS), help="As `ugro --log-level`, for this command.")
@json_option
def serve(app: App, every: float, log_level: str | None, as_json: bool) -> None:
    """Stay and act: a tick every few seconds over connections that stay open. Ends at SIGTERM or Ctrl-C.

    An edited inventory is taken up at the next tick. Jobs do not depend on it: they go on when it ends.
    """
    if log_level:
        log.start(app.store.home, log_level)
    with contextlib.ExitStack() as alone:
        try:
            alone.enter_context(app.store.exclusive(RESIDENT_LOCK, patience=1))
        except StateLocked as error:
            hint = "one is enough: `ps -fp PID` shows it, `kill PID` ends it (jobs go on); then start this one"
            raise StateLocked(f"`ugro serve` runs already: {error.message}", hint) from None
        asyncio.run(_stay(app, every, as_json))


async def _stay(app: App, every: float, as_json: bool) -> None:
    def read_inventory() -> Inventory:
        app.reread()
        return app.cluster

    printer = _Printer(app.store.bus, as_json)
    resident = Resident(app.store, read_inventory, every)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, resident.stop)
    printer.say(f"watching {', '.join(app.cluster.nodes)}; state in {app.store.home}")
    printing = asyncio.create_task(printer.follow())
    try:
        await resident.stay()
    finally:
        printing.cancel()
        await asyncio.gather(printing, return_exceptions=True)
        printer.print_rest()
    printer.say("ends; jobs go on")


class _Printer:
    """Prints what is on a bus: lines for people, or one JSON document for each tick that changed something."""

    def __init__(self, bus: Bus, as_json: bool) -> None:
        self._bus = bus
        self._as_json = as_json
        self._news: list[EventDocument] = []
        self._one_at_a_time = threading.Lock()
        self.cursor = bus.cursor

    async def follow(self) -> None:
        """Print until it is cancelled, in a thread: who reads too slowly keeps nothing waiting but the lines."""
        while True:
            batch = await self._bus.next(self.cursor)
            await asyncio.shield(asyncio.to_thread(self.print, batch))

    def print(self, batch: Batch) -> None:
        """Print what is new. Where nobody reads it any more, or the disk is full, that is no reason to end."""
        with self._one_at_a_time:
            self.cursor = batch.cursor
            self._print(batch)

    def print_rest(self) -> None:
        """Print what is left to print."""
        with self._one_at_a_time:
            self._print(self._bus.read(self.cursor))

    def _print(self, batch: Batch) -> None:
        try:
            if batch.missed:
                self.say(f"{batch.missed} changes came too fast to be shown; see: ugro events")
            for notice in batch.notices:
                match notice:
                    case UgroError():
                        self._complain(notice)
                    case Event():
                        self._tell(notice)
                    case RoundOver():
                        self._end_round()
        except OSError as error:
            logging.getLogger(__name__).warning("what happens is not printed any more: %s", error)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def say(self, text: str) -> None:
        """Print a line for people."""
        if not self._as_json:
            click.echo(f"{clock(time.time())}  {text}")

    def _complain(self, error: UgroError) -> None:
        self.say(f"{error.message} ({error.hint})" if error.hint else error.message)
        if self._as_json:
            click.echo(json.dumps({"error": error.as_dict()}), err=True)

    def _tell(self, event: Event) -> None:
        if is_news(event):
            self._news.append(EventDocument.of(event))
            self.say(news_line(self._news[-1]))

    def _end_round(self) -> None:
        news, self._news = self._news, []
        if news and self._as_json:
            print_json(ChangesDocument(changes=tuple(news)).as_json())
