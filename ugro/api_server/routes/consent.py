"""Acts that need consent: the first call is answered with what would happen, the second one does it."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from ugro.api_server.errors import answer_to
from ugro.api_server.state import Web
from ugro.common.errors import InputError, UgroError
from ugro.service.context import Context
from ugro.service.plan import Fingerprint, Plan, PlanChanged
from ugro.service.schemas.base import ErrorDocument

P = TypeVar("P", bound=Plan)

KEY = "idempotency-key"
LONGEST_KEY = 200


class Body(BaseModel):
    """Base of what comes with an act."""

    model_config = ConfigDict(extra="forbid")


class JobBody(Body):
    """An act about a job: `attempt` is the one that the asker saw; with another one the act is refused."""

    attempt: int | None = Field(default=None, ge=1)


class ConsentBody(JobBody):
    """An act that needs consent. `answers` and `fingerprint` are those of the plan that was shown; without, it is only
    planned.
    """

    answers: dict[str, bool] = Field(default_factory=dict)
    fingerprint: Fingerprint | None = None


class PlanBody(BaseModel):
    """A plan, as an answer: what will change, the questions, and what the second call names it by."""

    effects: dict[str, Any]
    questions: list[dict[str, Any]]
    fingerprint: Fingerprint


class PlanAnswer(BaseModel):
    """The answer to an act that needs consent: `changed` names what is no longer as it was when it was planned."""

    error: ErrorDocument
    plan: PlanBody | None = None
    changed: list[str] = Field(default_factory=list)


class ConsentNeeded(UgroError):
    """Nothing was done so far: this is what would be."""

    code = "consent_needed"


NEEDED = ConsentNeeded(
    "this needs consent; nothing was done", "send it again with `answers` to the questions and this `fingerprint`"
)


async def with_consent(
    context: Context, body: ConsentBody, plan: P, effects: dict[str, Any], act: Callable[[P], Awaitable[Response]]
) -> Response:
    """Answer 409 with the plan and its effects, or act on it where its fingerprint came along.

    What is shown of the plan is not sent back, so secrets are masked in it.
    """
    plain = plan.as_json()
    shown = {"effects": effects, "questions": plain["questions"], "fingerprint": plain["fingerprint"]}
    shown = context.store.secrets.masker.document(shown)
    if body.fingerprint is None:
        return answer_to(NEEDED, plan=shown)
    try:
        return await act(replace(plan, fingerprint=body.fingerprint))
    except PlanChanged as error:
        return answer_to(error, plan=shown, changed=list(error.changed))


async def once(web: Web, request: Request, act: Callable[[], Awaitable[Response]]) -> Response:
    """Act, once for each Idempotency-Key.

    Raises:
        InputError: the key is too long, or that of another act.
    """
    key = request.headers.get(KEY)
    if key is None:
        return await act()
    if not 0 < len(key) <= LONGEST_KEY:
        raise InputError(f"an Idempotency-Key has 1 to {LONGEST_KEY} characters")
    about = f"{request.method} {request.url.path} {hashlib.sha256(await request.body()).hexdigest()}"
    return await web.acts.once(key, about, act)
