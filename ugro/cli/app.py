"""What commands share: the way to the service functions, and how options are read."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click

from ugro.cli.output import print_hanging, print_problems
from ugro.common.errors import ResidentGone
from ugro.common.models.login import AskPerson
from ugro.common.text import printable
from ugro.common.units import parse_duration, parse_past
from ugro.service.backend import Answer, Backend, Tell
from ugro.service.schemas.base import Notice, Request, Stream
from ugro.service.schemas.code import CodeDocument
from ugro.service.session import find_resident, open_local

if TYPE_CHECKING:
    from ugro.cli.render.notices import Notices
    from ugro.service.code import WorkingCode
    from ugro.service.local import Local


class App:
    """The way of one command to the service functions."""

    def __init__(self, inventory: str | None, local: bool = True, log_level: str = "info") -> None:
        self.inventory_option = inventory
        self._local = local
        self.log_level = log_level
        self._notices: Notices | None = None

    @cached_property
    def backend(self) -> Backend:
        """What answers requests: the resident controller if one runs and is wanted, else this process."""
        if self._local:
            return self._here
        return find_resident(self.inventory_option, self._note) or self._here

    def beside(self) -> Backend:
        """Return another way to the same answers, for another thread. What there is to note was noted by `backend`."""
        resident = None if self._local else find_resident(self.inventory_option, lambda _: None)
        return resident or open_local(self.inventory_option, self.log_level)

    def _note(self, words: str) -> None:
        context = click.get_current_context(silent=True)
        if not (context and context.params.get("as_json")):  # stderr then has one document at most
            print_hanging("note: ", words, err=True, dim=True)

    @cached_property
    def _here(self) -> Local:
        return open_local(self.inventory_option, self.log_level)

    def answer_logins(self, ask: AskPerson) -> None:
        """Let this process ask the user what a machine wants to know at a first login."""
        self._here.context.ask = ask

    def __enter__(self) -> App:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        opened = {id(one): one for name in ("backend", "_here") if (one := self.__dict__.get(name))}
        with self._telling():
            for backend in opened.values():
                try:
                    backend.close(rest=kind is None)
                finally:
                    print_problems(backend.troubles, err=True)

    def call(self, request: Request[Answer]) -> Answer:
        """Return the answer to a request; what is reported meanwhile is printed on stderr.

        Raises:
            UgroError: what the service function raises.
        """
        with self._telling() as tell:
            return (self._here if request.here else self.backend).call(request, tell)

    def stream(self, request: Stream[Answer]) -> Generator[Answer, None, None]:
        """Yield the answers to a request as they come.

        Raises:
            UgroError: what the service function raises.
        """
        with self._telling() as tell:
            try:
                backend = self._here if request.here else self.backend
                for item in backend.stream(request, tell):
                    request = request.rest(item)
                    yield item
            except ResidentGone:
                if not request.resumable:
                    raise
                self._note("the resident controller ended; this command continues by itself")
                self.backend = self._here  # for what this command still asks
                yield from self.backend.stream(request, tell)

    @contextmanager
    def _telling(self) -> Iterator[Tell]:
        """Yield what prints notices until the call is over. It is made for the first one: most calls have none."""
        began = time.monotonic()

        def tell(notice: Notice) -> None:
            if self._notices is None:
                from ugro.cli.render.notices import Notices

                self._notices = Notices()
            self._notices.tell(notice, time.monotonic() - began)

        try:
            yield tell
        finally:
            if self._notices:
                self._notices.close()

    def bring(self, code: WorkingCode) -> CodeDocument:
        """Bring files of this machine to where the service functions run."""
        return self.backend.bring(code)

    def tell_inventory(self) -> None:
        """Say, where nodes do not answer, which inventory names them."""
        from ugro.cli.whence import whence

        click.secho(whence(self.inventory_option), dim=True, err=True)


class Whole(click.IntRange):
    """A whole number within bounds, both included; an error says it without the language of programs."""

    name = "number"

    def __init__(self, min: int | None = None, max: int | None = None, instead: str = "") -> None:
        """`instead`: what to write for what is meant by a number below."""
        super().__init__(min, max)
        self._instead = instead

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number: int = super().convert(value, param, ctx)
            return number
        except click.BadParameter:
            bounds = f" from {self.min} to {self.max}" if self.max is not None else f" of at least {self.min}"
            self.fail(f"found {printable(str(value))!r}: a whole number{bounds} is expected{self._instead}", param, ctx)


class Command(click.Command):
    """Attributes every usage error to this command, so that the hint names its own help."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise


def _with_share(words: list[str]) -> list[str]:
    """Return words in which `--share` takes the one after it only if that is a number: it may be the script."""
    found: list[str] = []
    for word in words:
        if found and found[-1] == "--share":
            takes = word == "vram" or _is_number(word.removesuffix("%"))
            found[-1:] = [f"--share={word}"] if takes else ["--share=vram", word]
        else:
            found.append(word)
    return found


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


class ScriptCommand(Command):
    """Keeps what stands after `--` apart: it belongs to the script, whatever it looks like."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.meta["ugro.script_args"] = tuple(args[at + 1 :])
        ctx.meta["ugro.dashes"] = at < len(args)
        return super().parse_args(ctx, _with_share(args[:at]))

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[SCRIPT | JOB.YAML]", "[OPTIONS]", "[-- SCRIPT ARGUMENTS]"]


def command(**settings: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """A click command whose function gets the App first."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        @click.pass_context
        @functools.wraps(function)
        def call(ctx: click.Context, *args: Any, **kwargs: Any) -> Any:
            given = ctx.find_root().params
            with App(ctx.find_root().obj, given.get("local", False), given.get("log_level", "info")) as app:
                return function(app, *args, **kwargs)

        made: click.Command = click.command(**{"cls": Command, **settings})(call)
        return made

    return decorate


attempt_option = click.option(
    "--attempt", type=Whole(min=1), metavar="N", help="Number of the attempt. Default: the last."
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def _read_by(parse: Callable[[str], float]) -> Callable[[click.Context, click.Parameter, str | None], float | None]:
    """A click callback that reads an option so; what cannot be read is a mistake in the option."""

    def read(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
        try:
            return None if value is None else parse(value)
        except ValueError as error:
            raise click.BadParameter(f"{value!r}: {error}", ctx, param) from None

    return read


duration_option = _read_by(parse_duration)
"""A click callback: a duration as people say it, in seconds."""

span_option = _read_by(functools.partial(parse_duration, bare="m"))
"""A click callback: how long a job may take, in seconds; a bare number counts minutes, as in Slurm."""

moment_option = _read_by(parse_past)
"""A click callback: a time in the past as people say it, in seconds since the epoch."""
