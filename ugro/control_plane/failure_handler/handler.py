"""After a failure: try again where the job's policy says so, else propose it and wait for a person's word."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from ugro.common.config import Inventory
from ugro.common.errors import InputError, NodeError, UgroError
from ugro.common.job_spec import JobSpec
from ugro.common.models import Checkpoint, Job, JobState, NodeView, Proposal
from ugro.common.text import printable
from ugro.control_plane.checkpoint_store import CheckpointStore
from ugro.control_plane.failure_handler.aftermath import last_checkpoint
from ugro.control_plane.failure_handler.policy import decide
from ugro.control_plane.failure_handler.recovery import NextAttempt, next_attempt
from ugro.control_plane.failure_handler.repair import smaller_batch
from ugro.control_plane.metadata_store import MetadataStore
from ugro.nodes.pool import Pool

LOOK_WITHIN = 20.0
"""Seconds for the nodes to say which checkpoints they have."""

Progress = Callable[[str, int, int], None]


class FailureHandler:
    """Decides about jobs that failed, and carries out what was decided or approved. The caller holds the lock."""

    def __init__(self, store: MetadataStore, inventory: Inventory, pool: Pool) -> None:
        self._store = store
        self._checkpoints = CheckpointStore(store, inventory, pool)

    async def handle(self, views: Mapping[str, NodeView | NodeError]) -> None:
        """Decide about every failure that is undecided. Killed anywhere and called again, it comes to the same."""
        for job_id in self._store.undecided():
            try:
                job = self._store.job(job_id)
            except UgroError:  # lost or broken: others tell of it
                job = None
            if job and not job.state.ended:
                continue
            if job and job.state == JobState.FAILED:
                await self._decide(job, views)
            self._store.remember_undecided(job_id, False)

    async def _decide(self, job: Job, views: Mapping[str, NodeView | NodeError]) -> None:
        try:
            spec = self._store.spec(job.id)
        except UgroError:
            return
        script = script_of(self._store, job)
        checkpoint = await self._last(job, spec, views)
        cause = job.first_failure.cause if job.first_failure else "unknown"
        changes = smaller_batch(spec.args, script) if cause == "cuda_oom" else ()
        decision = decide(job, spec, checkpoint, changes)
        if decision.action == "leave":
            return
        proposal = Proposal(
            job=job.id,
            attempt=job.attempt,
            at=time.time(),
            cause=cause,
            text=decision.why,
            checkpoint=checkpoint,
            changes=changes,
        )
        try:
            planned = _planned(job, spec, script, proposal)
        except InputError as error:
            self._store.note("", "recovery", f"cannot be resumed: {error.message}", job.id)
            return
        if decision.action == "retry":
            spec = planned.spec.model_copy(update={"not_before": time.time() + decision.wait})
            self._store.reopen(planned.job, spec, "; ".join([decision.why, *(change.text for change in changes)]))
            return
        self._store.propose(proposal)
        self._store.note("", "proposal", f"{in_words(proposal)}: ugro approve {job.id}, or ugro deny {job.id}", job.id)

    async def _last(self, job: Job, spec: JobSpec, views: Mapping[str, NodeView | NodeError]) -> Checkpoint | None:
        """The furthest whole one; it may be a copy on this machine, since the node that saved it may be silent now."""
        listing = await self._checkpoints.find(job, spec, views, LOOK_WITHIN)
        last = last_checkpoint(job, listing.checkpoints, self._checkpoints.kept(job))
        return last.checkpoint if last else None

    async def approve(self, proposal: Proposal, progress: Progress | None = None) -> Job:
        """Queue the job again as it was proposed.

        Raises:
            InputError: the job is not as it was then. StateError, NodeError: the checkpoint cannot be brought here.
        """
        job = self._store.job(proposal.job)
        if job.attempt != proposal.attempt or not job.state.ended:
            self._store.withdraw(job.id)
            raise InputError(f"{job.id} was resumed already: it is {job.state.value}", f"see: ugro status {job.id}")
        planned = _planned(job, self._store.spec(job.id), script_of(self._store, job), proposal)
        if proposal.checkpoint and any(node not in proposal.checkpoint.whole_at for node in job.nodes):
            await self._checkpoints.bring(job, proposal.checkpoint, progress)
        resumed = self._store.reopen(planned.job, planned.spec, f"approved: {in_words(proposal)}")
        self._store.withdraw(job.id)
        return resumed


def _planned(job: Job, spec: JobSpec, script: str, proposal: Proposal) -> NextAttempt:
    wanted = {change.name: change.after for change in proposal.changes}
    return next_attempt(job, spec, script, proposal.checkpoint, wanted)


def script_of(store: MetadataStore, job: Job) -> str:
    """The text of a job's script, from the snapshot of its code; nothing where that is gone."""
    try:
        return (store.files(job.id).snapshot / job.command[0]).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def in_words(proposal: Proposal) -> str:
    """What would be done, in one line."""
    at = proposal.checkpoint
    where = f"go on from step {at.step} ({printable(at.name)})" if at else "begin again"
    return "; ".join([where, *(printable(change.text) for change in proposal.changes)])
