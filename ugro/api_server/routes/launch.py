"""New jobs, and changes of what waiting ones are asked for."""

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
from ugro.service.schemas.again import (
    Edit,
    EditedDocument,
    EditOptions,
    EditPlan,
    PlanEdit,
    PlanRerun,
    Rerun,
    RerunOptions,
    RerunPlan,
    SpecChanges,
)
from ugro.service.schemas.jobs import JobDocument
from ugro.service.schemas.launch import Launch, LaunchPlan, PlanLaunch
from ugro.service.web import noted, require_attempt

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
    require_launch(web, who, "ugro launch")

    async def planned() -> Response:
        async with web.context() as context:
            spec, code = await asyncio.to_thread(_read, context, body)
            context.code[code.document.directory] = code
            plan = await web.ask(PlanLaunch(spec=spec, code=code.document), context)

            async def act(plan: LaunchPlan) -> Response:
                async with noted(context, f"launch of {spec.name or spec.script}", str(who)):
                    return await document(await web.ask(Launch(plan=plan, answers=body.answers), context))

            return await with_consent(context, body, plan, effects(plan), act)

    return await once(web, request, planned)


def require_launch(web: Here, who: Who, command: str) -> None:
    """Check that who asks may say what runs.

    Raises:
        Forbidden: a browser may not, unless the inventory allows it.
    """
    if who.by_cookie and not web.serving.settings.launch:
        hint = f"allow it by `dashboard: {{launch: true}}` in {web.serving.inventory}, or: {command}"
        raise Forbidden("a browser may not launch jobs here", hint)


class ChangesBody(ConsentBody):
    """How a job differs: `fields` as in a job.yaml, `settings` of the script's arguments by name, or all `args`."""

    fields: dict[str, Any] = Field(default_factory=dict)
    settings: dict[str, str] = Field(default_factory=dict)
    args: tuple[str, ...] | None = None

    def changes(self) -> SpecChanges:
        """Return what it changes."""
        return SpecChanges(fields=self.fields, settings=self.settings, args=self.args)


@router.post("/jobs/{job}/rerun", response_model=JobDocument, responses={409: {"model": PlanAnswer}})
async def rerun(web: Here, who: Who, request: Request, job: str, body: ChangesBody | None = None) -> Response:
    """Submit a new job like another, with the code that this one ran, once its plan has consent."""
    given = body or ChangesBody()
    require_launch(web, who, "ugro rerun")

    async def planned() -> Response:
        async with web.context() as context:
            job_id = require_attempt(context, job, given.attempt)
            options = RerunOptions(job=job_id, changes=given.changes())
            plan = await web.ask(PlanRerun(options=options), context)

            async def act(plan: RerunPlan) -> Response:
                async with noted(context, f"rerun of {job_id}", str(who)):
                    return await document(await web.ask(Rerun(plan=plan, answers=given.answers), context))

            return await with_consent(context, given, plan, effects_of_rerun(plan), act)

    return await once(web, request, planned)


@router.patch("/jobs/{job}", response_model=EditedDocument, responses={409: {"model": PlanAnswer}})
async def edit(web: Here, who: Who, request: Request, job: str, body: ChangesBody) -> Response:
    """Change a job that waits, once its plan has consent."""
    require_launch(web, who, "ugro edit")

    async def planned() -> Response:
        async with web.context() as context:
            job_id = require_attempt(context, job, body.attempt)
            plan = await web.ask(PlanEdit(options=EditOptions(job=job_id, changes=body.changes())), context)

            async def act(plan: EditPlan) -> Response:
                async with noted(context, "edit", str(who), job_id):
                    return await document(await web.ask(Edit(plan=plan, answers=body.answers), context))

            return await with_consent(context, body, plan, effects_of_edit(plan), act)

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
    require_absolute(spec)
    return spec, read_code(spec)


def require_absolute(spec: JobSpec) -> None:
    """Check that a spec says where its code is without a working directory of the caller.

    Raises:
        InputError: it does not.
    """
    if not Path(spec.workdir).is_absolute():
        raise InputError("`workdir` is relative", "name the folder on the master from its root: /home/…")


def effects_of_rerun(plan: RerunPlan) -> dict[str, Any]:
    """Return what a rerun does, for people to agree to."""
    return {
        "like": plan.job.id,
        "runs": " ".join(plan.draft.spec.command),
        "name": plan.draft.spec.name,
        "changes": [one.as_json() for one in plan.differences],
        "memory_mib_of_each_gpu": plan.predicted_mib,
        "takes_over": [one.node for one in plan.foreign],
        "note": plan.draft.note,
    }


def effects_of_edit(plan: EditPlan) -> dict[str, Any]:
    """Return what an edit changes, for people to agree to."""
    return {"job": plan.job.id, "changes": [one.as_json() for one in plan.differences]}


def effects(plan: LaunchPlan) -> dict[str, Any]:
    """Return what a launch does, for people to agree to."""
    spec, code = plan.draft.spec, plan.code
    return {
        "runs": " ".join(spec.command),
        "launcher": spec.launcher,
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
