"""Jobs: lists, one job, its end, and its place in the queue."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from ugro.api_server.errors import RESPONSES
from ugro.api_server.routes.consent import JobBody, once
from ugro.api_server.routes.moments import Past
from ugro.api_server.state import Here, Who, document
from ugro.common.job_spec import PRIORITIES
from ugro.common.models.job_state import JobState
from ugro.service.schemas.base import Document
from ugro.service.schemas.checkpoints import Checkpoints, ListedCheckpoint, SaveCheckpoint, SaveDocument
from ugro.service.schemas.ending import Cancel
from ugro.service.schemas.explain import Explain, FailureDocument
from ugro.service.schemas.jobs import EventDocument, JobDocument
from ugro.service.schemas.queries import Events, ListedJob, ShowJob, Status, StatusDocument
from ugro.service.schemas.queue import Hold, ReasonsDocument, Release, Reprioritize, Why
from ugro.service.web import noted, require_attempt

router = APIRouter(tags=["jobs"], responses=RESPONSES)

LONGEST_WAIT = 600.0
"""Seconds that a caller may wait for a checkpoint."""


# --- what there is ---------------------------------------------------------------------------------------------------


@router.get("/status", response_model=StatusDocument)
async def status(web: Here, everything: Annotated[bool, Query(alias="all")] = False) -> Response:
    """Show the cluster and its jobs: those that have not ended and the last that did, or all of them."""
    return await document((await web.ask(Status(everything=everything))).answer)


@router.get("/jobs", response_model=list[ListedJob])
async def jobs(
    web: Here,
    everything: Annotated[bool, Query(alias="all")] = False,
    state: Annotated[tuple[JobState, ...], Query()] = (),
    name: Annotated[str | None, Query(max_length=200, description="A pattern with * and ?")] = None,
    since: Past = None,
) -> Response:
    """List jobs: those that have not ended and the last that did, or those that are asked for."""
    found = await web.ask(Status(everything=everything, states=state, pattern=name, since=since))
    return await document(found.answer.jobs)


@router.get("/jobs/{job}", response_model=JobDocument)
async def show(web: Here, job: str) -> Response:
    """Show one job as its nodes show it now."""
    return await document((await web.ask(ShowJob(job=job))).answer)


@router.get("/jobs/{job}/events", response_model=list[EventDocument])
async def events(web: Here, job: str, since: Past = None) -> Response:
    """Show the timeline of a job."""
    return await document((await web.ask(Events(job=job, since=since))).answer)


@router.get("/jobs/{job}/why", response_model=ReasonsDocument)
async def why(web: Here, job: str) -> Response:
    """Explain why a job waits, or why it runs where it does."""
    return await document((await web.ask(Why(job=job))).answer)


@router.get("/jobs/{job}/explain", response_model=FailureDocument)
async def explain(web: Here, job: str, attempt: Annotated[int | None, Query(ge=1)] = None) -> Response:
    """Explain why a job failed, or an earlier attempt of it."""
    return await document((await web.ask(Explain(job=job, attempt=attempt))).answer)


@router.get("/jobs/{job}/checkpoints", response_model=list[ListedCheckpoint])
async def checkpoints(web: Here, job: str) -> Response:
    """List the checkpoints of a job."""
    return await document((await web.ask(Checkpoints(job=job))).checkpoints)


# --- what changes them -----------------------------------------------------------------------------------------------


class CancelBody(JobBody):
    """How a job is ended: with `abandon`, unreachable nodes are not waited for."""

    abandon: bool = False


class HoldBody(JobBody):
    """Why a job is held."""

    reason: Annotated[str, Field(max_length=500)] = ""


class PriorityBody(JobBody):
    """The new priority."""

    priority: Annotated[int, Field(ge=PRIORITIES[0], le=PRIORITIES[1])]


class CheckpointBody(JobBody):
    """How many seconds to wait for the checkpoint."""

    wait: Annotated[float, Field(ge=0, le=LONGEST_WAIT)] = 120.0


async def _act(
    web: Here,
    who: Who,
    request: Request,
    job: str,
    body: JobBody | None,
    what: str,
    act: Callable[[str], Awaitable[Document]],
) -> Response:
    """Change a job that is as its asker saw it, once, with who did it in its timeline."""

    async def checked() -> Response:
        async with web.context() as context:
            job_id = require_attempt(context, job, body.attempt if body else None)
            async with noted(context, what, str(who), job_id):
                return await document(await act(job_id))

    return await once(web, request, checked)


@router.post("/jobs/{job}/cancel", response_model=JobDocument)
async def cancel(web: Here, who: Who, request: Request, job: str, body: CancelBody | None = None) -> Response:
    """Have a job ended. The answer comes before its end."""
    given = body or CancelBody()
    words = "cancel, without waiting for unreachable nodes" if given.abandon else "cancel"

    async def act(job_id: str) -> Document:
        return await web.ask(Cancel(job=job_id, abandon=given.abandon))

    return await _act(web, who, request, job, given, words, act)


@router.post("/jobs/{job}/hold", response_model=JobDocument)
async def hold(web: Here, who: Who, request: Request, job: str, body: HoldBody | None = None) -> Response:
    """Keep a queued job from starting."""
    given = body or HoldBody()

    async def act(job_id: str) -> Document:
        return await web.ask(Hold(job=job_id, reason=given.reason))

    return await _act(web, who, request, job, given, "hold", act)


@router.post("/jobs/{job}/release", response_model=JobDocument)
async def release(web: Here, who: Who, request: Request, job: str, body: JobBody | None = None) -> Response:
    """Let a held job take its turn again."""

    async def act(job_id: str) -> Document:
        return (await web.ask(Release(job=job_id))).job

    return await _act(web, who, request, job, body, "release", act)


@router.post("/jobs/{job}/priority", response_model=JobDocument)
async def priority(web: Here, who: Who, request: Request, job: str, body: PriorityBody) -> Response:
    """Give a waiting job another priority."""

    async def act(job_id: str) -> Document:
        return await web.ask(Reprioritize(job=job_id, priority=body.priority))

    return await _act(web, who, request, job, body, f"priority {body.priority}", act)


@router.post("/jobs/{job}/checkpoint", response_model=SaveDocument)
async def checkpoint(web: Here, who: Who, request: Request, job: str, body: CheckpointBody | None = None) -> Response:
    """Ask a running job to save now, and wait for a new complete checkpoint."""
    given = body or CheckpointBody()

    async def act(job_id: str) -> Document:
        return (await web.ask(SaveCheckpoint(job=job_id, patience=given.wait))).answer

    return await _act(web, who, request, job, given, "checkpoint", act)
