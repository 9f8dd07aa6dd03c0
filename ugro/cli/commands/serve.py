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
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import click

from ugro.cli.app import App, command, json_option
from ugro.cli.output import print_hanging, print_json
from ugro.cli.render.news import news_line
from ugro.common import log
from ugro.common.errors import InputError, UgroError
from ugro.common.text import clock, printable
from ugro.service.schemas.jobs import EventDocument
from ugro.service.schemas.maintenance import ChangesDocument
from ugro.service.serving import Happening, Missed, Serving, TickOver
from ugro.service.session import socket_path
from ugro.service.web_door import NotServed

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8470
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _place(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, int] | None:
    """Read HOST:PORT; an IPv6 address has brackets."""
    if value is None:
        return None
    host, colon, port = value.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdecimal() and int(port) < 2**16):
        message = f"{printable(value)!r}: HOST:PORT is expected, such as {DEFAULT_HOST}:{DEFAULT_PORT} or [::1]:0"
        raise click.BadParameter(message, ctx, param)
    return host, int(port)


@command()
@click.option(
    "--every", type=click.FloatRange(min=0.2), default=2.0, show_default=True, help="Seconds between scheduling passes."
)
@click.option("--log-level", type=click.Choice(log.LEVELS), help="Like `ugro --log-level`, for this command.")
@click.option(
    "--listen",
    "place",
    metavar="HOST:PORT",
    callback=_place,
    help=f"Serve the dashboard and the API there. Default: {DEFAULT_HOST}:{DEFAULT_PORT}.",
)
@click.option("--no-http", is_flag=True, help="Serve neither the dashboard nor the API.")
@click.option("--tls-cert", type=FILE, metavar="FILE", help="Certificate (PEM), to serve them over https.")
@click.option("--tls-key", type=FILE, metavar="FILE", help="Its key (PEM), if that is in another file.")
@json_option
def serve(
    app: App,
    every: float,
    log_level: str | None,
    place: tuple[str, int] | None,
    no_http: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    as_json: bool,
) -> None:
    """Run the resident controller: schedule, watch and recover jobs.

    It runs a scheduling pass every few seconds over persistent connections, until SIGTERM or Ctrl-C. Jobs keep running
    when it ends. A changed inventory takes effect at the next pass. Other commands with the same state directory act
    through it, over $UGRO_HOME/ugro.sock. Browsers and scripts reach it over HTTP, with the token in $UGRO_HOME/token.
    """
    if no_http and (place or tls_cert):
        raise InputError("--no-http leaves nothing to listen for", "leave it out, or --listen and --tls-cert")
    if tls_key and not tls_cert:
        raise InputError("--tls-key is of no use alone", "name its certificate: --tls-cert FILE")
    serving = Serving(app.inventory_option, every)
    log.start(serving.home, log_level or app.log_level, serving.mask)
    web = None if no_http else _Web(serving, place, tls_cert, tls_key)
    if no_http:
        serving.web = NotServed("it was started with --no-http")
    with serving.alone():
        asyncio.run(_stay(serving, web, as_json))


async def _stay(serving: Serving, web: _Web | None, as_json: bool) -> None:
    # Here, since only this command has a use for them, and their import takes long.
    from ugro.api_server.app import create_app
    from ugro.api_server.server import listening

    printer = _Printer(as_json)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, serving.stop, number.name)
    nodes = ", ".join(serving.nodes)
    application = create_app(serving.home, serving.context, lambda: serving.inventory)
    printing = asyncio.create_task(printer.follow(serving))
    try:
        async with web.open() if web else contextlib.nullcontext(()) as told, listening(application, socket_path()):
            for words in (f"watching {nodes}; state in {serving.home}", *told):
                printer.say(words)
            await serving.stay()
    finally:
        printing.cancel()
        await asyncio.gather(printing, return_exceptions=True)
        printer.print(serving.rest())
    printer.say("stopped; jobs keep running")


class _Web:
    """The HTTP server of the resident controller, at the usual place unless another one was named."""

    def __init__(
        self, serving: Serving, place: tuple[str, int] | None, certificate: Path | None, key: Path | None
    ) -> None:
        self._serving, self._named = serving, place is not None
        self._place, self._certificate, self._key = place or (DEFAULT_HOST, DEFAULT_PORT), certificate, key

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Sequence[str]]:
        """Serve it, and yield the lines to print about it. If another program has the usual port, one line says so and
        nothing is served: jobs matter more.

        Raises:
            InputError: the place that was named cannot be listened at, or the certificate cannot be used.
            StateError: a token cannot be used.
        """
        from ugro.api_server.server import Listen, PortTaken, bind, serving_web

        listen = Listen(*self._place, self._certificate, self._key)
        try:
            ear = bind(listen)
        except PortTaken as error:
            if self._named:
                raise
            self._serving.web = NotServed(error.message, missed=True)
            yield [f"no dashboard and no API: {error.message} ({error.hint})"]
            return
        listen = replace(listen, port=ear.getsockname()[1])
        async with serving_web(self._serving, listen, ear):
            found = [f"dashboard: ugro dashboard; API: {listen.url}/api/v1/, token in {self._serving.home / 'token'}"]
            if not (listen.is_loopback or listen.certificate):
                found.append(f"{listen.url} is not encrypted: others in this network can read tokens; see --tls-cert")
            yield found


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
        """Print new events. A closed output or a full disk does not end the controller."""
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
                print_hanging(f"{clock(time.time())}  ", text)

    def _complain(self, error: UgroError) -> None:
        self.say(f"{error.message} ({error.hint})" if error.hint else error.message)
        if self._as_json:
            click.echo(json.dumps({"error": error.as_dict()}), err=True)

    def _end_round(self) -> None:
        news, self._news = self._news, []
        if news and self._as_json:
            print_json(ChangesDocument(changes=tuple(news)).as_json())
