"""New jobs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from ugro.api_server.errors import RESPONSES, Forbidden
from ugro.api_server.routes.consent import ConsentBody, PlanAnswer, once, with_consent
from ugro.api_server.state import Here, Who, document
from ugro.common.errors import InputError
from ugro.common.job_spec import JobSpec
from ugro.service.again import spec_like
from ugro.service.code import WorkingCode, read_code
from ugro.service.context import Context
from ugro.service.schemas.jobs import JobDocument
from ugro.service.schemas.launch import Launch, LaunchPlan, PlanLaunch
from ugro.service.web import noted

router = APIRouter(tags=["jobs"], responses=RESPONSES)


class LaunchBody(ConsentBody):
    """A new job: `spec`, as in a job.yaml, with its code in the folder `workdir` of the master; or one `like` another,
    with the code that this one ran, and another name or other `arguments` (words as in a shell).
    """

    spec: JobSpec | None = None
    like: Annotated[str | None, Field(max_length=200)] = None
    name: Annotated[str | None, Field(max_length=200)] = None
    arguments: Annotated[str | None, Field(max_length=100_000)] = None


@router.post("/jobs", response_model=JobDocument, responses={409: {"model": PlanAnswer}})
async def launch(web: Here, who: Who, request: Request, body: LaunchBody) -> Response:
    """Submit a job, once its plan has consent."""
    if who.by_cookie and not web.serving.settings.launch:
        hint = f"allow it by `dashboard: {{launch: true}}` in {web.serving.inventory}, or: ugro launch"
        raise Forbidden("a browser may not launch jobs here", hint)

    async def planned() -> Response:
        async with web.context() as context:
            spec, code = await asyncio.to_thread(_read, context, body)
            context.code[code.document.directory] = code
            plan = await web.ask(PlanLaunch(spec=spec, code=code.document), context)

            async def act(plan: LaunchPlan) -> Response:
                async with noted(context, f"launch of {spec.name or spec.script}", str(who)):
                    return await document(await web.ask(Launch(plan=plan, answers=body.answers), context))

            return await with_consent(body, plan, effects(plan), act)

    return await once(web, request, planned)


def _read(context: Context, body: LaunchBody) -> tuple[JobSpec, WorkingCode]:
    """Return the spec and the code of a new job.

    Raises:
        InputError: there is no such job or folder, or it is not said which.
    """
    if (body.like is None) == (body.spec is None):
        raise InputError("either a `spec` or a job that it is `like` is expected")
    if body.like is not None:
        spec = spec_like(context.store, body.like, body.name, body.arguments)
    else:
        assert body.spec is not None
        spec = body.spec
    if not Path(spec.workdir).is_absolute():
        raise InputError("`workdir` is relative", "name the folder on the master from its root: /home/…")
    return spec, read_code(spec)


def effects(plan: LaunchPlan) -> dict[str, Any]:
    """Return what a launch does, for people to agree to."""
    spec, code = plan.draft.spec, plan.code
    return {
        "runs": " ".join(spec.command),
        "name": spec.name,
        "nodes": spec.nodes if spec.nodes is None or isinstance(spec.nodes, int) else list(spec.nodes),
        "gpus": spec.gpus,
        "gpus_per_node": spec.gpus_per_node,
        "share": spec.share,
        "code": code.directory,
        "code_bytes": code.size_bytes,
        "memory_mib_of_each_gpu": plan.predicted_mib,
        "takes_over": [one.node for one in plan.foreign],
        "note": plan.draft.note,
    }
