"""Handle a failure: try again where the job's policy says so, else propose it and wait for the user's approval."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ugro.common.config import Inventory
from ugro.common.errors import InputError, RecordNewer, UgroError
from ugro.common.job_spec import JobSpec
from ugro.common.models.event_kind import EventKind
from ugro.common.models.job import Job, Wish
from ugro.common.models.job_state import JobState
from ugro.common.models.proposal import Proposal
from ugro.common.text import printable, some, visible
from ugro.common.troubles import Troubles
from ugro.control_plane import transitions
from ugro.control_plane.failure_handler.recovery.lost_work import last_checkpoint, steps_reached
from ugro.control_plane.failure_handler.recovery.next_attempt import NextAttempt, next_attempt
from ugro.control_plane.failure_handler.recovery.repair import left_out, smaller_batch
from ugro.control_plane.failure_handler.retry import GRACE_AFTER_ALERT, decide, trouble
from ugro.control_plane.failure_handler.watchdog.watch import hang_of, limits_of
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.checkpoint_store import CheckpointStore
from ugro.control_plane.resource_manager.monitor import SILENCE_GRACE, Views
from ugro.control_plane.scheduler.command import source_text
from ugro.control_plane.scheduler.queue import read_capacities
from ugro.nodes.pool import Pool

LOOK_WITHIN = 20.0
"""Seconds for the nodes to say which checkpoints they have."""

Progress = Callable[[str, int, int], None]


class FailureHandler:
    """Decides about jobs in trouble, and carries out what was decided or approved.

    Nodes are asked, and checkpoints brought here, without any lock: a job that changed meanwhile is left for later.
    """

    def __init__(self, store: MetadataStore, inventory: Inventory, pool: Pool) -> None:
        self._store = store
        self._inventory = inventory
        self._checkpoints = CheckpointStore(store, inventory, pool)

    async def handle(self, views: Views) -> None:
        """Decide about every trouble that is undecided. Killed anywhere and called again, it comes to the same."""
        troubles = Troubles()
        with troubles.boundary("approved proposals"):
            await self._go_on_as_approved()
        with troubles.boundary("proposals"):
            await self._store.write(self._withdraw_what_is_over)
        for job_id in self._store.decisions.undecided():
            with troubles.boundary(f"{job_id}: what is done about its failure", job_id):
                try:
                    decided = await self._is_decided(job_id, views)
                except RecordNewer as error:  # for the UGRO that wrote it to decide
                    self._store.tell(error)
                    continue
                if decided:
                    await self._store.write(partial(self._store.decisions.remember_undecided, job_id, False))
        troubles.raise_first(self._store.tell)

    async def _is_decided(self, job_id: str, views: Views) -> bool:
        try:
            job = self._store.jobs.job(job_id)
        except RecordNewer:
            raise
        except UgroError:  # lost or broken: reported elsewhere
            return True
        over = job.state in (JobState.SUCCEEDED, JobState.CANCELLED)
        return over or (self._is_time(job) and await self._decide(job, views))

    def _is_time(self, job: Job) -> bool:
        """Return whether a job can be decided now: it has a trouble, and an unreachable node has had its grace."""
        if job.state != JobState.UNKNOWN:
            return trouble(job) is not None
        silences = self._store.config.silences()
        return any(silences[node].watched >= SILENCE_GRACE for node in job.nodes if node in silences)

    def _readable(self, job_id: str) -> Job | None:
        try:
            return self._store.jobs.job(job_id)
        except UgroError:  # lost or broken: reported elsewhere
            return None

    async def _go_on_as_approved(self) -> None:
        """Queue jobs again that were ended for it. A job that cannot be queued is reported, and left to the user."""
        troubles = Troubles()
        for proposal in self._store.decisions.proposals().values():
            job = self._readable(proposal.job) if proposal.approved else None
            if job and job.state.ended:
                with troubles.boundary(f"{job.id}: its next attempt", job.id):
                    await self._go_on(job, proposal)
        troubles.raise_first(self._store.tell)

    async def _go_on(self, job: Job, proposal: Proposal) -> None:
        try:
            await self.approve(proposal)
        except RecordNewer as error:
            self._store.tell(error)
            return
        except UgroError as error:
            await self._store.write(partial(self._give_up, job.id, error.message))
        await self._store.write(partial(self._store.decisions.remember_undecided, job.id, False))

    def _give_up(self, job_id: str, why: str) -> None:
        self._store.decisions.withdraw(job_id)
        self._store.timeline.note("", EventKind.RECOVERY, f"cannot be resumed: {why}", job_id)

    def _withdraw_what_is_over(self) -> None:
        """Withdraw proposals to end a job that runs again, or that ended by itself."""
        for proposal in self._store.decisions.proposals().values():
            job = self._readable(proposal.job) if proposal.ends and not proposal.approved else None
            if job and (job.state.ended or job.attempt != proposal.attempt or trouble(job) is None):
                self._store.decisions.withdraw(job.id)
                self._store.timeline.note(
                    "", EventKind.WITHDRAWN, f"the proposal is withdrawn: the job is {job.state.value}", job.id
                )

    async def _decide(self, job: Job, views: Views) -> bool:
        """Returns whether it is decided; a hang whose end was consented to gets a last time to show signs of life."""
        try:
            spec = self._store.jobs.spec(job.id)
        except UgroError:
            return True
        cause, script = trouble(job) or "unknown", script_of(self._store, job)
        listing = await self._checkpoints.find(job, spec, views, LOOK_WITHIN)
        last = last_checkpoint(job, listing.checkpoints, self._checkpoints.kept(job))
        checkpoint = last.checkpoint if last else None
        if self._readable(job.id) != job:  # it was resumed meanwhile, or ended: that is for the next tick
            return False
        without = left_out(job, spec, read_capacities(self._store, self._inventory, (), views))
        if len(without) == len(job.nodes):
            if not job.state.ended:
                return True
            without = {}
        changes = smaller_batch(spec.args, script) if cause == "cuda_oom" else ()
        steps = steps_reached(job, self._store.jobs.files(job.id).logs) if job.past else {}
        decision = decide(job, cause, spec, checkpoint, changes, without, listing.unseen(job), steps)
        if decision.action == "leave":
            if spec.on_failure.action(cause) == "retry":
                await self._note_recovery(job.id, f"not tried again: {decision.why}")
            return True
        why = [decision.why, *(f"without {node}: {reason}" for node, reason in without.items())]
        proposal = Proposal(
            job=job.id,
            attempt=job.attempt,
            at=self._store.clock.now(),
            cause=cause,
            text="; ".join(why),
            checkpoint=checkpoint,
            changes=changes,
            nodes=tuple(node for node in job.nodes if node not in without) if without else (),
            ends=not job.state.ended,
        )
        try:
            planned = _planned(job, spec, script, proposal)
        except InputError as error:
            await self._note_recovery(job.id, f"cannot be resumed: {error.message}")
            return True
        if decision.action == "ask" or job.state == JobState.UNKNOWN:  # which is never dead by UGRO's own word
            await self._store.write(partial(self._propose, proposal))
            return True
        if proposal.ends:
            return await self._store.write(partial(self._end_hang, job, spec))
        spec = planned.spec.model_copy(update={"not_before": self._store.clock.now() + decision.wait})
        words = "; ".join([decision.why, *(change.text for change in changes)])
        await self._store.write(partial(self._store.jobs.reopen, planned.job, spec, words))
        return True

    async def _note_recovery(self, job_id: str, words: str) -> None:
        await self._store.write(lambda: self._store.timeline.note("", EventKind.RECOVERY, words, job_id))

    def _propose(self, proposal: Proposal) -> None:
        told = f"{proposal_in_words(proposal)}: ugro approve {proposal.job}, or ugro deny {proposal.job}"
        self._store.decisions.propose(proposal)
        self._store.timeline.note("", EventKind.PROPOSAL, told, proposal.job)

    def _end_hang(self, job: Job, spec: JobSpec) -> bool:
        """Let a hang count as a failure once it has lasted long enough after the alert. The next tick ends it."""
        hang = hang_of(self._store, job)
        if hang.seconds >= GRACE_AFTER_ALERT * limits_of(spec).floor:
            self._fail_hang(job, hang.rank, "as the job allows")
        return False

    def _fail_hang(self, job: Job, rank: int | None, consent: str) -> None:
        """Let the next tick end a job that hangs, unless it made progress or was ended meanwhile."""
        with self._store.lock():
            now = self._store.jobs.job(job.id)
            if now.attempt == job.attempt and trouble(now) == "hang":
                self._store.jobs.save(*transitions.fail_hang(now, rank, consent))

    def end(self, proposal: Proposal) -> None:
        """Let the next tick end the job of a proposal and resume it. Do nothing where it has ended.

        Raises:
            InputError: it runs again.
        """
        job = self._store.jobs.job(proposal.job)
        if job.state.ended or job.attempt != proposal.attempt:
            return
        cause = trouble(job)
        if cause is None:
            self._store.decisions.withdraw(job.id)
            raise InputError(f"{job.id} has not ended: it is {job.state.value}", f"see: ugro status {job.id}")
        self._store.decisions.propose(proposal.model_copy(update={"approved": True}))
        if cause == "hang":
            self._fail_hang(job, hang_of(self._store, job).rank, "as approved")
        else:
            words = "without waiting for unreachable nodes, as approved"
            self._store.jobs.save(*transitions.cancel(job, Wish.ABANDON, words))

    async def approve(self, proposal: Proposal, progress: Progress | None = None) -> Job:
        """Queue the job, which has ended, again as it was proposed.

        Raises:
            InputError: the job is not as it was then. StateError, NodeError: the checkpoint cannot be brought here.
        """
        job = self._store.jobs.job(proposal.job)
        if job.attempt != proposal.attempt:
            await self._store.write(partial(self._store.decisions.withdraw, job.id))
            raise InputError(f"{job.id} was resumed already: it is {job.state.value}", f"see: ugro status {job.id}")
        planned = _planned(job, self._store.jobs.spec(job.id), script_of(self._store, job), proposal)
        nodes, held = proposal.nodes or job.nodes, proposal.checkpoint
        if held and any(node not in held.whole_at for node in nodes):
            await self._checkpoints.bring(job, held, progress)

        def resume() -> Job:
            resumed = self._store.jobs.reopen(planned.job, planned.spec, f"approved: {proposal_in_words(proposal)}")
            self._store.decisions.withdraw(job.id)
            return resumed

        return await self._store.write(resume)


def _planned(job: Job, spec: JobSpec, script: str, proposal: Proposal) -> NextAttempt:
    ended = job if job.state.ended else job.changed(state=JobState.FAILED)
    wanted = {change.name: change.after for change in proposal.changes}
    return next_attempt(ended, spec, script, proposal.checkpoint, wanted, ",".join(proposal.nodes) or None)


def script_of(store: MetadataStore, job: Job) -> str:
    """The text of a job's script, from the snapshot of its code; nothing where that is gone."""
    try:
        return source_text(store.jobs.files(job.id).snapshot(job.code.attempt), store.jobs.spec(job.id))
    except UgroError:
        return ""


def proposal_in_words(proposal: Proposal) -> str:
    """Return the proposed action in one line."""
    at = proposal.checkpoint
    where = f"resume from {at.where} ({visible(at.name)})" if at else "begin again"
    first = ["end it"] if proposal.ends else []
    fewer = [f"on {some(proposal.nodes)} only"] if proposal.nodes else []
    return "; ".join([*first, where, *fewer, *(printable(change.text) for change in proposal.changes)])
