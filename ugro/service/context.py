"""What service functions act on: the state directory, the inventory, and a controller over kept connections."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ugro.common.config import Inventory
from ugro.common.errors import InputError, StateLocked, UgroError
from ugro.common.inventory_file import load_inventory
from ugro.common.job_spec import JobSpec
from ugro.common.locations import inventory_path, ugro_home
from ugro.common.models.event_kind import EventKind
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.common.models.login import AskPerson
from ugro.common.text import printable
from ugro.control_plane.metadata_store import LOCK_PATIENCE, RESIDENT_LOCK, MetadataStore
from ugro.control_plane.metadata_store.records import pass_over
from ugro.service.documents import job_document, known_progress, outputs_document
from ugro.service.schemas.base import Notice
from ugro.service.schemas.notices import CodeSent, JobStopping, LeftToNextPass, StillWorking

if TYPE_CHECKING:
    from ugro.control_plane.controller.tick import Controller
    from ugro.control_plane.failure_handler.alerts.courier import Courier
    from ugro.nodes.pool import Pool
    from ugro.service.board import Board
    from ugro.service.code import WorkingCode
    from ugro.service.schemas.jobs import JobDocument
    from ugro.service.web_door import NotServed, WebDoor

Tell = Callable[[Notice], None]

SHORT_SETUP = 2.0
"""Seconds of a setup that are awaited, as any start is."""

START_WITHIN, START_POLL = 15.0, 0.3
"""Seconds to wait for another process that brings a job to its nodes, and between two reads of its record."""

REST_WITHIN = 3.0
"""Seconds to wait at the end for what ticks began on nodes for jobs that were not asked about."""


class Reach(NamedTuple):
    """The way to the nodes."""

    controller: Controller
    pool: Pool


class Context:
    """What the functions of one process act on. Used by one call after the other; `close` ends what it opened."""

    def __init__(self, inventory: str | None = None, home: Path | None = None) -> None:
        self._inventory_option = inventory
        self.store = MetadataStore(home or ugro_home())
        self.tell: Tell = lambda _: None
        """Takes what the running function reports."""
        self.ask: AskPerson = lambda _: None
        """Answers what a machine asks for at a first login; no request carries a password."""
        self.code: dict[str, WorkingCode] = {}
        """By directory, the code that the client brought last."""
        self.board: Board | None = None
        """The live views that all who watch share, in the resident controller."""
        self.web: WebDoor | NotServed | None = None
        """Where the resident controller serves the dashboard, or why it does not; None: this is not its process."""
        self._reach: Reach | None = None
        self._own: set[str] | None = set()
        """The jobs that this process takes steps for; None: for all of them."""
        self._open = contextlib.AsyncExitStack()

    # --- what is known here ------------------------------------------------------------------------------------------

    @cached_property
    def inventory(self) -> Inventory:
        """The inventory, read when it is first needed.

        Raises:
            InventoryError: it does not exist, or has a mistake.
        """
        return load_inventory(inventory_path(self._inventory_option))

    def inventory_if_any(self) -> Inventory | None:
        """Return the inventory; None where none was named, and none is in the usual places.

        Raises:
            InventoryError: it has a mistake, or was named and does not exist.
        """
        return self.inventory if self._inventory_option or inventory_path(None).exists() else None

    @cached_property
    def cluster(self) -> Inventory:
        """The inventory, with nodes that left it while a job of theirs runs.

        Raises:
            InventoryError: it does not exist, or has a mistake.
        """
        needed = [node for job in self.store.jobs.live(pass_over) if job.state.on_nodes for node in job.nodes]
        missing = any(node not in self.inventory.nodes for node in needed)
        return (
            self.inventory.with_departed(self.store.config.remembered_configs(), needed) if missing else self.inventory
        )

    @cached_property
    def courier(self) -> Courier:
        """Sends alerts beside what a function does."""
        from ugro.control_plane.failure_handler.alerts.courier import Courier

        return Courier(self.store)

    def asked(self, job: Job) -> JobSpec | None:
        """Return the frozen spec of a job; None where that is lost, which is no reason not to show the job."""
        try:
            return self.store.jobs.spec(job.id)
        except UgroError:
            return None

    def document(self, job: Job) -> JobDocument:
        """Return the document of a job."""
        asked = self.asked(job)
        return job_document(job, asked, known_progress(self.store, job), outputs_document(self.store, job, asked))

    def brought(self, directory: str) -> WorkingCode:
        """Return the code that the client brought last from a directory.

        Raises:
            InputError: it brought none.
        """
        if found := self.code.get(directory):
            return found
        raise InputError(f"the files of {printable(directory)} were not brought", "bring them before the request")

    def attended(self) -> bool:
        """Whether a scheduler runs for this state directory: a resident controller, or sweeps from the crontab."""
        if self.store.is_locked(RESIDENT_LOCK):
            return True
        from ugro.service.crontab_lines import installed  # here, since most functions have no use for it

        return installed(self.store.home)

    # --- the way to the nodes ----------------------------------------------------------------------------------------

    async def reach(self) -> Reach:
        """Open the way to the nodes, or return the one that is open. Connections are made when they are used.

        Raises:
            InventoryError: the inventory does not exist, or has a mistake.
        """
        if self._reach is None:
            # Here, since its import takes long, and not every function reaches nodes.
            from ugro.nodes.pool import Pool

            pool = await self._open.enter_async_context(Pool(self.cluster))
            await self._open.enter_async_context(self.courier)
            self._reach = self._over(pool)
        return self._reach

    def _over(self, pool: Pool) -> Reach:
        """A controller of this context over connections that are open."""
        from ugro.control_plane.controller.tick import Controller
        from ugro.engines.ssh.engine import SshEngine

        engine = SshEngine(self.cluster, pool, self.store.clock, self.store.config.master)
        return Reach(Controller(self.store, engine, pool, self.tell_sent), pool)

    @property
    def is_open(self) -> bool:
        """Whether the way to the nodes is open, so that it has to be closed."""
        return self._reach is not None

    async def close(self, rest: bool = True) -> None:
        """Close every connection. With `rest`, what was begun on nodes for own jobs is finished first."""
        try:
            if self._reach is not None:
                try:
                    if rest:
                        await self._rest(self._reach.controller)
                finally:
                    await self._reach.controller.close()
        finally:
            self._reach = None
            await self._open.aclose()

    async def rest(self) -> None:
        """Finish what was begun on nodes for own jobs, without closing connections."""
        if self._reach is not None:
            await self._rest(self._reach.controller)

    async def _rest(self, controller: Controller) -> None:
        """Finish what was begun for own jobs. For others the next scheduling pass continues: their nodes may hang."""
        own = [job for job in controller.under_way if self._own is None or job in self._own]
        if own:
            stopping = [job.id for job in self.store.jobs.live(pass_over) if job.stopping and job.id in own]
            self.tell(StillWorking(jobs=tuple(own), stopping=tuple(stopping)))
        with contextlib.suppress(UgroError):
            if setups := [job.id for job in self.store.jobs.live(pass_over) if job.id in own and is_set_up(job)]:
                await controller.complete(*setups)  # a setup takes long: a cancel meanwhile has to be heard
        await controller.rest(own, REST_WITHIN)
        if left := controller.under_way:
            self.tell(LeftToNextPass(jobs=tuple(left)))

    # --- ticks -------------------------------------------------------------------------------------------------------

    async def tick(self, *jobs: str, patience: float = LOCK_PATIENCE) -> None:
        """Tick until what was begun on nodes for these jobs (or for all) is done. Alerts go out beside it.

        Raises:
            StateLocked: another process's tick takes longer than `patience` seconds.
            UgroError: what stopped a step; the others were taken.
        """
        self._own = self._own | {*jobs} if jobs and self._own is not None else None
        controller = (await self.reach()).controller
        try:
            await controller.complete(*jobs, patience=patience)
        finally:
            self.courier.begin()

    async def tick_if_free(self) -> None:
        """Tick once, unless another process does: that does the same work. Wait for nothing on nodes."""
        controller = (await self.reach()).controller
        try:
            with contextlib.suppress(StateLocked):
                await controller.tick(patience=0)
        finally:
            self.courier.begin()

    async def started(self, job_id: str) -> Job:
        """Return a job once a tick started it or left it waiting, in whichever process.

        A slow start is not awaited, nor is a setup, which has an output of its own to follow.
        """
        end = time.monotonic() + START_WITHIN
        while True:
            await self._tick_aloud(job_id, until_setup=True)
            job = self.store.jobs.job(job_id)
            if job.state != JobState.STARTING or is_set_up(job) or time.monotonic() > end:
                return job
            await asyncio.sleep(START_POLL)

    async def settled(self, job: Job) -> Job:
        """Return a job's record once it says what its nodes say, for functions that act on what became of the job."""
        if not (job.state.on_nodes or job.id in self.store.decisions.undecided()):
            return job
        await self._tick_aloud(job.id)
        return self.store.jobs.job(job.id)

    async def _tick_aloud(self, job_id: str, until_setup: bool = False) -> None:
        """Tick about a job, and report while it waits for the end of the ranks. The job's setup runs meanwhile."""
        tick = asyncio.ensure_future(self.tick(job_id))
        try:
            while not tick.done():
                await asyncio.wait([tick], timeout=START_POLL)
                with contextlib.suppress(UgroError):  # the tick tells what is wrong
                    self.tell_stopping(job := self.store.jobs.job(job_id))
                    setup = until_setup and is_set_up(job) and job.last_event
                    if setup and self.store.clock.now() - setup.at > SHORT_SETUP:
                        break
        finally:
            ended = tick.done()
            tick.cancel()
            await asyncio.gather(tick, return_exceptions=True)
        if ended:
            await tick
        elif self.store.is_locked(RESIDENT_LOCK):  # whose ticks follow it, and hear of a cancel
            await (await self.reach()).controller.leave(job_id)

    def tell_sent(self, node: str, done: int, total: int) -> None:
        """Report the bytes of code or of a checkpoint that went to a node, or came from it, so far."""
        self.tell(CodeSent(node=node, done=done, total=total))

    def tell_stopping(self, job: Job) -> None:
        """Report a job whose ranks are being ended; the receiver shows what is new."""
        if job.stopping:
            from ugro.control_plane.controller.job_steps import CANCEL_GRACE

            since = job.last_event.at if job.last_event else job.submitted_at
            self.tell(JobStopping(job=job.id, asked=job.wish is not None, grace=CANCEL_GRACE, since=since))


def is_set_up(job: Job) -> bool:
    """Return whether the environment of a job is being set up on its nodes just now."""
    last = job.last_event
    return job.state == JobState.STARTING and last is not None and last.kind == EventKind.SETUP and bool(job.reason)
