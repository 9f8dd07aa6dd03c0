"""The application on HTTP: the service functions under `/api/v1/`, the live views, `/metrics`, and the page."""

from __future__ import annotations

import logging
import socket
from http import HTTPStatus

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ugro import __version__
from ugro.api_server.errors import answer_to, invalid, unexpected
from ugro.api_server.guard import Application, Guard, Receive, Scope, Send, error_body
from ugro.api_server.pages import Pages
from ugro.api_server.prometheus import Prometheus
from ugro.api_server.routes import API, ROUTERS
from ugro.api_server.state import Web, only_known_parameters
from ugro.api_server.tokens import Tokens
from ugro.common.errors import UgroError
from ugro.service.serving import Serving

log = logging.getLogger(__name__)


def create_web(serving: Serving, tokens: Tokens, host: str) -> Guard:
    """Return the application behind its guard. `host` is the name or address that it listens at.

    Raises:
        StateError: a file of the page is missing.
    """
    pages = Pages()
    app = FastAPI(
        title="UGRO",
        version=__version__,
        description="What `ugro` prints with `--json`, over HTTP. See docs/api.md.",
        docs_url=None,
        redoc_url=None,
        openapi_url=f"{API}/openapi.json",
    )
    names = [host] if host not in ("0.0.0.0", "::", "") else [socket.gethostname()]
    setting = f"`dashboard: {{hosts: [NAME]}}` in {serving.inventory}"
    guard = Guard(_Boundary(app), tokens, lambda: [*names, *serving.settings.hosts], setting, pages.paths)
    app.state.web = web = Web(serving, tokens, guard)
    for router in ROUTERS:
        app.include_router(router, prefix=API, dependencies=[Depends(only_known_parameters)])
    app.include_router(Prometheus(web).router)
    app.include_router(pages.router)
    _answer_errors(app)
    return guard


def _answer_errors(app: FastAPI) -> None:
    """Have every error answered as JSON, without a traceback."""

    @app.exception_handler(UgroError)
    async def known(_: Request, error: UgroError) -> Response:
        return answer_to(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        return invalid(error)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        status = HTTPStatus(error.status_code)
        message = f"{status.phrase.lower()}: {request.method} {request.url.path[:200]}"
        body = error_body(status.name.lower(), message, f"the routes are in {API}/openapi.json")
        return Response(body, status, dict(error.headers or {}), "application/json")

    @app.exception_handler(Exception)
    async def bug(_: Request, error: Exception) -> Response:
        return unexpected(error)


class _Boundary:
    """Logs what no route expected, once it was answered."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception:
            log.exception("%s %s", scope["type"], scope.get("path"))
