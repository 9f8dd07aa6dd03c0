"""One tick: observe every node, reconcile jobs with what the nodes say, launch what fits.

Idempotent: an intent is written to the job's record before its act, the act is observed, and the difference is acted
on again. The caller holds the store's lock. A node that cannot be read never decides anything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ugro.common.config import Inventory
from ugro.common.errors import NodeError, RecordNewer, UgroError
from ugro.common.models import Drain, FirstFailure, GpuSample, Job, JobState, NodeView, Placement, Silence, Wish
from ugro.common.paths import run_paths
from ugro.common.text import count, duration
from ugro.control_plane import reconcile
from ugro.control_plane.evidence import node_log, rank_log
from ugro.control_plane.job_logs import JobLogs
from ugro.control_plane.launcher import Launcher, NotStarted, OnCode
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.gpu_history import GpuHistory
from ugro.control_plane.metadata_store.records import pass_over, stop_where_held
from ugro.control_plane.observation import Observation
from ugro.control_plane.queue import read_queue
from ugro.control_plane.reconcile import Assessment, Phase
from ugro.control_plane.resource_manager import monitor
from ugro.control_plane.resource_manager.governor import leases
from ugro.control_plane.resource_manager.monitor import SILENCE_GRACE
from ugro.control_plane.resource_manager.shares import with_batch_shares
from ugro.control_plane.scheduler import schedule
from ugro.nodes import observer
from ugro.nodes.pool import Pool
from ugro.nodes.run_files import RunFiles
from ugro.nodes.transport import Transport

if TYPE_CHECKING:
    from ugro.control_plane.stacks import Said

CANCEL_GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL when a job is cancelled or one of its ranks failed."""

LEFTOVER_GRACE = 3.0
"""The same for what a job that succeeded left behind."""

STAND_WITHIN = 30.0
"""Seconds that the nodes have to show where the ranks of a job stand that hangs."""

LEFT_INVENTORY = "it is not in the inventory any more"

SAMPLE_SECONDS = 10.0
"""How often what a job's GPUs show is kept."""

GPU_FREE_WITHIN = 10.0
"""Seconds that the driver may take to give back the memory of ranks that ended."""


class Controller:
    """Acts for the cluster of one inventory and one state directory."""

    def __init__(
        self,
        store: MetadataStore,
        inventory: Inventory,
        pool: Pool,
        on_code: OnCode | None = None,
    ) -> None:
        self._store = store
        self._inventory = inventory
        self._pool = pool
        self.launcher = Launcher(store, inventory, pool, on_code)

    async def observe(
        self, jobs: Sequence[Job], names: Sequence[str] | None = None, within: float | None = None
    ) -> Observation:
        """Ask the nodes (all by default) at the same time. Changes nothing.

        `within` bounds the wait in seconds; a node that did not answer by then is an error in the result.
        """
        names = [name for name in self._inventory.nodes if names is None or name in names]
        on_nodes = [job for job in jobs if job.state.on_nodes]

        async def one(transport: Transport) -> tuple[NodeView, dict[str, RunFiles]]:
            mine = [(job, run_paths(self._inventory, job, transport.name)) for job in on_nodes]
            here = [(job.id, paths) for job, paths in mine if paths]
            view, files = await observer.observe(transport, [paths for _, paths in here])
            return view, {job_id: run for (job_id, _), run in zip(here, files, strict=True)}

        said = await self._pool.each(names, one, within)
        runs: dict[str, dict[str, RunFiles | NodeError]] = {job.id: {} for job in on_nodes}
        for job in on_nodes:
            for node in job.nodes:
                answer = said.get(node) or NodeError(node, "is not in the inventory any more")
                runs[job.id][node] = answer if isinstance(answer, NodeError) else answer[1][job.id]
        views = {name: answer if isinstance(answer, NodeError) else answer[0] for name, answer in said.items()}
        return Observation(views, runs, time.time())

    async def tick(self) -> None:
        """Bring the cluster one step nearer to what the records ask for. Every change of a job is an event of it."""
        self._store.settle()
        self._drain_departed()
        live = self._store.live(pass_over)  # an unreadable job stops only `_schedule`: its GPUs are not known
        seen = await self.observe(live)
        with self._store.optional():
            self._remember(seen, live)
        await self._end_leftovers(seen)
        steps = (self._advance(job, seen) for job in live if job.state.on_nodes or job.wish)
        done = await asyncio.gather(*steps, self._keep_looks(seen, live), return_exceptions=True)
        if self._store.undecided() or self._store.proposals():
            # Here, since its import takes longer than a look at the nodes, and most ticks find nothing wrong.
            from ugro.control_plane.failure_handler.handler import FailureHandler

            await FailureHandler(self._store, self._inventory, self._pool).handle(seen.views)
        await self._schedule(seen)
        for problem in filter(None, done):  # told only now: one job whose files fail must not keep the others waiting
            raise problem

    def _drain_departed(self) -> None:
        """A node that left the inventory keeps what it runs and gets nothing new, until it is back."""
        drains = self._store.drains()
        for node in self._inventory.departed:
            if node not in drains:
                self._store.drain(Drain(node=node, reason=LEFT_INVENTORY, since=time.time()))
        for node, drain in drains.items():
            if drain.reason == LEFT_INVENTORY and node in self._inventory.present().nodes:
                self._store.undrain(node)

    def _remember(self, seen: Observation, live: Sequence[Job]) -> None:
        """Keep what the nodes said, and tell what is new about them."""
        now = time.time()
        before, silent = self._store.remembered_nodes(), self._store.silences()
        quiet = monitor.silences(silent, seen.views, now)
        given_time = {name for name, silence in quiet.items() if _becomes_long(silent.get(name), silence)}
        for job in live:
            if job.state == JobState.UNKNOWN and given_time.intersection(job.nodes):
                self._store.remember_undecided(job.id)
        answering = [view for view in seen.views.values() if isinstance(view, NodeView)]
        self._store.remember_nodes(answering, self._inventory.nodes.values(), quiet)
        for view in answering:
            if view.node in silent:
                self._store.note(view.node, "answers", f"after {duration(now - silent[view.node].since)} of silence")
            for kind, message in monitor.news(before.get(view.node), view, self._store.known_master()):
                self._store.note(view.node, kind, message)
        for name, silence in quiet.items():
            why = seen.views[name]
            if name not in silent and isinstance(why, NodeError):
                self._store.note(name, "silent", why.message)
            elif name in given_time:
                self._store.note(name, "proposal", proposal(name, silence, now))

    async def _keep_looks(self, seen: Observation, jobs: Sequence[Job]) -> None:
        """Add what the GPUs showed to their history, where it is time. `jobs` are those of the look."""
        history, held = GpuHistory(self._store.home), leases(jobs)
        for name, view in seen.views.items():
            if isinstance(view, NodeView) and history.due(name, seen.at):
                with self._store.optional():
                    history.add(name, monitor.looks(view, held))

    async def _end_leftovers(self, seen: Observation) -> None:
        """Stop what a job that was ended without the word of a silent node left there, once the node answers."""
        leftovers = self._store.leftovers()
        jobs = {job.id: job for job in self._store.jobs({job_id for job_id, _ in leftovers}, pass_over)}
        for (job_id, attempt), nodes in leftovers.items():
            if job_id not in jobs:
                continue
            job = jobs[job_id].as_of(attempt)
            back = [node for node in nodes if isinstance(seen.views.get(node), NodeView)]
            problems = await self.launcher.stop(job, LEFTOVER_GRACE, back) if back else []
            if back and not problems:
                self._store.remember_leftovers(job, [node for node in nodes if node not in back])
                for node in back:
                    self._store.note(node, "cleared", f"nothing of {job_id} is left on {node}", job_id)

    def logs_of(self, job: Job) -> JobLogs:
        """The copies of a job's logs, and how they are brought up to date."""
        paths = {node: where for node in job.nodes if (where := run_paths(self._inventory, job, node))}
        return JobLogs(self._pool, paths, self._store.files(job.id).logs(job.attempt))

    async def sync_logs(self, job: Job, within: float | None = None) -> dict[str, NodeError]:
        """Bring the copies of a job's logs up to date; returns the nodes that could not be read, and why."""
        return await self.logs_of(job).bring_all(within)

    async def sync_ends(self, job: Job, within: float | None = None) -> dict[str, NodeError]:
        """Bring what `evidence` reads of a job's logs, however far their copies lag behind; else the same."""
        return await self.logs_of(job).bring_ends(within)

    async def live(self, job: Job, seen: Observation, within: float | None = None) -> Job:
        """The job as its nodes show it now, for reading only: no record is written, a silent node changes nothing."""
        if job.state not in (JobState.RUNNING, JobState.UNKNOWN) or job.id not in seen.runs:
            return job
        found = reconcile.assess(job, seen.runs[job.id])
        job = job.model_copy(update={"ranks": found.ranks})
        if found.phase == Phase.UNKNOWN:
            return job
        changed: dict[str, object] = {"state": JobState(found.phase.value), "unknown_since": None}
        if found.phase != Phase.RUNNING:
            changed["ended_at"] = reconcile.end_of_ranks(found.ranks, seen.clock_offsets) or time.time()
        if found.phase == Phase.FAILED:
            with self._store.optional():  # on a full disk the copies that are there have to do
                await self.sync_ends(job, within)
            failure = self._first_failure(job, found, seen)
            changed |= {"first_failure": failure, "reason": _failure_in_words(failure)}
        return job.model_copy(update=changed)

    async def _advance(self, job: Job, seen: Observation) -> None:
        """One step for one job."""
        if not job.state.on_nodes:
            self._end(job, JobState.CANCELLED, "cancelled before it started")
            return
        if job.wish:
            phase = reconcile.assess(job, seen.runs[job.id]).phase
            over = job.state != JobState.STARTING and phase == Phase.SUCCEEDED  # before anybody carried the wish out
            await self._finish(job, JobState.SUCCEEDED if over else JobState.CANCELLED, CANCEL_GRACE)
        elif job.first_failure:
            await self._finish(job, JobState.FAILED, CANCEL_GRACE)
        elif job.state == JobState.STARTING:
            await self._launch(job, seen)
        else:
            with self._store.optional():
                self._store.add_samples(job.id, self._due_samples(job, seen))
            found = reconcile.assess(job, seen.runs[job.id])
            await self._follow(job, found, seen)
            if found.phase == Phase.RUNNING:
                from ugro.control_plane.failure_handler.watch import watch  # here, too

                with self._store.optional():
                    await watch(self._store, job.id, seen, self.sync_ends, self._stand)

    async def _stand(self, job: Job) -> Said:
        from ugro.control_plane import stacks  # here, since few jobs hang

        return await stacks.ask(self._inventory, self._pool, job, within=STAND_WITHIN)

    def _due_samples(self, job: Job, seen: Observation) -> list[GpuSample]:
        """What a job's GPUs show, not more often than every `SAMPLE_SECONDS`."""
        last, now = self._store.last_sample(job.id), time.time()
        recent = last is not None and 0 <= now - last.at < SAMPLE_SECONDS
        return [] if recent else monitor.samples(job, seen.views, now)

    async def _follow(self, job: Job, found: Assessment, seen: Observation) -> None:
        """Take over what the nodes say of a running job."""
        known, job = job.ranks, job.model_copy(update={"ranks": found.ranks})
        match found.phase:
            case Phase.UNKNOWN if job.state != JobState.UNKNOWN:
                changed = {"state": JobState.UNKNOWN, "unknown_since": time.time(), "reason": found.reason}
                self._store.save(job.model_copy(update=changed), "unknown", found.reason)
            case Phase.RUNNING if job.state == JobState.UNKNOWN:
                self._store.save(_running(job), "running", "its nodes answer again")
            case Phase.RUNNING if found.ranks != known:
                self._store.save(_running(job), "ranks", reconcile.news_of_ranks(known, found.ranks))
            case Phase.SUCCEEDED:
                await self._finish(job, JobState.SUCCEEDED, LEFTOVER_GRACE)
            case Phase.FAILED:
                await self.sync_ends(job)
                failure = self._first_failure(job, found, seen)
                reason = _failure_in_words(failure)
                job = job.model_copy(update={"first_failure": failure, "reason": reason})
                self._store.save(job, "failing", reason)
                await self._finish(job, JobState.FAILED, CANCEL_GRACE)

    def _first_failure(self, job: Job, found: Assessment, seen: Observation) -> FirstFailure:
        folder = self._store.files(job.id).logs(job.attempt)
        node_ranks = {node: rank for rank, node in enumerate(job.nodes)}
        return reconcile.first_failure(
            found.ranks,
            seen.runs[job.id],
            seen.clock_offsets,
            lambda rank: rank_log(folder, rank),
            lambda node: node_log(folder, node_ranks[node]),
        )

    async def _finish(self, job: Job, state: JobState, grace: float) -> None:
        """End whatever is left of a job on its nodes; only when all of them confirm it is the job over."""
        given_up = [node for node in job.nodes if job.wish == Wish.ABANDON and node in self._store.silences()]
        problems = await self.launcher.stop(job, grace, [node for node in job.nodes if node not in given_up])
        if problems:
            text = "; ".join(problems)
            if job.state != JobState.UNKNOWN or text != job.reason:
                changed = {"state": JobState.UNKNOWN, "reason": text, "unknown_since": job.unknown_since or time.time()}
                self._store.save(job.model_copy(update=changed), "unknown", text)
            return
        notes = []
        if given_up:
            self._store.remember_leftovers(job, given_up)
            notes.append(f"without the word of {', '.join(given_up)}, which is asked again when it answers")
        await self.sync_logs(job)
        seen, holders = await self._see_gpus_free(job)
        found = reconcile.assess(job, seen.runs[job.id])
        if job.first_failure and job.first_failure.cause == "unknown":  # a node may have kept its logs from us till now
            job = job.model_copy(update={"first_failure": self._first_failure(job, found, seen)})
        failure = [_failure_in_words(job.first_failure)] if state == JobState.FAILED and job.first_failure else []
        ranks = reconcile.without_word_of(given_up, found.ranks)
        changed = {
            "ranks": ranks,
            "ended_at": reconcile.end_of_ranks(ranks, seen.clock_offsets),
            "peak_mib": monitor.peak(self._store.samples(job.id)),
            "abandoned": tuple(given_up),
        }
        job = job.model_copy(update=changed)
        notes += holders
        over = ["nothing of it is left on its nodes"] if failure else []
        self._end(job, state, "; ".join([*failure, *notes]), "; ".join([*over, *notes]))

    async def _see_gpus_free(self, job: Job) -> tuple[Observation, list[str]]:
        """Look until the driver shows none of the job's ranks on its GPUs: memory comes back a moment after the end.

        Returns the last look, and what still holds a GPU after `GPU_FREE_WITHIN` seconds.
        """
        end = time.monotonic() + GPU_FREE_WITHIN
        while True:
            seen = await self.observe([job], job.nodes)
            holders = reconcile.gpu_holders(job, seen.views)
            if not holders or time.monotonic() > end:
                return seen, holders
            await asyncio.sleep(0.5)

    def _end(self, job: Job, state: JobState, reason: str, news: str | None = None) -> None:
        """`news` is what the timeline says where it has told the reason already."""
        ended_at = max(job.ended_at or time.time(), job.started_at or 0.0)  # a clock may have jumped between
        over = {"unknown_since": None, "wish": None, "alert": None}
        changed = {"state": state, "reason": reason, "ended_at": ended_at, **over}
        if state == JobState.FAILED:
            self._store.remember_undecided(job.id)
        self._store.save(job.model_copy(update=changed), state.value, reason if news is None else news)

    async def _schedule(self, seen: Observation) -> None:
        """Start what the scheduler says can start now. Why the others wait is computed when somebody asks."""
        try:
            jobs = self._store.live(stop_where_held)
        except RecordNewer as error:  # what it holds, that UGRO knows; who follows another job goes on
            self._store.tell(error)
            return
        broken = [(job, why) for job in jobs if job.state == JobState.QUEUED and (why := self._broken_spec(job))]
        for job, why in broken:  # one broken job must not keep the others waiting
            self._end(job, JobState.FAILED, why)
        jobs = self._store.live(stop_where_held) if broken else jobs
        waiting = {job.id: job for job in jobs if job.state == JobState.QUEUED}
        if not waiting:
            return
        queue = read_queue(self._store, self._inventory, jobs, seen.views, time.time())
        for start in schedule(queue).starts:
            placement, words = with_batch_shares(start.placement, self._store.speeds())
            why = "; ".join(filter(None, [start.why, placement.why, words]))
            await self._launch(self._place(waiting[start.id], placement, why), seen)

    def _broken_spec(self, job: Job) -> str | None:
        try:
            self._store.spec(job.id)
        except RecordNewer:  # the UGRO that wrote it will start the job
            return None
        except UgroError as error:
            return error.message
        return None

    def _place(self, job: Job, placement: Placement, why: str) -> Job:
        placed = job.model_copy(update={"state": JobState.STARTING, "placement": placement, "reason": ""})
        placed = placed.model_copy(update={"ranks": reconcile.expected_ranks(placed)})
        self._store.save(placed, "starting", f"on {', '.join(placed.nodes)}" + (f": {why}" if why else ""))
        return placed

    async def _launch(self, job: Job, seen: Observation) -> None:
        owners = {name: view.owner for name, view in seen.views.items() if isinstance(view, NodeView) and view.owner}
        try:
            job = await self.launcher.launch(job, owners)
        except RecordNewer:
            raise
        except UgroError as error:
            await self._give_up(error.job if isinstance(error, NotStarted) else self._store.job(job.id), error)
            return
        ranks = job.placement.world_size if job.placement else 0
        self._store.save(_running(job), "running", f"{count(ranks, 'rank')} started")

    async def _give_up(self, job: Job, error: UgroError) -> None:
        """Take back a launch that did not come about; where no node was told to start, there is nothing to end."""
        node = error.node if isinstance(error, NotStarted) else job.nodes[0]
        cause = "node_lost" if isinstance(error, NotStarted) and error.lost else "launch_failed"
        failure = FirstFailure(rank=None, node=node, cause=cause, message=error.message)
        job = job.model_copy(update={"first_failure": failure, "reason": error.message})
        self._store.save(job, "failing", error.message)
        if job.placement and job.placement.master_port:
            await self._finish(job, JobState.FAILED, CANCEL_GRACE)
        else:
            self._end(job, JobState.FAILED, error.message, "no node was told to start")


def _becomes_long(before: Silence | None, now: Silence) -> bool:
    return before is not None and before.watched < SILENCE_GRACE <= now.watched


def proposal(node: str, silence: Silence, now: float) -> str:
    """What UGRO proposes to do about a node that is silent for long; it does nothing of it by itself."""
    return (
        f"silent for {duration(now - silence.since)}: UGRO waits. If {node} is gone for good, end its jobs without "
        f"its word: ugro cancel JOB --abandon"
    )


def _running(job: Job) -> Job:
    changed = {
        "state": JobState.RUNNING,
        "unknown_since": None,
        "reason": "",
        "started_at": job.started_at or time.time(),
    }
    return job.model_copy(update=changed)


def _failure_in_words(failure: FirstFailure) -> str:
    if failure.cause in ("launch_failed", "node_lost"):
        return failure.message
    where = f"rank {failure.rank} on {failure.node}" if failure.rank is not None else failure.node
    cause = "" if failure.cause == "unknown" else f" ({failure.cause})"
    return f"{where} failed first{cause}: {failure.message}"
