"""What commands share: the inventory, the state directory, the pool, and one asyncio run per command."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Awaitable, Callable, Generator, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ugro.cli.output import print_hanging, print_problems
from ugro.cli.render.notices import Notices
from ugro.common import log
from ugro.common.config import Inventory, inventory_path, load_inventory
from ugro.common.errors import StateLocked, UgroError
from ugro.common.job_spec import JobSpec
from ugro.common.models.job import Job, JobState
from ugro.common.text import printable
from ugro.common.units import parse_duration, parse_past
from ugro.control_plane.metadata_store import LOCK_PATIENCE, RESIDENT_LOCK
from ugro.control_plane.metadata_store.records import pass_over
from ugro.service.backend import Answer, Backend
from ugro.service.context import Context
from ugro.service.schemas.base import Request, Stream
from ugro.service.schemas.code import CodeDocument
from ugro.service.session import open_backend, open_local

if TYPE_CHECKING:
    from ugro.control_plane.controller.tick import Controller
    from ugro.control_plane.failure_handler.alerts.courier import Courier
    from ugro.control_plane.scheduler.launcher import OnCode
    from ugro.nodes.pool import Pool
    from ugro.service.code import WorkingCode

T = TypeVar("T")

NO_SCHEDULER = "no scheduler is running: start `ugro serve`, or `ugro cron install`"
UNATTENDED = {
    JobState.QUEUED: f"{NO_SCHEDULER}, or call `ugro sweep` when it may start",
    JobState.RUNNING: f"{NO_SCHEDULER}; until then only a command that looks notices a failure",
}
"""What is said of jobs in a state that nothing attends to, the first of these that there is."""

START_WITHIN, START_POLL = 15.0, 0.3
"""Seconds that a launch waits for another process which brings its job to the nodes, and between two looks."""

REST_WITHIN = 3.0
"""Seconds that a command waits at its end for what its ticks began on nodes for other jobs than its own."""


class App:
    """The one thing a command needs to reach everything else."""

    def __init__(self, inventory: str | None, local: bool = True) -> None:
        self.inventory_option = inventory
        self._local = local
        self._context = Context(inventory)
        self._notices = Notices()
        self.store = self._context.store
        self._own: set[str] | None = set()
        """The jobs that this command takes steps for; None: for all of them."""

    @cached_property
    def backend(self) -> Backend:
        """Who answers: the resident controller where one runs, unless that is not wanted; else this process."""
        if self._local:
            return self._here
        return open_backend(self.inventory_option, lambda words: print_hanging("note: ", words, err=True, dim=True))

    @cached_property
    def _here(self) -> Backend:
        return open_local(self.inventory_option)

    def __enter__(self) -> App:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        opened = {id(one): one for name in ("backend", "_here") if (one := self.__dict__.get(name))}
        with self._notices:
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
        with self._notices:
            return (self._here if request.here else self.backend).call(request, self._notices.tell)

    def stream(self, request: Stream[Answer]) -> Generator[Answer, None, None]:
        """Yield the answers to a request as they come.

        Raises:
            UgroError: what the service function raises.
        """
        with self._notices:
            yield from self.backend.stream(request, self._notices.tell)

    def bring(self, code: WorkingCode) -> CodeDocument:
        """Bring files of this machine to where the service functions run."""
        return self.backend.bring(code)

    def reread(self) -> None:
        """Let go of the inventory, so that the next use sees what it says now."""
        for read in ("inventory", "cluster"):
            self.__dict__.pop(read, None)

    @cached_property
    def courier(self) -> Courier:
        """Who sends alerts beside what a command does."""
        from ugro.control_plane.failure_handler.alerts.courier import Courier

        return Courier(self.store)

    @cached_property
    def inventory(self) -> Inventory:
        """The inventory, read when it is first needed.

        Raises:
            InventoryError: it is not there, or has a mistake.
        """
        return load_inventory(inventory_path(self.inventory_option))

    @cached_property
    def cluster(self) -> Inventory:
        """The inventory, with nodes that left it while a job of theirs runs.

        Raises:
            InventoryError: it is not there, or has a mistake.
        """
        needed = [node for job in self.store.jobs.live(pass_over) if job.state.on_nodes for node in job.nodes]
        missing = any(node not in self.inventory.nodes for node in needed)
        return (
            self.inventory.with_departed(self.store.config.remembered_configs(), needed) if missing else self.inventory
        )

    def asked(self, job: Job) -> JobSpec | None:
        """What was asked for when a job was submitted; None where that is lost, which is no reason not to show it."""
        try:
            return self.store.jobs.spec(job.id)
        except UgroError:
            return None

    def attended(self) -> bool:
        """Whether waiting jobs are looked after by themselves: by a resident controller, or from the crontab."""
        if self.store.is_locked(RESIDENT_LOCK):
            return True
        from ugro.service.crontab import installed  # here, since most commands have no use for it

        return installed(self.store.home)

    def tell_inventory(self) -> None:
        """Say, where nodes do not answer, which inventory names them."""
        from ugro.cli.whence import whence

        click.secho(whence(self.inventory_option), dim=True, err=True)

    def unattended(self, jobs: Iterable[Job]) -> str | None:
        """What to say of jobs that nothing looks after; None where something does, or nothing has to."""
        states = {JobState.RUNNING if job.state.on_nodes else job.state for job in jobs if not job.wish}
        told = next((words for state, words in UNATTENDED.items() if state in states), None)
        return None if told is None or self.attended() else told

    def run(self, act: Callable[[Controller, Pool], Awaitable[T]], on_code: OnCode | None = None) -> T:
        """Run an async command with a controller over a fresh pool, and close every connection after it."""
        # Here, since much of a command's start is the import of what reaches nodes, and not every command does.
        from ugro.control_plane.controller.tick import Controller
        from ugro.nodes.pool import Pool

        cluster = self.cluster

        async def main() -> T:
            async with Pool(cluster) as pool, self.courier:
                controller = Controller(self.store, cluster, pool, on_code)
                try:
                    done = await act(controller, pool)
                    await self._rest(controller)
                    return done
                finally:
                    await controller.close()

        return asyncio.run(main())

    def settled(self, job: Job) -> Job:
        """A job's record once it says what its nodes say, as everybody needs it who acts on what became of the job."""
        if not (job.state.on_nodes or job.id in self.store.decisions.undecided()):
            return job
        self.run(lambda controller, _: self._tick_aloud(controller, job.id))
        return self.store.jobs.job(job.id)

    async def tick(self, controller: Controller, *jobs: str, patience: float = LOCK_PATIENCE) -> None:
        """Tick until what was begun on nodes for these jobs (or for all) is done. Alerts go out beside it.

        Waits `patience` seconds for another process's tick.
        """
        self._own = self._own | {*jobs} if jobs and self._own is not None else None
        try:
            await controller.complete(*jobs, patience=patience)
        finally:
            self.courier.begin()

    async def started(self, controller: Controller, job_id: str) -> Job:
        """A job once a tick started it or left it waiting, whichever process does that; a slow start is not awaited."""
        end = time.monotonic() + START_WITHIN
        while True:
            await self._tick_aloud(controller, job_id)
            job = self.store.jobs.job(job_id)
            if job.state != JobState.STARTING or time.monotonic() > end:
                return job
            await asyncio.sleep(START_POLL)

    async def _tick_aloud(self, controller: Controller, job_id: str) -> None:
        """A tick about a job, which says so while it waits for the end of the job's ranks."""
        self._context.tell, tick = self._notices.tell, asyncio.ensure_future(self.tick(controller, job_id))
        try:
            while not tick.done():
                await asyncio.wait([tick], timeout=START_POLL)
                with contextlib.suppress(UgroError):  # the tick tells what is wrong
                    self._context.tell_stopping(self.store.jobs.job(job_id))
        finally:
            tick.cancel()
            await asyncio.gather(tick, return_exceptions=True)
        await tick

    async def tick_if_free(self, controller: Controller) -> None:
        """One tick, unless another process's is under way, which does the same work. Waits for nothing on nodes."""
        try:
            with contextlib.suppress(StateLocked):
                await controller.tick(patience=0)
        finally:
            self.courier.begin()

    async def _rest(self, controller: Controller) -> None:
        """What this command began on nodes for its own jobs is not left half done, unless the person wants that.

        For others the next scheduling pass goes on with it: their nodes may hang, and nobody here waits for them.
        """
        own = [job for job in controller.under_way if self._own is None or job in self._own]
        if own:
            stopping = {job.id for job in self.store.jobs.live(pass_over) if job.stopping}
            jobs = ", ".join(f"{job} (stopping)" if job in stopping else job for job in own)
            click.echo(f"{jobs}: still working on nodes; Ctrl-C leaves it to the next scheduling pass", err=True)
        await controller.rest(own, REST_WITHIN)
        if left := controller.under_way:
            click.echo(f"{', '.join(left)}: still working on nodes; the next scheduling pass goes on with it", err=True)


RECENT = 10
"""Ended jobs that `status` and the shell's completion show when nothing more is asked for."""


class Whole(click.IntRange):
    """A whole number within bounds, both included; what it is not is told without the language of programs."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number: int = super().convert(value, param, ctx)
            return number
        except click.BadParameter:
            bounds = f" from {self.min} to {self.max}" if self.max is not None else f" of at least {self.min}"
            self.fail(f"found {printable(str(value))!r}: a whole number{bounds} is expected", param, ctx)


class Command(click.Command):
    """Says of every mistake in its words that it was made in them, so that the hint names its own help."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise


class ScriptCommand(Command):
    """Keeps what stands after `--` apart: it belongs to the script, whatever it looks like."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.meta["ugro.script_args"] = tuple(args[at + 1 :])
        return super().parse_args(ctx, args[:at])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[SCRIPT | JOB.YAML]", "[OPTIONS]", "[-- SCRIPT ARGUMENTS]"]


def command(**settings: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """A click command whose function gets the App first."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        @click.pass_context
        @functools.wraps(function)
        def call(ctx: click.Context, *args: Any, **kwargs: Any) -> Any:
            with App(ctx.find_root().obj, ctx.find_root().params.get("local", False)) as app:
                log.start(app.store.home, ctx.find_root().params.get("log_level", "info"))
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
