"""Sweeps: the jobs that one launch makes for combinations of arguments."""

from __future__ import annotations

import asyncio
from math import prod
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from ugro.api_server.errors import RESPONSES
from ugro.api_server.routes.consent import ConsentBody, PlanAnswer, once, with_consent
from ugro.api_server.routes.launch import effects, require_absolute, require_launch
from ugro.api_server.state import Here, Who, document
from ugro.common.job_spec import JobSpec
from ugro.service.code import read_code
from ugro.service.schemas.launch import LaunchPlan, LaunchSweep, PlanLaunch
from ugro.service.schemas.sweeps import CompareSweep, SweepDocument
from ugro.service.web import noted

router = APIRouter(tags=["sweeps"], responses=RESPONSES)


class SweepBody(ConsentBody):
    """A sweep: `spec` as in a job.yaml, with `sweep`, and its code in the folder `workdir` of the master."""

    spec: JobSpec


@router.get("/sweeps/{sweep}", response_model=SweepDocument)
async def show(
    web: Here, sweep: str, metric: Annotated[str | None, Query(max_length=200)] = None, highest: bool | None = None
) -> Response:
    """Show a sweep: its jobs with their values, their states, and the series that they are compared by."""
    return await document(await web.ask(CompareSweep(sweep=sweep, metric=metric, highest=highest)))


@router.post("/sweeps", response_model=SweepDocument, responses={409: {"model": PlanAnswer}})
async def launch(web: Here, who: Who, request: Request, body: SweepBody) -> Response:
    """Submit the jobs of a sweep, once its plan has consent."""
    require_launch(web, who, "ugro launch --sweep")
    require_absolute(body.spec)

    async def planned() -> Response:
        async with web.context() as context:
            code = await asyncio.to_thread(read_code, body.spec)
            context.code[code.document.directory] = code
            plan = await web.ask(PlanLaunch(spec=body.spec, code=code.document), context)
            shown = effects(plan) | {"jobs": prod(map(len, body.spec.sweep.values()))}

            async def act(plan: LaunchPlan) -> Response:
                async with noted(context, f"sweep of {body.spec.name or body.spec.script}", str(who)):
                    return await document(await web.ask(LaunchSweep(plan=plan, answers=body.answers), context))

            return await with_consent(context, body, plan, shown, act)

    return await once(web, request, planned)
