"""Errors as answers: `{"error": {"code", "message", "hint"}}` with the HTTP status that says what kind it is."""

from __future__ import annotations

from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.responses import Response

from ugro.api_server.guard import error_body
from ugro.common.errors import (
    Declined,
    InputError,
    InternalError,
    NodeError,
    NoSuchJob,
    NoSuchNode,
    StateError,
    UgroError,
)
from ugro.common.mistakes import without_values
from ugro.service.plan import PlanChanged
from ugro.service.schemas.base import ErrorDocument
from ugro.service.web import Stale

JSON = "application/json"

STATUS: tuple[tuple[type[UgroError], int], ...] = (
    (NoSuchJob, 404),
    (NoSuchNode, 404),
    (PlanChanged, 409),
    (Stale, 409),
    (Declined, 409),
    (InputError, 400),
    (NodeError, 502),
    (StateError, 503),
    (InternalError, 500),
)
"""The status of each kind of error; the first kind that fits counts."""


class ErrorBody(BaseModel):
    """An error."""

    error: ErrorDocument


RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": words}
    for status, words in {
        400: "What was asked for cannot be carried out",
        401: "No token, or a wrong one",
        403: "Not with this role, Host or Origin",
        404: "No such job or node",
        409: "A plan that needs consent, or what was seen is no longer so",
        422: "The request is malformed",
        429: "Too many wrong tokens",
        502: "A node is unreachable or not trusted",
        503: "The state directory cannot be read or written",
    }.items()
}
"""What every route may answer instead."""


class Forbidden(UgroError):
    """The caller's role allows it in general, and a setting does not."""

    code = "forbidden"


def answer_to(error: UgroError, **more: Any) -> Response:
    """Return the answer to a request that ended with an error."""
    status = next((status for kind, status in STATUS if isinstance(error, kind)), 409)
    if isinstance(error, Forbidden):
        status = 403
    return Response(error_body(error.code, error.message, error.hint, **more), status, media_type=JSON)


def invalid(error: RequestValidationError) -> Response:
    """Return the answer to a malformed request: it names the first mistake."""
    body = error_body("malformed", without_values(error.errors())[:500], "see /api/v1/openapi.json")
    return Response(body, 422, media_type=JSON)


def unexpected(error: Exception) -> Response:
    """Return the answer to a request that met a bug; its traceback is in the log."""
    bug = InternalError("this request", type(error).__name__)
    return Response(error_body(bug.code, bug.message, bug.hint), 500, media_type=JSON)
