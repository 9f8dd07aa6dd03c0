"""The login of a browser: a one-time code becomes a cookie."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from ugro import __version__
from ugro.api_server.errors import RESPONSES
from ugro.api_server.guard import Knock, cookie_name, error_body
from ugro.api_server.routes.consent import Body
from ugro.api_server.state import Here, Who
from ugro.api_server.tokens import COOKIE_DAYS
from ugro.service.schemas.web import Role
from ugro.service.web_door import WebDoor

router = APIRouter(tags=["session"], responses=RESPONSES)


class LoginBody(Body):
    """The code of a link that `ugro dashboard` printed, or a token."""

    code: Annotated[str, Field(min_length=1, max_length=200)]


class SessionBody(BaseModel):
    """The caller's session."""

    role: Role
    browser: bool
    """Whether it came with a cookie."""
    launch: bool
    """Whether it may launch jobs."""
    version: str


@router.get("/session", response_model=SessionBody)
async def session(web: Here, who: Who) -> SessionBody:
    """Return what the caller may do."""
    return _session(web, who.role, who.by_cookie)


@router.post("/login", response_model=SessionBody)
async def login(web: Here, request: Request, response: Response, body: LoginBody) -> SessionBody | Response:
    """Exchange a one-time code, or a token, for a cookie."""
    door, knock = web.serving.web, Knock.of(request.scope)
    role = (door.redeem(body.code) if isinstance(door, WebDoor) else None) or web.tokens.role_of(body.code)
    if role is None:
        refused = web.guard.wrong_token(knock.address)
        text = "the link was used, or is over" if refused.status == 401 else refused.message
        hint = "a new one: ugro dashboard" if refused.status == 401 else refused.hint
        return Response(error_body(refused.code, text, hint), refused.status, media_type="application/json")
    response.set_cookie(
        cookie_name(knock.host[1]),
        web.tokens.cookie(role),
        max_age=COOKIE_DAYS * 86400,
        path="/",
        httponly=True,
        samesite="strict",
        secure=knock.scheme == "https",
    )
    return _session(web, role, True)


def _session(web: Here, role: Role, browser: bool) -> SessionBody:
    may = role == Role.OPERATE and (web.serving.settings.launch or not browser)
    return SessionBody(role=role, browser=browser, launch=may, version=__version__)
