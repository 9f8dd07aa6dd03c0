"""Steps for one job after an observation: bring it to its nodes, follow it, end it.

A step on nodes is alone with the job (`MetadataStore.alone_with`), and its process holds no other lock meanwhile. Each
step may be cut short anywhere: the next one, of whichever process, continues from the record and the nodes' files.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ugro.common.errors import AnswerPending, LinkLost, NodeError, RecordNewer, SetupFailed, UgroError, Unreachable
from ugro.common.job_spec import agent_of
from ugro.common.models.event_kind import EventKind
from ugro.common.models.first_failure import FirstFailure
from ugro.common.models.job import Job, TakenBack, Wish
from ugro.common.models.job_state import JobState
from ugro.common.paths import RunPaths, run_paths
from ugro.common.text import count, duration, moment, some
from ugro.control_plane import transitions
from ugro.control_plane.controller.plan import Conclude, Fail, OnNodes, Start, Stop, TellLimit
from ugro.control_plane.controller.series_feed import SeriesFeeds
from ugro.control_plane.controller.series_files import SeriesFiles
from ugro.control_plane.failure_handler.blame import LATE_LEAVER_PATIENCE, Inquiry, is_symptom, node_addresses
from ugro.control_plane.failure_handler.watchdog import rendezvous
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.job_logs import JobLogs
from ugro.control_plane.metadata_store.log_ends import node_log, rank_log
from ugro.control_plane.metadata_store.secrets import SecretExposed, SecretMissing
from ugro.control_plane.resource_manager import monitor
from ugro.control_plane.scheduler import tracker
from ugro.control_plane.scheduler.launcher import Launcher, NotStarted, nothing_runs
from ugro.control_plane.scheduler.tracker import Assessment, Phase
from ugro.control_plane.transitions import Change
from ugro.engines.base import Engine, Observation, OnSent
from ugro.nodes.pool import Pool

CANCEL_GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL when a job is cancelled or one of its ranks failed."""

LEFTOVER_GRACE = 3.0
"""The same for what a job that succeeded left running, once its `grace` is over."""

ABANDON_WITHIN = 5.0
"""Seconds beyond the grace that a node has to end a job which the user abandons on unreachable nodes."""

LOOK_AGAIN_WITHIN = 15.0
"""Seconds that an observation of the nodes on which a job was just ended may take."""

GPU_FREE_WITHIN = 10.0
"""Seconds that the driver may take to give back the memory of ranks that ended."""

LOGS_WITHIN = 30.0
"""Seconds that the logs of a job that ended may take before it counts as ended; `ugro logs` brings what is missing."""

CANCELLED_LOGS_WITHIN = 3.0
"""The same for a cancelled job: the user waits for its end, hardly for its logs."""

SERIES_WITHIN = 2.0
"""Seconds that the series in them may take then; `ugro metrics` reads what is missing."""

ENDS_WITHIN = 3.0
"""Seconds that the ends of the logs may take before the ranks of a job are ended of which one failed: the others hold
their GPUs meanwhile. What comes later still refines who failed first."""

START_PATIENCE = 120.0
"""Seconds in which a node that broke off while its ranks were started may come back and start them."""


TRY_AGAIN_AFTER, TRY_AGAIN_LIMIT = 10.0, 600.0
"""Seconds until a launch that was cut off before anything was started is tried again: twice as long each time, and the
most of it."""


class JobSteps:
    """Decides and takes the steps of jobs."""

    def __init__(self, store: MetadataStore, engine: Engine, pool: Pool, on_sent: OnSent | None = None) -> None:
        self._store = store
        self._clock = store.clock
        self._engine = engine
        self._pool = pool
        self._on_sent = on_sent
        self.launcher = Launcher(store, engine, self._bring_checkpoint, on_sent)
        self.series = SeriesFeeds(store)
        """The readers of the trainings' series in the copies of logs."""
        self._files = SeriesFiles(store, pool)

    async def act(self, action: OnNodes, seen: Observation) -> None:
        """Carry out what is planned for a job on its nodes."""
        match action:
            case Start(job, owners):
                await self._launch(job, owners)
            case TellLimit(job, nodes):
                await self._tell_limit(job, nodes)
            case Conclude(job, found):
                await self._succeed(job, found, seen)
            case Fail(job, found):
                await self._fail(job, found, seen)
            case Stop(job, state):
                await self._end_on_nodes(job, state, CANCEL_GRACE)

    def record(self, change: Change) -> Job:
        """Write a change of a job; what is to be done after its end is noted before. Return its record."""
        if change.job.state == JobState.FAILED:
            self._store.decisions.remember_undecided(change.job.id)
        elif change.job.state == JobState.SUCCEEDED and self._declares_outputs(change.job.id):
            self._store.outputs.owe(change.job.id)
        return self._store.jobs.save(*change)

    def _declares_outputs(self, job_id: str) -> bool:
        with contextlib.suppress(UgroError):  # its end counts, also where its spec is lost
            return bool(self._store.jobs.spec(job_id).outputs)
        return False

    def end(self, job: Job, state: JobState, reason: str, news: str | None = None) -> None:
        """Record the end of a job. `news` is the timeline's text where it has the reason already."""
        told = reason if news is None else news
        self.record(transitions.end(job, state, reason, self._clock.now(), told))

    async def _save(self, change: Change) -> Job:
        return await self._store.write(lambda: self._store.jobs.save(*change))

    async def _add_note(self, node: str, kind: EventKind, message: str, job_id: str) -> None:
        await self._store.write(lambda: self._store.timeline.note(node, kind, message, job_id))

    # --- following -------------------------------------------------------------------------------------------------

    async def _tell_limit(self, job: Job, nodes: Sequence[str]) -> None:
        spec = self._store.jobs.spec(job.id)
        for node, answer in (await self._engine.set_time_limit(job, spec, nodes)).items():
            told = f"{node} lets it run for {duration(spec.time_limit or 0.0)}"
            words = answer.message if isinstance(answer, NodeError) else told
            known = [event for event in self._store.timeline.of_job(job.id) if event.kind == EventKind.EXTENDED]
            if all((event.node, event.message) != (node, words) for event in known):
                await self._add_note(node, EventKind.EXTENDED, words, job.id)

    async def _succeed(self, job: Job, found: Assessment, seen: Observation) -> None:
        waits = await self.waits_for_leftovers(job, found, seen)
        if not waits:
            await self._end_on_nodes(job, JobState.SUCCEEDED, LEFTOVER_GRACE)
        elif (job.state, job.reason) != (JobState.RUNNING, waits):
            await self._save(transitions.wait_for_leftovers(job, self._clock.now(), waits))

    async def waits_for_leftovers(self, job: Job, found: Assessment, seen: Observation) -> str:
        """Return in words what a succeeded job left running, and until when it may; empty if it is not waited for."""
        with contextlib.suppress(UgroError):
            grace, ended = self._store.jobs.spec(job.id).grace, tracker.end_of_ranks(found.ranks, seen.clock_offsets)
            if grace and ended is not None and self._clock.now() < ended + grace:
                left = await self._engine.leftovers(job)
                until = moment(ended + grace, ended)
                return f"its ranks ended; until {until} at most, it waits for {_by_node(left)}" if left else ""
        return ""

    async def _fail(self, job: Job, found: Assessment, seen: Observation) -> None:
        await self.logs_of(job).bring_ends(ENDS_WITHIN)
        if not job.wish and (waits := await asyncio.to_thread(self.waits_for_leavers, job, found, seen)):
            if (job.state, job.reason) != (JobState.RUNNING, waits):
                await self._save(transitions.follow_ranks(job, self._clock.now(), waits, waits))
            return
        failure = await asyncio.to_thread(self.first_failure, job, found, seen)
        if failure.cause == "rendezvous_timeout" and rendezvous.never_met(job):
            failure = rendezvous.blamed(failure, job, await rendezvous.unreached(self._pool, job))
        reason = failure_in_words(failure)
        ranks = tracker.lost_first(found.ranks, seen.runs[job.id], failure.rank)
        job = await self._save(transitions.fail(job.changed(ranks=ranks), failure, reason))
        await self._end_on_nodes(job, JobState.FAILED, CANCEL_GRACE)

    def waits_for_leavers(self, job: Job, found: Assessment, seen: Observation) -> str:
        """Return in words the missed ranks that may end by themselves before the job is ended; empty if none may."""
        awaited = self._inquiry(job, found, seen).awaited(seen.at)
        names = some([f"rank {rank.rank} on {rank.node}" for rank in awaited])
        who = f"up to {LATE_LEAVER_PATIENCE:.0f} s for {names} to end, which may be missed"
        return f"{found.reason}; {who}" if awaited else ""

    def first_failure(self, job: Job, found: Assessment, seen: Observation) -> FirstFailure:
        """Return the first failure, by the nodes' files and the logs that are here."""
        return self._inquiry(job, found, seen).first()

    def _inquiry(self, job: Job, found: Assessment, seen: Observation, until: float = math.inf) -> Inquiry:
        folder = self._store.jobs.files(job.id).logs(job.attempt)
        node_ranks = {node: rank for rank, node in enumerate(job.nodes)}
        return Inquiry(
            found.ranks,
            seen.runs[job.id],
            seen.clock_offsets,
            lambda rank: rank_log(folder, rank),
            lambda node: node_log(folder, node_ranks[node]),
            node_addresses(job.placement) if job.placement else {},
            until,
            agent_of(job.launcher),
        )

    async def bring_series(self, job: Job) -> None:
        """Bring what is new of the series of a job's training, from its logs and from files that it writes."""
        await self.series.bring(job, self.logs_of(job))
        await self._files.bring(job, self._paths(job, job.nodes))

    def _paths(self, job: Job, nodes: Sequence[str]) -> dict[str, RunPaths]:
        return {node: where for node in nodes if (where := run_paths(self._engine.inventory, job, node))}

    def logs_of(self, job: Job, nodes: Sequence[str] | None = None) -> JobLogs:
        """The copies of a job's logs, and how they are brought up to date: from these nodes (all by default)."""
        nodes = job.nodes if nodes is None else nodes
        folder = self._store.jobs.files(job.id).logs(job.attempt)
        return JobLogs(self._engine, job, list(self._paths(job, nodes)), folder, clock=self._clock)

    async def live(self, job: Job, seen: Observation, within: float | None = None) -> Job:
        """Return the job as its nodes show it now. No record is written, and an unreachable node changes nothing."""
        if job.state not in (JobState.RUNNING, JobState.UNKNOWN) or job.id not in seen.runs:
            return job
        runs = seen.runs[job.id]
        found = tracker.assess(job, runs)
        job = job.changed(ranks=found.ranks)
        if job.wish:  # what ends now, ends for that
            return job
        if found.phase == Phase.UNKNOWN:
            slow = [run.message for run in runs.values() if isinstance(run, AnswerPending)]
            late = job.changed(reason=f"{'; '.join(slow)}: shown as it was last seen")
            return late if slow else transitions.as_unknown(job, found.reason, seen.at)
        if found.phase == Phase.SUCCEEDED and (waits := await self.waits_for_leftovers(job, found, seen)):
            return transitions.as_running(job, self._clock.now(), waits)
        reason = "" if job.state == JobState.UNKNOWN else job.reason  # which was that nodes did not answer
        now = job.changed(state=JobState(found.phase.value), unknown_since=None, reason=reason)
        if found.phase != Phase.RUNNING:
            now = now.changed(ended_at=tracker.end_of_ranks(found.ranks, seen.clock_offsets) or self._clock.now())
        if found.phase == Phase.FAILED:
            with self._store.optional():  # on a full disk the copies that are there have to do
                await self.logs_of(job).bring_ends(within)
            if waits := self.waits_for_leavers(job, found, seen):
                return transitions.as_running(job, self._clock.now(), waits)
            failure = self.first_failure(job, found, seen)
            ranks = tracker.lost_first(found.ranks, runs, failure.rank)
            now = now.changed(first_failure=failure, reason=failure_in_words(failure), ranks=ranks)
        return now

    # --- ending ----------------------------------------------------------------------------------------------------

    async def _end_on_nodes(self, job: Job, state: JobState, grace: float) -> None:
        """End whatever is left of a job on its nodes; only when all of them confirm it is the job over."""
        given_up = [node for node in job.nodes if job.wish == Wish.ABANDON and node in self._store.config.silences()]
        within = grace + ABANDON_WITHIN if job.wish == Wish.ABANDON else None
        ending = await self._engine.stop(job, grace, [node for node in job.nodes if node not in given_up], within)
        if job.wish == Wish.ABANDON and len(ending.problems) == len(ending.unreached):
            given_up += ending.unreached  # unreachable for long or not: the user gave up these nodes
            ending.problems.clear()
        ended = ending.detached if state == JobState.SUCCEEDED else {}  # elsewhere that is what was asked for
        for node, processes in ended.items():
            await self._add_note(node, EventKind.LEFTOVERS, f"ended what {job.id} left running: {processes}", job.id)
        if ending.problems:
            text = "; ".join(ending.problems)
            if job.state != JobState.UNKNOWN or text != job.reason:
                await self._save(transitions.lose_sight(job, text, self._clock.now()))
            return
        notes = []
        if given_up:
            await self._store.write(functools.partial(self._store.cleanup.remember_leftovers, job, given_up))
            notes.append(f"without waiting for {', '.join(given_up)}, which is asked again once it answers")
        asked = [node for node in job.nodes if node not in given_up]
        logs_within = CANCELLED_LOGS_WITHIN if state == JobState.CANCELLED else LOGS_WITHIN
        await self.logs_of(job, asked).bring_all(logs_within)
        with self._store.optional():
            await self.series.read(job.changed(state=state), SERIES_WITHIN)
        await self._files.bring(job, self._paths(job, asked), last=True)
        seen, holders = await self._see_gpus_free(job, asked)
        found = tracker.assess(job, seen.runs[job.id])
        if (first := job.first_failure) and (
            first.cause == "unknown" or is_symptom(first)
        ):  # now all the logs are here
            first = await asyncio.to_thread(self._better_known, first, job, found, seen)
            job = job.changed(first_failure=first)
        failure = [failure_in_words(job.first_failure)] if state == JobState.FAILED and job.first_failure else []
        ranks = tracker.without_word_of(given_up, tracker.unstarted(job, found.ranks, seen.runs[job.id]))
        job = job.changed(
            ranks=ranks,
            ended_at=tracker.end_of_ranks(ranks, seen.clock_offsets),
            peak_mib=await asyncio.to_thread(self._peak, job.id),
            abandoned=tuple(given_up),
            gone_from=tuple(ending.proved),
        )
        notes += holders
        over = [nothing_runs("it", asked, ending.proved)] if failure and asked else []
        left = [f"what it left running was ended: {_by_node(ended)}"] if ended else []
        reason, news = "; ".join([*failure, *left, *notes]), "; ".join([*over, *notes])
        await self._store.write(functools.partial(self.end, job, state, reason, news))

    def _peak(self, job_id: str) -> int | None:
        return monitor.peak(self._store.metrics.samples(job_id))

    def _better_known(self, failure: FirstFailure, job: Job, found: Assessment, seen: Observation) -> FirstFailure:
        """Return the failure by all the logs there are. A rank that UGRO ended meanwhile counts as still running."""
        began = [event.at for event in self._store.timeline.of_job(job.id) if event.kind == EventKind.FAILING]
        now = self._inquiry(job, found, seen, began[-1] if began else math.inf).first()
        same = (now.rank, now.node) == (failure.rank, failure.node)
        return now if same or (began and now.cause != "unknown") else failure

    async def _see_gpus_free(self, job: Job, nodes: Sequence[str]) -> tuple[Observation, list[str]]:
        """Look at these nodes until the driver shows no rank of the job on its GPUs: memory comes back a moment later.

        Returns the last look, and what still holds a GPU after `GPU_FREE_WITHIN` seconds.
        """
        end = self._clock.monotonic() + GPU_FREE_WITHIN
        while True:
            seen = await self._engine.observe([job], nodes, LOOK_AGAIN_WITHIN)
            holders = tracker.gpu_holders(job, seen.views)
            if not holders or self._clock.monotonic() > end:
                return seen, holders
            await asyncio.sleep(0.5)

    # --- starting --------------------------------------------------------------------------------------------------

    async def _launch(self, job: Job, owners: Mapping[str, str]) -> None:
        try:
            job = await self.launcher.launch(job, owners)
        except RecordNewer:
            raise
        except UgroError as error:
            back = error.job if isinstance(error, NotStarted) else self._store.jobs.job(job.id)
            await self._store.write(functools.partial(self._take_back, back, error))
            return
        ranks = job.placement.world_size if job.placement else 0
        await self._save(transitions.run(job, self._clock.now(), f"{count(ranks, 'rank')} started"))

    async def _bring_checkpoint(self, job: Job) -> Path:
        """Bring the checkpoint that a job resumes from to this machine."""
        from ugro.control_plane.metadata_store.checkpoint_store import CheckpointStore  # here, since few jobs resume

        assert job.resume_from
        store = CheckpointStore(self._store, self._engine.inventory, self._pool)
        return await store.bring(job, job.resume_from, self._on_sent)

    def _take_back(self, job: Job, error: UgroError) -> None:
        """A launch did not come about: queue the job again, try the rest again, or let it fail.

        Before the ranks' meeting point is recorded no node got the start command, so an unreachable node proves
        nothing about the job. After it some may have: a node that comes back soon can still start its part.
        """
        lost = isinstance(error.error if isinstance(error, NotStarted) else error, (Unreachable, LinkLost))
        now, told_at = self._clock.now(), self._told_at(job)
        told_to_start = told_at is not None or bool(job.placement and job.placement.master_port)
        if (lost or isinstance(error, SecretMissing | SecretExposed)) and not told_to_start:
            back = taken_back(job.taken_back, error.message, now)
            words = f"{error.message}, before anything was started: it waits for its turn again"
            self._store.jobs.save(*transitions.take_back(job, back, words))
        elif lost and (told_at is None or now - told_at < self._start_patience(job)):
            if job.reason != error.message:
                words = f"{error.message}; it is tried again"
                self._store.jobs.save(*transitions.launch_again(job, error.message, words))
        else:
            self._give_up(job, error, lost, told_to_start)

    def _told_at(self, job: Job) -> float | None:
        """Return when nodes were last asked to start this attempt or to set it up; None if that is not known."""
        told = None
        for event in self._store.timeline.of_job(job.id):
            if event.kind in (EventKind.RESUMED, EventKind.QUEUED):
                told = None
            elif event.kind in (EventKind.PLACED, EventKind.SETUP):
                told = event.at
        return told

    def _start_patience(self, job: Job) -> float:
        """Return the seconds since then in which a node may come back; a setup still running there has extra time."""
        setup = self._store.jobs.spec(job.id).setup
        return START_PATIENCE + (setup.timeout if setup and not (job.placement and job.placement.master_port) else 0.0)

    def _give_up(self, job: Job, error: UgroError, lost: bool, told_to_start: bool) -> None:
        """Let a job fail that did not start; the next tick ends what did start of it."""
        node = error.node if isinstance(error, (NotStarted, NodeError)) else job.nodes[0]
        failed_in_setup = isinstance(error, NotStarted) and isinstance(error.error, SetupFailed)
        cause = "node_lost" if lost else "setup_failed" if failed_in_setup else "launch_failed"
        words = "; ".join(filter(None, (error.message, "" if failed_in_setup else error.hint)))  # there is what to set
        failure = FirstFailure(rank=None, node=node, cause=cause, message=words)
        job = self._store.jobs.save(*transitions.fail(job, failure, words))
        if not told_to_start:
            self.end(job, JobState.FAILED, words, "no node got the start command")


def taken_back(before: TakenBack | None, reason: str, now: float) -> TakenBack:
    """Return the record's note on a launch that was cut off once more."""
    times = before.times + 1 if before else 1
    pause = min(TRY_AGAIN_LIMIT, TRY_AGAIN_AFTER * 2.0 ** min(times - 1, 10))
    return TakenBack(reason=reason, times=times, until=now + pause)


def _by_node(words: Mapping[str, str]) -> str:
    return "; ".join(f"{node}: {said}" for node, said in words.items())


def failure_in_words(failure: FirstFailure) -> str:
    """Return the first failure in one line."""
    if failure.cause in ("launch_failed", "node_lost", "setup_failed"):
        return failure.message
    where = f"rank {failure.rank} on {failure.node}" if failure.rank is not None else failure.node
    cause = "" if failure.cause == "unknown" else f" ({failure.cause})"
    return f"{where} failed first{cause}: {failure.message}"
