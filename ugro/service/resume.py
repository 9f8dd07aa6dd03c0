"""Resumes a job that ended, from a checkpoint or from the beginning, with its own code or with that of now."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from ugro.common.errors import InputError
from ugro.common.job_spec import JobSpec
from ugro.common.models.argument_change import ArgumentChange
from ugro.common.models.checkpoint import Checkpoint
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.common.text import printable, some
from ugro.control_plane.failure_handler.handler import script_of
from ugro.control_plane.failure_handler.recovery.next_attempt import NextAttempt, next_attempt
from ugro.control_plane.failure_handler.recovery.repair import smaller_batch
from ugro.control_plane.metadata_store.checkpoint_store import CheckpointListing, CheckpointStore, newest_whole
from ugro.control_plane.metadata_store.retention import require_code
from ugro.control_plane.scheduler.accepted import accepts
from ugro.control_plane.scheduler.queue import read_capacities
from ugro.control_plane.scheduler.scheduling import check_request
from ugro.control_plane.scheduler.submission import NewCode, adopt, new_code, require_room
from ugro.service.checkpoints import checked, spec_with
from ugro.service.code import question_of_size
from ugro.service.context import Context
from ugro.service.plan import Fingerprint, Question, consented
from ugro.service.schemas.code import CodeDocument
from ugro.service.schemas.jobs import CheckpointDocument
from ugro.service.schemas.resume import (
    BEGIN_AGAIN,
    RESUME,
    SMALLER_BATCH,
    CodeChanges,
    CodeSource,
    CodeSourceDocument,
    PlanResume,
    Resume,
    ResumeAnswer,
    ResumedDocument,
    ResumeOptions,
    ResumePlan,
)
from ugro.service.starting import gpus_come_free, started
from ugro.service.words import count_changes, title

DIGEST_SHOWN = 12
"""Characters of a code's digest in the event of an attempt that runs it."""

NOBODY, SAY_YES = "confirmation needed, but stdin is not a terminal", "use --yes to resume without a question"


async def code_source(context: Context, request: CodeSource) -> CodeSourceDocument:
    """Return where the code of a job came from: of one that ended, or in any state.

    Raises:
        InputError: there is no such job, or it has not ended.
    """
    job = context.store.jobs.find(request.job) if request.any_state else await _ended(context, request.job)
    return CodeSourceDocument(directory=job.code.directory, spec=context.store.jobs.spec(job.id))


async def plan_resume(context: Context, request: PlanResume) -> ResumePlan:
    """Plan the next attempt of a job: where it begins, what changes, and what the user has to confirm.

    Raises:
        InputError: there is no such job, it has not ended, or it cannot be resumed so. StateError: its code cannot be
            read or copied. SecretMissing: a secret that it needs is not set.
    """
    async with _survey(context, request.options) as found:
        await asyncio.to_thread(context.store.secrets.require, found.spec.secret_names.values())
        return ResumePlan(
            questions=found.questions,
            fingerprint=Fingerprint.of(found.rests_on),
            options=request.options,
            job=context.document(found.job),
            checkpoint=CheckpointDocument.of(found.checkpoint) if found.checkpoint else None,
            changes=found.next_attempt().changes,
            smaller_batch=found.smaller_batch,
            code_changes=_code_changes(found.code),
        )


async def resume(context: Context, request: Resume) -> ResumeAnswer:
    """Queue a job again as planned, and start it if there is room.

    Raises:
        PlanChanged: the job, its checkpoints or the code are not as they were. InputError: a question has no answer.
            Declined: an answer is no. StateError, NodeError: the checkpoint cannot be brought here.
    """
    async with _survey(context, request.plan.options) as found:
        request.plan.fingerprint.require(found.rests_on)
        given = consented(found.questions, request.answers)
        smaller = found.smaller_batch if given.get(SMALLER_BATCH) else ()
        planned, before, checkpoint = found.next_attempt(smaller), found.job, found.checkpoint
        if checkpoint and any(node not in checkpoint.whole_at for node in before.nodes):
            store = CheckpointStore(context.store, context.cluster, (await context.reach()).pool)
            await store.bring(before, checkpoint, context.tell_sent)
        await context.store.write(lambda: _reopen(context, found, planned))
        code_changes = _code_changes(found.code)
    named = planned.spec.nodes
    await gpus_come_free(context, before, named if isinstance(named, tuple) else before.nodes)
    now = started(context, await context.started(before.id))
    return ResumeAnswer(answer=ResumedDocument(**vars(now.job), code_changes=code_changes), expected=now.expected)


@dataclass(frozen=True)
class _Survey:
    """What the next attempt of a job is made of. `missing`: why there is no checkpoint to begin from."""

    options: ResumeOptions
    job: Job
    spec: JobSpec
    script: str
    checkpoint: Checkpoint | None
    missing: InputError | None
    code: NewCode | None

    def next_attempt(self, further: tuple[ArgumentChange, ...] = ()) -> NextAttempt:
        """Return the attempt, with `further` changes of arguments.

        Raises:
            InputError: the job cannot be resumed so.
        """
        options = self.options
        wanted = options.settings | {change.name: change.after for change in further}
        return checked(
            lambda: next_attempt(
                self.job, self.spec, self.script, self.checkpoint, wanted, options.nodes, options.time_limit
            )
        )

    @property
    def smaller_batch(self) -> tuple[ArgumentChange, ...]:
        """The changes that avoid a CUDA OOM, where the user has not said what to change."""
        cause = self.job.first_failure.cause if self.job.first_failure else None
        if cause != "cuda_oom" or self.options.settings:
            return ()
        return smaller_batch(self.spec.args, self.script)

    @property
    def rests_on(self) -> Mapping[str, Any]:
        """The facts that the plan depends on."""
        job, at = self.job, self.checkpoint
        # Without its time, which wanders with what is measured of a node's clock, and its places: a node may be silent.
        checkpoint = [at.label, at.name, at.bytes] if at else None
        rests_on = {
            f"the attempt of {job.id}": [job.attempt, job.state],
            f"what {job.id} was asked for": self.spec,
            f"the checkpoint that {job.id} is resumed from": checkpoint,
        }
        code = {f"the code in {printable(job.code.directory)}": self.code.version.digest} if self.code else {}
        return rests_on | code

    @property
    def questions(self) -> tuple[Question, ...]:
        """Return what the user has to confirm, in this order."""
        large = question_of_size(self.options.code) if self.options.code else None
        again = _question_of_beginning(self.missing) if self.missing else None
        smaller = _question_of_batch(self.smaller_batch) if self.smaller_batch else None
        unfinished = self.job.state != JobState.SUCCEEDED
        agree = Question(id=RESUME, text="Resume?", refusal=NOBODY, hint=SAY_YES, default=unfinished)
        return tuple(filter(None, (large, again, smaller, agree)))


def _question_of_beginning(missing: InputError) -> Question:
    return Question(
        id=BEGIN_AGAIN,
        text="Start again from the beginning?",
        facts=(missing.message,),
        refusal=missing.message,
        hint=missing.hint,
    )


def _question_of_batch(changes: tuple[ArgumentChange, ...]) -> Question:
    return Question(
        id=SMALLER_BATCH,
        text="Retry with smaller batch size?",
        facts=tuple(f"  {change.text}" for change in changes),
        refusal=NOBODY,
        hint=SAY_YES,
        optional=True,
    )


@contextlib.asynccontextmanager
async def _survey(context: Context, options: ResumeOptions) -> AsyncIterator[_Survey]:
    """See what the next attempt of a job is made of. Changes nothing.

    New code is copied for the time of the context.

    Raises:
        InputError: there is no such job, it has not ended, or it cannot be resumed so.
    """
    job = await _ended(context, options.job)
    if options.code is None:
        require_code(context.store, job)
    spec = spec_with(context, job, options.directory, options.resume_with)
    async with _copied(context, job, spec, options.code) as code:
        controller, pool = await context.reach()
        views = (await controller.observe([])).views
        checkpoint, missing = None, None
        if options.step != 0:
            listing = await CheckpointStore(context.store, context.cluster, pool).find(job, spec, views)
            checkpoint, missing = _chosen(job, listing, options.step)
        script = code.script if code else script_of(context.store, job)
        found = _Survey(options, job, spec, script, checkpoint, missing, code)
        capacities = read_capacities(context.store, context.inventory, (), views)
        check_request(found.next_attempt().spec, context.inventory, capacities)
        if code and code.differences:
            await require_room(context.store, pool, context.cluster.nodes, job, code)
        yield found


async def _ended(context: Context, reference: str) -> Job:
    job = await context.settled(context.store.jobs.find(reference))
    if not accepts("resume", job):
        raise InputError(f"{title(job)} has not ended: it is {job.state.value}", f"see: ugro status {job.id}")
    return job


@contextlib.asynccontextmanager
async def _copied(
    context: Context, job: Job, spec: JobSpec, code: CodeDocument | None
) -> AsyncIterator[NewCode | None]:
    """Copy the code that the client brought, for the time of the context; it stays if a next attempt adopts it."""
    if code is None:
        yield None
        return
    selection = context.brought(code.directory).selection
    with contextlib.ExitStack() as stack:
        copy = new_code(context.store, job, spec, selection)
        yield await asyncio.to_thread(stack.enter_context, copy)


def _chosen(job: Job, listing: CheckpointListing, step: int | None) -> tuple[Checkpoint | None, InputError | None]:
    """Return the checkpoint to resume from, or why there is none, with what was not searched.

    Raises:
        InputError: there is none of that step.
    """
    try:
        return newest_whole(listing.checkpoints, step), None
    except InputError as error:
        unseen = listing.unseen(job)
        missed = f"; not searched: {some(list(map(printable, unseen)))}" if unseen else ""
        hint = f"look again once it can be searched: ugro checkpoints {job.id}" if unseen else error.hint
        missing = InputError(error.message + missed, hint)
        if step is not None:
            raise missing from None
        return None, missing


def _reopen(context: Context, found: _Survey, planned: NextAttempt) -> None:
    store, job, code = context.store, found.job, found.code
    if store.jobs.job(job.id).attempt != job.attempt:
        raise InputError(f"{job.id} was resumed meanwhile", f"see: ugro status {job.id}")
    again = adopt(store, planned.job, code) if code and code.differences else planned.job
    store.jobs.reopen(again, planned.spec, _said(found.checkpoint, code, planned.changes))
    store.decisions.withdraw(job.id)


def _said(checkpoint: Checkpoint | None, code: NewCode | None, changes: tuple[ArgumentChange, ...]) -> str:
    """The event of the new attempt."""
    where = f"from {checkpoint.name} ({checkpoint.where})" if checkpoint else "from the beginning"
    other = _code_changes(code)
    new = []
    if code and code.differences and other:
        new = [f"new code {(code.version.digest or '')[:DIGEST_SHOWN]} ({count_changes(other)})"]
    return "; ".join([where, *new, *(change.text for change in changes)])


def _code_changes(code: NewCode | None) -> CodeChanges | None:
    return CodeChanges(**dataclasses.asdict(code.differences)) if code else None
