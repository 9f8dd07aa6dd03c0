"""What UGRO proposes about jobs in trouble: list it, do it, or leave the job as it is."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from ugro.common.errors import InputError, StateLocked
from ugro.common.models.event_kind import EventKind
from ugro.common.models.job import Job
from ugro.common.models.proposal import Proposal
from ugro.control_plane.failure_handler.handler import FailureHandler, proposal_in_words
from ugro.control_plane.failure_handler.recovery.lost_work import resume_command
from ugro.control_plane.metadata_store.records import pass_over
from ugro.service.context import Context
from ugro.service.observed import observe
from ugro.service.plan import Fingerprint, Question, consented
from ugro.service.schemas.jobs import CheckpointDocument
from ugro.service.schemas.proposals import (
    APPROVE,
    Approve,
    ApprovePlan,
    DeniedDocument,
    Deny,
    DenyAnswer,
    Offer,
    Offered,
    PlanApprove,
    ProposalDocument,
    Proposals,
    ProposalsAnswer,
)
from ugro.service.schemas.starting import Started
from ugro.service.starting import gpus_come_free, started
from ugro.service.words import title

ENDS_WITHIN, TICK_EVERY = 60.0, 1.0
"""Seconds that a job may take to be ended for its next attempt, and between two ticks that see to it."""


async def proposals(context: Context, _: Proposals) -> ProposalsAnswer:
    """List what is proposed and waits for an answer."""
    found = list(context.store.decisions.unanswered().values())
    running = [job for job in context.store.jobs.live(pass_over) if job.state.on_nodes]
    seen = (await observe(context, running))[1] if running else []
    return ProposalsAnswer(
        answer=tuple(map(_document, found)),
        running=tuple(context.document(job) for job in seen),
        recorded={job.id: job.state for job in running},
    )


async def plan_approve(context: Context, request: PlanApprove) -> ApprovePlan:
    """Plan to do what is proposed about a job.

    Raises:
        InputError: there is no such job, or nothing is proposed about it.
    """
    return _plan(context, await _proposal(context, request.job))


async def offer(context: Context, request: Offer) -> Offered:
    """Plan to do what is proposed about a job that just ended, if anything is.

    Raises:
        InputError: there is no such job.
    """
    job = context.store.jobs.find(request.job)
    if job.id in context.store.decisions.undecided():  # another process's tick just saw the failure
        await context.tick()
    proposal = context.store.decisions.proposals().get(job.id)
    return Offered(plan=_plan(context, proposal) if proposal else None)


async def approve(context: Context, request: Approve) -> Started:
    """Queue a job again as it was proposed, ended first where it has to be, and start it if there is room.

    Raises:
        PlanChanged: the proposal or the job is not as it was. InputError: the question has no answer, or the job
            cannot be resumed. StateError, NodeError: the checkpoint cannot be brought here.
    """
    job_id = request.plan.proposal.job
    request.plan.fingerprint.require(_parts(context, job_id))
    consented(request.plan.questions, request.answers)
    proposal, before = context.store.decisions.proposals()[job_id], context.store.jobs.job(job_id)
    handler = FailureHandler(context.store, context.cluster, (await context.reach()).pool)
    if proposal.ends:
        await context.store.write(lambda: handler.end(proposal))
        await _queued_again(context, before)
    else:
        await handler.approve(proposal, context.tell_sent)
    await gpus_come_free(context, before, proposal.nodes or before.nodes)
    return started(context, await context.started(before.id))


async def deny(context: Context, request: Deny) -> DenyAnswer:
    """Leave a job as it is. It can still be resumed later.

    Raises:
        InputError: there is no such job, nothing is proposed about it, or that was answered meanwhile.
    """
    proposal = await _proposal(context, request.job)

    def record() -> None:
        if context.store.decisions.proposals().get(proposal.job) != proposal:
            raise InputError(
                f"the proposal about {proposal.job} was answered already", f"see: ugro status {proposal.job}"
            )
        context.store.decisions.withdraw(proposal.job)
        context.store.timeline.note("", EventKind.DENIED, proposal_in_words(proposal), proposal.job)

    await context.store.write(record)
    job = context.store.jobs.job(proposal.job)
    later = resume_command(job, proposal.changes, proposal.cause, not proposal.checkpoint)
    return DenyAnswer(answer=DeniedDocument(job=job.id), later=None if proposal.ends else later)


async def _proposal(context: Context, reference: str) -> Proposal:
    job = context.store.jobs.find(reference)
    if job.id not in context.store.decisions.proposals():
        job = await context.settled(job)
    proposal = context.store.decisions.proposals().get(job.id)
    if proposal is None or proposal.approved:
        raise InputError(f"nothing is proposed about {title(job)}", "`ugro proposals` lists what is")
    return proposal


def _document(proposal: Proposal) -> ProposalDocument:
    known = dict(proposal) | {"what": proposal_in_words(proposal)}
    known["checkpoint"] = CheckpointDocument.of(proposal.checkpoint) if proposal.checkpoint else None
    del known["approved"]
    return ProposalDocument(**known)


def _plan(context: Context, proposal: Proposal) -> ApprovePlan:
    job = context.store.jobs.job(proposal.job)
    question = Question(
        id=APPROVE,
        text=_question(job, proposal),
        refusal=f"what is proposed about {title(job)} needs an answer: {proposal_in_words(proposal)}",
        hint=f"ugro approve {job.id}, or ugro deny {job.id}",
    )
    return ApprovePlan(
        questions=(question,),
        fingerprint=Fingerprint.of(_parts(context, job.id)),
        proposal=_document(proposal),
        job=context.document(job),
    )


def _parts(context: Context, job_id: str) -> dict[str, Any]:
    """Return what an approval depends on."""
    proposal, attempt = context.store.decisions.proposals().get(job_id), context.store.jobs.job(job_id).attempt
    return {f"the proposal about {job_id}": proposal, f"the attempt of {job_id}": attempt}


def _question(job: Job, proposal: Proposal) -> str:
    fewer = [node for node in job.nodes if node not in proposal.nodes] if proposal.nodes else []
    how = [*(["with smaller batch size"] if proposal.changes else []), *(f"without {node}" for node in fewer)]
    return " ".join(["Retry", *how]) + "?"


async def _queued_again(context: Context, before: Job) -> None:
    """Wait until a job that is to be ended has its next attempt, whichever process takes the steps to it.

    Raises:
        InputError: it cannot be resumed, or takes long to end.
    """
    end = time.monotonic() + ENDS_WITHIN
    while True:
        with contextlib.suppress(StateLocked):  # its tick does the same
            await context.tick(before.id, patience=TICK_EVERY)
        waits = (
            before.id in context.store.decisions.proposals()
        )  # read first: the next attempt is recorded before it goes
        job = context.store.jobs.job(before.id)
        if job.attempt != before.attempt:
            return
        if not waits:
            raise InputError(f"{job.id} has {job.state.value} and could not resume", f"see why: ugro events {job.id}")
        if time.monotonic() > end:
            hint = f"it resumes as approved once it has ended: ugro events {job.id}"
            raise InputError(f"{job.id} is still {job.state.value}", hint)
        await asyncio.sleep(TICK_EVERY)
