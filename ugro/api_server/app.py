"""The application: service functions over HTTP, for the command line on the socket of the state directory."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from starlette.requests import Request as HttpRequest

from ugro import __version__
from ugro.common.errors import UgroError
from ugro.service.code import WorkingCode
from ugro.service.context import Context
from ugro.service.local import function_of
from ugro.service.schemas.base import Notice, Request, Stream
from ugro.service.upload import forget, receive
from ugro.service.wire import SESSION, error_fields, line, requests

NDJSON = "application/x-ndjson"

KEEP_CODE = 3600.0
"""Seconds after which code is removed whose session never said that it ended."""


class Sessions:
    """The code that clients brought, by session and directory."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._code: dict[str, dict[str, WorkingCode]] = {}
        self._since: dict[str, float] = {}
        forget(home)

    def code_of(self, session: str) -> dict[str, WorkingCode]:
        """Return what a session brought."""
        return self._code.get(session, {})

    def keep(self, session: str, code: WorkingCode) -> None:
        """Keep what a session brought, and let go of what was forgotten long ago."""
        self._since[session] = time.monotonic()
        for old in [one for one, since in self._since.items() if time.monotonic() - since > KEEP_CODE]:
            self.end(old)
        kept = self._code.setdefault(session, {})
        if before := kept.get(str(code.directory)):
            forget(self._home, before)
        kept[str(code.directory)] = code

    def end(self, session: str) -> None:
        """Remove what a session brought."""
        self._since.pop(session, None)
        for code in self._code.pop(session, {}).values():
            forget(self._home, code)


def create_app(home: Path, contexts: Callable[[], Context], inventory: Callable[[], str]) -> FastAPI:
    """Return the application.

    `contexts` makes what one call acts on, on the state directory `home`; `inventory` is the path of the one in use.
    """
    app, sessions = FastAPI(title="UGRO", version=__version__, docs_url=None, redoc_url=None), Sessions(home)

    @app.get("/hello")
    async def hello() -> dict[str, str]:
        return {"version": __version__, "inventory": inventory()}

    @app.post("/call/{function}")
    async def call(function: str, http: HttpRequest) -> StreamingResponse:
        if (kind := requests().get(function)) is None or (issubclass(kind, Request) and kind.here):
            raise HTTPException(404, f"no function is called {function!r}")
        try:
            request = kind.model_validate(json.loads(await http.body()))
        except (ValidationError, ValueError) as error:
            raise HTTPException(422, str(error)) from None
        context = contexts()
        context.code = sessions.code_of(http.headers.get(SESSION, ""))
        return StreamingResponse(_answer(context, request), media_type=NDJSON)

    @app.post("/code")
    async def code(http: HttpRequest) -> dict[str, Any]:
        with tempfile.TemporaryFile(dir=home) as spool:
            async for chunk in http.stream():
                await asyncio.to_thread(spool.write, chunk)
            spool.seek(0)
            try:
                sessions.keep(http.headers.get(SESSION, ""), await asyncio.to_thread(receive, home, spool))
            except UgroError as error:
                return {"error": error_fields(error)}
        return {}

    @app.delete("/session")
    async def end(http: HttpRequest) -> None:
        await asyncio.to_thread(sessions.end, http.headers.get(SESSION, ""))

    return app


async def _answer(context: Context, request: Any) -> AsyncIterator[bytes]:
    """Carry out a request; yield its lines. A caller that goes away cancels it."""
    lines: asyncio.Queue[bytes | None] = asyncio.Queue()

    def tell(notice: Notice) -> None:
        lines.put_nowait(line(notice=type(notice).__name__, body=notice.model_dump(mode="json")))

    async def act() -> None:
        try:
            if isinstance(request, Stream):
                async for item in function_of(request)(context, request):
                    lines.put_nowait(line(item=item.model_dump(mode="json")))
                lines.put_nowait(line(answer=None))
            else:
                answer = await function_of(request)(context, request)
                lines.put_nowait(line(answer=answer.model_dump(mode="json")))
        except UgroError as error:
            lines.put_nowait(line(error=error_fields(error)))
        finally:
            try:
                await context.close()
            finally:
                lines.put_nowait(None)

    context.tell = tell
    acting = asyncio.create_task(act())
    try:
        while (ready := await lines.get()) is not None:
            yield ready
    finally:
        acting.cancel()
        await asyncio.gather(acting, return_exceptions=True)
