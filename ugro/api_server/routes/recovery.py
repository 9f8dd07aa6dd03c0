"""What is proposed after failures, and the next attempt of a job."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from ugro.api_server.errors import RESPONSES
from ugro.api_server.routes.consent import ConsentBody, JobBody, PlanAnswer, once, with_consent
from ugro.api_server.state import Here, Who, document
from ugro.service.schemas.jobs import CheckpointDocument, JobDocument
from ugro.service.schemas.proposals import (
    Approve,
    ApprovePlan,
    DeniedDocument,
    Deny,
    PlanApprove,
    ProposalDocument,
    Proposals,
)
from ugro.service.schemas.resume import PlanResume, Resume, ResumedDocument, ResumeOptions, ResumePlan
from ugro.service.web import noted, require_attempt, require_proposal

router = APIRouter(tags=["recovery"], responses=RESPONSES)

WITH_PLAN: dict[int | str, dict[str, Any]] = {409: {"model": PlanAnswer}}


@router.get("/proposals", response_model=list[ProposalDocument])
async def proposals(web: Here) -> Response:
    """List what is proposed and waits for an answer."""
    return await document((await web.ask(Proposals())).answer)


class ResumeBody(ConsentBody):
    """How a job is resumed; what is not given stays as it was (`ugro resume --help`)."""

    step: int | None = Field(default=None, ge=0)
    settings: dict[str, str] = Field(default_factory=dict)
    nodes: str | None = None
    time_limit: float | None = Field(default=None, gt=0)


@router.post("/jobs/{job}/resume", response_model=ResumedDocument, responses=WITH_PLAN)
async def resume(web: Here, who: Who, request: Request, job: str, body: ResumeBody | None = None) -> Response:
    """Queue a job that ended for another attempt, once its plan has consent."""
    given = body or ResumeBody()

    async def planned() -> Response:
        async with web.context() as context:
            job_id = require_attempt(context, job, given.attempt)
            options = ResumeOptions(
                job=job_id,
                step=given.step,
                settings=given.settings,
                nodes=given.nodes,
                time_limit=given.time_limit,
            )
            plan = await web.ask(PlanResume(options=options), context)

            async def act(plan: ResumePlan) -> Response:
                async with noted(context, "resume", str(who), job_id):
                    return await document((await web.ask(Resume(plan=plan, answers=given.answers), context)).answer)

            return await with_consent(context, given, plan, effects_of_resume(plan), act)

    return await once(web, request, planned)


@router.post("/jobs/{job}/approve", response_model=JobDocument, responses=WITH_PLAN)
async def approve(web: Here, who: Who, request: Request, job: str, body: ConsentBody | None = None) -> Response:
    """Do what is proposed about a job, once its plan has consent. `attempt` is that of the proposal."""
    given = body or ConsentBody()

    async def planned() -> Response:
        async with web.context() as context:
            job_id = require_attempt(context, job, None)
            require_proposal(context, job_id, given.attempt)
            plan = await web.ask(PlanApprove(job=job_id), context)

            async def act(plan: ApprovePlan) -> Response:
                async with noted(context, "approve", str(who), job_id):
                    return await document((await web.ask(Approve(plan=plan, answers=given.answers), context)).job)

            return await with_consent(context, given, plan, effects_of_approve(plan), act)

    return await once(web, request, planned)


@router.post("/jobs/{job}/deny", response_model=DeniedDocument)
async def deny(web: Here, who: Who, request: Request, job: str, body: JobBody | None = None) -> Response:
    """Leave a job as it is. `attempt` is that of the proposal; another one is not turned down."""

    async def act() -> Response:
        async with web.context() as context:
            job_id = require_attempt(context, job, None)
            require_proposal(context, job_id, body.attempt if body else None)
            async with noted(context, "deny", str(who), job_id):
                return await document((await web.ask(Deny(job=job_id), context)).answer)

    return await once(web, request, act)


def effects_of_resume(plan: ResumePlan) -> dict[str, Any]:
    """Return what a resume does, for people to agree to."""
    changed = plan.code_changes
    return {
        "job": plan.job.id,
        "attempt": plan.job.attempt + 1,
        "begins": _begins(plan.checkpoint),
        "changes": [change.text for change in plan.changes],
        "smaller_batch": [change.text for change in plan.smaller_batch],
        "code": [*changed.changed, *changed.added, *changed.removed] if changed else None,
        "time_limit": plan.options.time_limit,
    }


def effects_of_approve(plan: ApprovePlan) -> dict[str, Any]:
    """Return what a proposal does, for people to agree to."""
    proposal = plan.proposal
    return {
        "job": proposal.job,
        "attempt": proposal.attempt + 1,
        "what": proposal.what,
        "why": proposal.text,
        "begins": _begins(proposal.checkpoint),
        "changes": [change.text for change in proposal.changes],
        "nodes": list(proposal.nodes),
        "ends_it_first": proposal.ends,
    }


def _begins(checkpoint: CheckpointDocument | None) -> str:
    return f"from {checkpoint.where} ({checkpoint.name})" if checkpoint else "from the beginning"
