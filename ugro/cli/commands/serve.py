"""`ugro serve`: runs the resident controller, prints what it does, and answers other commands on its socket."""

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
from collections.abc import Iterable, Iterator

import click

from ugro.cli.app import App, command, json_option
from ugro.cli.output import print_json
from ugro.cli.render.news import news_line
from ugro.common import log
from ugro.common.errors import UgroError
from ugro.common.text import clock
from ugro.service.schemas.jobs import EventDocument
from ugro.service.schemas.maintenance import ChangesDocument
from ugro.service.serving import Happening, Missed, Serving, TickOver
from ugro.service.session import socket_path


@command()
@click.option(
    "--every", type=click.FloatRange(min=0.2), default=2.0, show_default=True, help="Seconds between scheduling passes."
)
@click.option("--log-level", type=click.Choice(log.LEVELS), help="Like `ugro --log-level`, for this command.")
@json_option
def serve(app: App, every: float, log_level: str | None, as_json: bool) -> None:
    """Run the resident controller: schedule, watch and recover jobs.

    It runs a scheduling pass every few seconds over persistent connections, until SIGTERM or Ctrl-C. Jobs keep running
    when it ends. A changed inventory takes effect at the next pass. Other commands with the same state directory act
    through it, over $UGRO_HOME/ugro.sock.
    """
    serving = Serving(app.inventory_option, every)
    log.start(serving.home, log_level or app.log_level)
    with serving.alone():
        asyncio.run(_stay(serving, as_json))


async def _stay(serving: Serving, as_json: bool) -> None:
    # Here, since only this command has a use for them, and their import takes long.
    from ugro.api_server.app import create_app
    from ugro.api_server.server import listening

    printer = _Printer(as_json)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, serving.stop)
    nodes = ", ".join(serving.nodes)
    application = create_app(serving.home, serving.context, lambda: serving.inventory)
    printing = asyncio.create_task(printer.follow(serving))
    try:
        async with listening(application, socket_path()):
            printer.say(f"watching {nodes}; state in {serving.home}")
            await serving.stay()
    finally:
        printing.cancel()
        await asyncio.gather(printing, return_exceptions=True)
        printer.print(serving.rest())
    printer.say("stopped; jobs keep running")


class _Printer:
    """Prints what happens: lines for people, or one JSON document for each tick that changed something."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._news: list[EventDocument] = []
        self._one_at_a_time = threading.Lock()

    async def follow(self, serving: Serving) -> None:
        """Print until it is cancelled, in a thread: who reads too slowly keeps nothing waiting but the lines."""
        async for happenings in serving.happenings():
            await asyncio.shield(asyncio.to_thread(self.print, happenings))

    def print(self, happenings: Iterable[Happening]) -> None:
        """Print what is new. Where nobody reads it any more, or the disk is full, that is no reason to end."""
        with self._one_at_a_time, self._reader_may_go():
            for happening in happenings:
                self._print(happening)

    @contextlib.contextmanager
    def _reader_may_go(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            logging.getLogger(__name__).warning("printing stopped: %s", error)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _print(self, happening: Happening) -> None:
        match happening:
            case Missed():
                self.say(f"{happening.count} changes came too fast to be shown; see: ugro events")
            case UgroError():
                self._complain(happening)
            case EventDocument():
                self._news.append(happening)
                self.say(news_line(happening))
            case TickOver():
                self._end_round()

    def say(self, text: str) -> None:
        """Print a line for people."""
        if not self._as_json:
            with self._reader_may_go():
                click.echo(f"{clock(time.time())}  {text}")

    def _complain(self, error: UgroError) -> None:
        self.say(f"{error.message} ({error.hint})" if error.hint else error.message)
        if self._as_json:
            click.echo(json.dumps({"error": error.as_dict()}), err=True)

    def _end_round(self) -> None:
        news, self._news = self._news, []
        if news and self._as_json:
            print_json(ChangesDocument(changes=tuple(news)).as_json())
