"""One tick: observe every node, take the next step for every job, start what fits.

Idempotent: an intent is written to the job's record before its act, the act is observed, and the difference is acted
on again. A node that cannot be read never decides anything. A tick waits for no node's link: what takes long on nodes
(code, logs, ranks that are ended) runs beside it, one step a job at a time, and the next ticks observe the result.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
from collections.abc import Callable, Coroutine, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ugro.common.config import Inventory
from ugro.common.errors import InternalError, RecordNewer, StateLocked, UgroError
from ugro.common.models.event_kind import EventKind
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.common.troubles import Troubles, trouble_of
from ugro.control_plane.controller import node_watch
from ugro.control_plane.controller.facts import configs_in_use, read_facts
from ugro.control_plane.controller.job_steps import LEFTOVER_GRACE, JobSteps
from ugro.control_plane.controller.outputs_feed import OutputsFeed
from ugro.control_plane.controller.placing import place_what_fits
from ugro.control_plane.controller.plan import (
    AskMeeting,
    Begun,
    Clear,
    Ending,
    OnNodes,
    RecordChange,
    RunWatchdog,
    Sample,
    clearing,
    plan,
    relocate,
    removals,
)
from ugro.control_plane.failure_handler.watchdog.rendezvous import tell
from ugro.control_plane.metadata_store import LOCK_PATIENCE, MetadataStore
from ugro.control_plane.metadata_store.job_logs import JobLogs
from ugro.control_plane.metadata_store.records import pass_over
from ugro.control_plane.scheduler.launcher import nothing_runs
from ugro.engines.base import Engine, Observation, OnSent
from ugro.nodes.pool import Pool

if TYPE_CHECKING:
    from ugro.control_plane.failure_handler.stacks import Said

STAND_WITHIN = 30.0
"""Seconds that the nodes have to show where the ranks of a job stand that hangs."""

OBSERVE_WITHIN = 2.5
"""Seconds that a tick waits for the slowest node. A later answer counts at the next tick."""

TICK_SECONDS = 2.0
"""Seconds between two ticks of a command that waits for something on nodes."""

BUG_PAUSE = 60.0
"""Seconds until what met a bug is begun once more: each time may record that it began."""

FAILURES = ("failures",)
"""Failures of all jobs are handled under this key, in one task."""


@dataclass
class _Task:
    """Something slow under way."""

    task: asyncio.Task[None]
    ends: bool = False
    """Whether it ends a job, so that no request to end it breaks it off."""
    feeds: bool = False
    """Whether it only brings data, from which no next step follows."""


class Controller:
    """Acts for the cluster of one inventory and one state directory, as long as it is kept; `close` ends it."""

    def __init__(
        self,
        store: MetadataStore,
        engine: Engine,
        pool: Pool,
        on_sent: OnSent | None = None,
    ) -> None:
        """`engine` runs attempts; every other request to nodes uses the connections of `pool`."""
        self._store = store
        self._clock = store.clock
        self._engine = engine
        self._pool = pool
        self._steps = JobSteps(store, engine, pool, on_sent)
        self._outputs = OutputsFeed(store, pool)
        self.launcher = self._steps.launcher
        self._tasks: dict[Hashable, _Task] = {}
        self._troubles = Troubles()
        self._paused: dict[tuple[Hashable, bool], float] = {}
        self._asked_to_meet: dict[str, float] = {}
        self._tried: set[tuple[Hashable, Hashable]] | None = None

    async def observe(
        self, jobs: Sequence[Job], names: Iterable[str] | None = None, within: float | None = None, keep: bool = False
    ) -> Observation:
        """Ask the nodes (all by default) at the same time. Changes nothing.

        `within` bounds the wait in seconds; a node that did not answer by then is an error in the result.
        """
        on_nodes = [job for job in jobs if job.state.on_nodes]
        everywhere = {*self._inventory.nodes, *(node for job in on_nodes for node in job.nodes)}
        return await self._engine.observe(on_nodes, everywhere if names is None else names, within, keep)

    @property
    def _inventory(self) -> Inventory:
        return self._engine.inventory

    # --- ticks -----------------------------------------------------------------------------------------------------

    async def tick(self, patience: float = LOCK_PATIENCE) -> None:
        """Bring the cluster one step nearer to what the records ask for. Every change of a job is an event of it.

        Waits up to `patience` seconds for another process's tick. What takes long on nodes is only begun.

        Raises:
            StateLocked: another process's tick takes longer.
            UgroError: what stopped a step since the last tick; the others were taken.
        """
        async with self._store.turn(patience):
            live = await self._store.write(self._settle)  # without them there is nothing to do
            seen = await self.observe(live, within=OBSERVE_WITHIN, keep=True)
            bounded = self._troubles.boundary
            with bounded("what the nodes said"):
                await self._store.write(lambda: self._remember(seen, live))
            with bounded("what ended jobs left"):
                self._end_leftovers(seen)
            with bounded("what removed jobs left"):
                self._remove_owed(seen)
            with bounded("outputs"):
                self._outputs.begin_due(self._begin, self._inventory)
            for job in live:
                if job.state.on_nodes or job.wish:
                    with bounded(f"{job.id}: its next step", job.id):
                        await self._step(job, seen)
                        if job.state == JobState.RUNNING:
                            bring = functools.partial(self._steps.bring_series, job)
                            self._begin(("series", job.id), None, bring, feeds=True)
            with bounded("the history of GPUs"):
                await asyncio.to_thread(node_watch.keep_looks, self._store, seen, live)
            with bounded("what is done about failures"):
                self._handle_failures(seen)
            with bounded("the queue"):
                await self._schedule(seen)
        await asyncio.sleep(0)  # so that what was just begun is under way when a caller looks
        self._troubles.raise_first(self._store.tell)

    def _settle(self) -> list[Job]:
        """Finish what crashes left undone. Returns the live jobs."""
        self._troubles.found += self._store.jobs.settle()
        with self._troubles.boundary("nodes that left the inventory"):
            node_watch.drain_departed(self._store, self._inventory)
        return self._store.jobs.live(pass_over)  # an unreadable job stops only `_schedule`: its GPUs are not known

    def _remember(self, seen: Observation, live: Sequence[Job]) -> None:
        with self._store.optional():
            node_watch.remember(self._store, self._inventory, seen, live)

    async def complete(self, *job_ids: str, patience: float = LOCK_PATIENCE) -> None:
        """Tick until nothing that this controller began is under way: about these jobs, or at all.

        Each step is tried once for its subject, so an unreachable node does not prolong the wait.

        Raises:
            StateLocked, UgroError: as `tick` does.
        """
        self._tried = set()
        problems: list[UgroError] = []
        try:
            await self._tick_among_others(problems, patience)
            while tasks := self._waited_for(job_ids):
                feeds = {one.task for one in self._tasks.values() if one.feeds}  # what ended is not known any more
                ended, _ = await asyncio.wait(tasks, timeout=TICK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if ended and ended <= feeds:
                    continue
                if job_ids and not self._waited_for(job_ids) and not {*job_ids} & {*self._store.decisions.undecided()}:
                    break
                with contextlib.suppress(StateLocked):  # whose tick does the same
                    await self._tick_among_others(problems, 0)
        finally:
            self._tried = None
            self._troubles.found[:0] = problems
        self._troubles.raise_first(self._store.tell, job_ids)

    async def _tick_among_others(self, problems: list[UgroError], patience: float) -> None:
        """A tick whose problems with one job do not break off what is done for the others."""
        try:
            await self.tick(patience)
        except StateLocked:
            raise
        except UgroError as error:
            problems.append(error)

    def _waited_for(self, job_ids: Sequence[str]) -> list[asyncio.Future[Any]]:
        if not job_ids:
            return [*(one.task for one in self._tasks.values()), *self._engine.pending]
        return [self._tasks[key].task for key in (*job_ids, FAILURES) if key in self._tasks]

    async def join(self, job_id: str, within: float) -> None:
        """Wait for what this controller does for a job on its nodes just now, up to so many seconds."""
        if tasks := self._waited_for([job_id]):
            await asyncio.wait(tasks, timeout=within)

    async def rest(self, job_ids: Iterable[str] | None = None, within: float = math.inf) -> None:
        """Wait for what is under way on nodes, and begin nothing more: for these jobs without an end, for others and
        what is done about nodes up to `within` seconds.
        """
        own, end = None if job_ids is None else {*job_ids}, self._clock.monotonic() + within
        while tasks := {key: one.task for key, one in self._tasks.items()}:
            left = end - self._clock.monotonic()
            if left <= 0:
                tasks = {key: task for key, task in tasks.items() if own is None or key in own}
            if not tasks:
                return
            timeout = left if 0 < left < math.inf else None
            await asyncio.wait(tasks.values(), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)

    async def leave(self, job_id: str) -> None:
        """Break off what is under way for a job on its nodes; the next tick, of whichever process, continues it."""
        if under_way := self._tasks.get(job_id):
            under_way.task.cancel()
            await asyncio.wait([under_way.task])

    @property
    def under_way(self) -> list[str]:
        """The jobs of which something is done on nodes just now."""
        return [key for key in self._tasks if isinstance(key, str)]

    async def adopt(self, inventory: Inventory) -> None:
        """Use an edited inventory from now on. What runs keeps what it was started with."""
        await self._engine.adopt(inventory, await asyncio.to_thread(configs_in_use, self._store))

    async def close(self) -> None:
        """Break off what is under way; the next tick of any process continues it."""
        tasks = [one.task for one in self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._engine.close()

    def _begin(
        self,
        key: Hashable,
        stamp: Hashable,
        act: Callable[[], Coroutine[Any, Any, None]],
        ends: bool = False,
        feeds: bool = False,
    ) -> None:
        """Do something slow beside the ticks, unless it is under way. `stamp` is what it is about (`complete`)."""
        if key in self._tasks or (self._tried is not None and (key, stamp) in self._tried):
            return
        if self._paused.get((key, ends), 0.0) > self._clock.monotonic():
            return
        self._paused.pop((key, ends), None)
        if self._tried is not None:
            self._tried.add((key, stamp))
        task = asyncio.create_task(self._bounded(key, ends, act))
        self._tasks[key] = _Task(task, ends, feeds)
        task.add_done_callback(lambda _: self._tasks.pop(key, None))

    async def _bounded(self, key: Hashable, ends: bool, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Raised by the next tick: one job whose files fail must not keep the others waiting."""
        about = " of ".join(map(str, key[:2])) if isinstance(key, tuple) else key
        try:
            await act()
        except Exception as error:
            trouble = trouble_of(f"{about}: what is done on nodes", error, key if isinstance(key, str) else "")
            self._troubles.found.append(trouble)
            if isinstance(trouble, InternalError) and isinstance(key, str):  # others than jobs are about many
                self._paused[key, ends] = self._clock.monotonic() + BUG_PAUSE

    # --- nodes -----------------------------------------------------------------------------------------------------

    def _end_leftovers(self, seen: Observation) -> None:
        """End what jobs that ended without unreachable nodes left there, once the nodes answer."""
        leftovers = self._store.cleanup.leftovers()
        jobs = {job.id: job for job in self._store.jobs.all({job_id for job_id, _ in leftovers}, pass_over)}
        for (job_id, attempt), nodes in leftovers.items():
            if job_id in jobs:
                with self._troubles.boundary(f"{job_id}: what it left", job_id):
                    if clear := clearing(jobs[job_id].as_of(attempt), nodes, self._inventory, seen):
                        act = functools.partial(self._clear, clear)
                        self._begin(("leftovers", job_id, attempt), clear.back, act)

    async def _clear(self, clear: Clear) -> None:
        job, nodes, back = clear.job, clear.nodes, clear.back
        ending = await self._engine.stop(job, LEFTOVER_GRACE, back)
        if ending.problems:
            return

        def record() -> None:
            self._store.cleanup.remember_leftovers(job, [node for node in nodes if node not in back])
            for node in back:
                self._store.timeline.note(node, EventKind.CLEARED, nothing_runs(job.id, [node], ending.proved), job.id)

        await self._store.write(record)

    def _remove_owed(self, seen: Observation) -> None:
        """Remove what jobs that were removed left on nodes that were unreachable then."""
        for one in removals(self._store.cleanup.removals(), self._inventory, seen):
            from ugro.control_plane.metadata_store.removal import remove_owed  # here, since a node hardly owes anything

            key = ("owed", one.owed[0].config.name, one.place)
            self._begin(key, len(one.owed), functools.partial(remove_owed, self._store, self._pool, one.owed))

    # --- jobs ------------------------------------------------------------------------------------------------------

    def logs_of(self, job: Job, nodes: Sequence[str] | None = None) -> JobLogs:
        """The copies of a job's logs, and how they are brought up to date: from these nodes (all by default)."""
        return self._steps.logs_of(job, nodes)

    async def live(self, job: Job, seen: Observation, within: float | None = None) -> Job:
        """Return the job as its nodes show it now. No record is written, and an unreachable node changes nothing."""
        return await self._steps.live(job, seen, within)

    async def _step(self, job: Job, seen: Observation) -> None:
        """The next step for one job: recorded at once, or begun on its nodes by one process alone."""
        under_way = self._tasks.get(job.id)
        if under_way and not (job.wish and not under_way.ends):
            return
        await self.leave(job.id)
        with self._store.alone_with(job.id) as alone:
            actions = await self._store.write(lambda: self._plan(job, seen)) if alone else []
        for action in actions:
            self._begin_action(action, seen)

    def _plan(self, job: Job, seen: Observation) -> list[Begun]:
        """Record what is planned for a job. Return what takes long; nothing where `seen` is about an older record."""
        if not self._store.jobs.is_unchanged(job):
            return []
        if job.id in seen.moved:
            job = self._store.jobs.save(*relocate(job, seen.moved[job.id]))
        asked = self._asked_to_meet.get(job.id)
        since_asked = None if asked is None else self._clock.monotonic() - asked
        facts = read_facts(self._store, job, seen, since_asked, self._troubles.found.append)
        left, recorded = list[Begun](), None
        for action in plan(job, seen, facts, self._clock.now()):
            match action:
                case RecordChange(change):
                    recorded = self._steps.record(change)
                case Sample(job_id, samples):
                    with self._store.optional():
                        self._store.metrics.add_samples(job_id, samples)
                case _:
                    left.append(replace(action, job=recorded) if recorded else action)
        return left

    def _begin_action(self, action: Begun, seen: Observation) -> None:
        job = action.job
        match action:
            case RunWatchdog():
                self._begin(("watch", job.id), job.last_event, functools.partial(self._watch, job.id, seen))
            case AskMeeting():
                self._asked_to_meet[job.id] = self._clock.monotonic()
                self._begin(("meeting", job.id), job.last_event, functools.partial(tell, self._store, self._pool, job))
            case _:
                act = functools.partial(self._alone, action, seen)
                self._begin(job.id, job.last_event, act, isinstance(action, Ending))

    async def _alone(self, action: OnNodes, seen: Observation) -> None:
        with self._store.alone_with(action.job.id) as alone:
            if alone and self._store.jobs.job(action.job.id).last_event == action.job.last_event:
                await self._steps.act(action, seen)

    async def _watch(self, job_id: str, seen: Observation) -> None:
        from ugro.control_plane.failure_handler.watchdog.watch import watch

        with self._store.optional():
            await watch(self._store, job_id, seen, lambda job: self.logs_of(job).bring_ends(), self._stand)

    async def _stand(self, job: Job) -> Said:
        from ugro.control_plane.failure_handler import stacks  # here, since few jobs hang

        return await stacks.ask(self._inventory, self._pool, job, within=STAND_WITHIN)

    def _handle_failures(self, seen: Observation) -> None:
        undecided, proposals = self._store.decisions.undecided(), self._store.decisions.proposals()
        if not (undecided or proposals):
            return
        # Here, since its import takes longer than an observation of the nodes, and most ticks find nothing wrong.
        from ugro.control_plane.failure_handler.handler import FailureHandler

        handler = FailureHandler(self._store, self._inventory, self._pool)
        about = {*undecided, *proposals}
        records = tuple((job.id, job.last_event) for job in self._store.jobs.all(about, pass_over))
        approved = tuple(name for name, proposal in proposals.items() if proposal.approved)
        self._begin(FAILURES, (records, tuple(undecided), approved), lambda: handler.handle(seen.views))

    async def _schedule(self, seen: Observation) -> None:
        """Start what the scheduler says can start now. Why the others wait is computed when the user asks."""
        try:
            placed = await self._store.write(
                lambda: place_what_fits(self._store, self._inventory, seen, self._troubles)
            )
        except RecordNewer as error:  # its GPUs are not known: nothing starts, and other jobs are followed
            self._store.tell(error)
            return
        for job in placed:
            with self._troubles.boundary(f"{job.id}: its start", job.id):
                await self._step(job, seen)
