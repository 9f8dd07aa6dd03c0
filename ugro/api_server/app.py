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
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from ugro import __version__
from ugro.common.errors import ResidentGone, StateError, UgroError
from ugro.common.files import FULL, FULL_HINT
from ugro.common.mistakes import without_values
from ugro.common.troubles import trouble_of
from ugro.service.code import WorkingCode
from ugro.service.context import Context
from ugro.service.local import function_of
from ugro.service.schemas.base import Notice, Stream
from ugro.service.upload import forget, receive
from ugro.service.wire import SESSION, error_fields, line, requests

NDJSON = "application/x-ndjson"

KEEP_CODE = 600.0
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
    calls = app.state.calls = Calls()

    @app.exception_handler(ClientDisconnect)
    async def left(_: HttpRequest, __: Exception) -> Response:
        """A client that left while it sent its request was interrupted: nothing was asked, and there is no reader."""
        return Response(status_code=400)

    @app.get("/hello")
    async def hello() -> dict[str, str]:
        return {"version": __version__, "inventory": inventory()}

    @app.post("/call/{function}")
    async def call(function: str, http: HttpRequest) -> StreamingResponse:
        if (kind := requests().get(function)) is None or kind.here:
            raise HTTPException(404, f"no function is called {function!r}")
        try:
            request = kind.checked(json.loads(await http.body()))
        except ValidationError as error:
            raise HTTPException(422, without_values(error.errors(include_url=False))) from None
        except (ValueError, RecursionError) as error:
            raise HTTPException(422, str(error)) from None
        context, session = contexts(), http.headers.get(SESSION, "")
        context.code = sessions.code_of(session)
        return StreamingResponse(calls.answer(context, request, lambda: sessions.end(session)), media_type=NDJSON)

    @app.post("/code")
    async def code(http: HttpRequest) -> dict[str, Any]:
        try:
            sessions.keep(http.headers.get(SESSION, ""), await _received(home, http))
        except UgroError as error:
            return {"error": error_fields(error)}
        return {}

    @app.delete("/session")
    async def end(http: HttpRequest) -> None:
        await asyncio.to_thread(sessions.end, http.headers.get(SESSION, ""))

    return app


async def _received(home: Path, http: HttpRequest) -> WorkingCode:
    """Keep the code that comes with a request. It is read to its end in any case, so that the client hears the answer.

    Raises:
        InputError, StateError: it cannot be kept.
    """
    refused: OSError | None = None
    try:
        with tempfile.TemporaryFile(dir=home) as spool:
            async for chunk in http.stream():
                try:
                    if not refused:
                        await asyncio.to_thread(spool.write, chunk)
                except OSError as error:
                    refused = error
                    spool.truncate(0)
            if not refused:
                spool.seek(0)
                return await asyncio.to_thread(receive, home, spool)
    except OSError as error:
        refused = refused or error
        async for _ in http.stream():
            pass
    assert refused
    hint = FULL_HINT if refused.errno in FULL else ""
    raise StateError(f"{home} cannot take the code: {refused.strerror}", hint)


class Calls:
    """The calls under way, which end with the resident controller."""

    def __init__(self) -> None:
        self._acting: set[asyncio.Task[None]] = set()

    def end(self) -> None:
        """Break off every call; each caller hears why."""
        for acting in self._acting:
            acting.cancel()

    async def answer(self, context: Context, request: Any, left: Callable[[], None]) -> AsyncIterator[bytes]:
        """Carry out a request; yield its lines. A caller that leaves cancels it, and `left` is called."""
        lines: asyncio.Queue[bytes | None] = asyncio.Queue()

        def tell(notice: Notice) -> None:
            lines.put_nowait(line(notice=type(notice).__name__, body=notice.as_json()))

        context.tell = tell
        acting = asyncio.create_task(_act(context, request, lines))
        self._acting.add(acting)
        acting.add_done_callback(self._acting.discard)
        complete = False
        try:
            while (ready := await lines.get()) is not None:
                yield ready
                lines.task_done()
            complete = True
        finally:
            acting.cancel()
            await asyncio.gather(acting, return_exceptions=True)
            if not complete:
                await asyncio.to_thread(left)


async def _act(context: Context, request: Any, lines: asyncio.Queue[bytes | None]) -> None:
    rest, put = True, lines.put_nowait
    try:
        if isinstance(request, Stream):
            async for item in function_of(request)(context, request):
                put(line(item=item.as_json()))
                await lines.join()  # a log has gigabytes, and its reader may be slow
            put(line(answer=None))
        else:
            answer = await function_of(request)(context, request)
            put(line(answer=answer.as_json()))
    except UgroError as error:
        put(line(error=error_fields(error)))
    except Exception as error:  # a bug costs this call alone, and its caller hears of it
        put(line(error=error_fields(trouble_of(f"the request {type(request).__name__}", error))))
    except asyncio.CancelledError:
        rest = False
        ended = ResidentGone("the resident controller ended before it answered", "see what became of it: ugro status")
        put(line(error=error_fields(ended)))
        raise
    finally:
        try:
            await context.close(rest)
        finally:
            put(None)
