"""What the routes share: the way to the service functions, who asks, and acts that happen once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import Depends
from starlette.requests import HTTPConnection
from starlette.responses import Response

from ugro.api_server.guard import Caller
from ugro.common.errors import InputError
from ugro.common.text import printable
from ugro.service.context import Context
from ugro.service.local import function_of
from ugro.service.schemas.base import Document
from ugro.service.schemas.base import Request as ServiceRequest

if TYPE_CHECKING:
    from ugro.api_server.guard import Guard
    from ugro.api_server.tokens import Tokens
    from ugro.service.serving import Serving

T = TypeVar("T")

KEYS_KEPT, KEY_SECONDS = 1000, 600.0
"""Acts that are remembered by their Idempotency-Key, and for how many seconds."""


FEW, LONGEST_NAME = 5, 50
"""Unknown parameters that are named, and so much of each."""


@dataclass
class _Act:
    about: str
    since: float
    answer: asyncio.Future[Response]


class Acts:
    """Acts by the key that their asker gave: asked again, one is not done again, and its answer is the same."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._acts: OrderedDict[str, _Act] = OrderedDict()

    async def once(self, key: str, about: str, act: Callable[[], Awaitable[Response]]) -> Response:
        """Return the answer of an act. What was refused may be tried again under its key.

        Raises:
            InputError: the key is that of another act.
        """
        while self._acts and (len(self._acts) > KEYS_KEPT or self._now() - self._oldest.since > KEY_SECONDS):
            self._acts.popitem(last=False)
        if known := self._acts.get(key):
            if known.about != about:
                raise InputError("this Idempotency-Key was used for another request", "use a new one for each act")
            return await asyncio.shield(known.answer)
        acting = asyncio.ensure_future(act())
        self._acts[key] = _Act(about, self._now(), acting)
        try:
            answer = await asyncio.shield(acting)
        except Exception:
            self._acts.pop(key, None)
            raise
        if answer.status_code >= 400:
            self._acts.pop(key, None)
        return answer

    @property
    def _oldest(self) -> _Act:
        return next(iter(self._acts.values()))


class Web:
    """What the routes act on."""

    def __init__(self, serving: Serving, tokens: Tokens, guard: Guard) -> None:
        self.serving, self.tokens, self.guard = serving, tokens, guard
        self.epoch = secrets.token_hex(8)
        """Another one for each process: numbers of updates are of one epoch."""
        self.acts = Acts()
        self.sockets: dict[str, int] = {}
        """How many sockets each client has open."""

    async def ask(self, request: ServiceRequest[T], context: Context | None = None) -> T:
        """Return the answer to a request.

        Raises:
            UgroError: what the function raises.
        """
        if context is None:
            async with self.context() as context:
                return await self.ask(request, context)
        answer: T = await function_of(request)(context, request)
        return answer

    @contextlib.asynccontextmanager
    async def context(self) -> AsyncIterator[Context]:
        """Give what the requests of one call act on; it is closed after the last of them."""
        context = self.serving.context()
        try:
            yield context
        finally:
            await context.close()


def _web(connection: HTTPConnection) -> Web:
    found: Web = connection.app.state.web
    return found


def _caller(connection: HTTPConnection) -> Caller:
    found: Caller = connection.state.caller
    return found


def only_known_parameters(connection: HTTPConnection) -> None:
    """Refuse a request with a parameter in its query that its route does not have: an answer would not be to it.

    Raises:
        InputError: it has one.
    """
    if connection.scope["type"] != "http":
        return
    known = [parameter.alias for parameter in connection.scope["route"].dependant.query_params]
    if unknown := [name for name in connection.query_params if name not in known]:
        names = ", ".join(f"`{printable(name)[:LONGEST_NAME]}`" for name in dict.fromkeys(unknown[:FEW]))
        has = f"it has: {', '.join(f'`{name}`' for name in known)}" if known else "it has none"
        raise InputError(f"{connection.url.path} has no parameter {names}", f"{has}; see /api/v1/openapi.json")


Here = Annotated[Web, Depends(_web)]
"""A parameter of a route: what routes act on."""

Who = Annotated[Caller, Depends(_caller)]
"""A parameter of a route: who asks."""


async def document(found: Document | Sequence[Document], status: int = 200) -> Response:
    """Return documents as an answer; they become JSON in a thread, since they may be large."""
    return Response(await asyncio.to_thread(_json, found), status, media_type="application/json")


def _json(found: Document | Sequence[Document]) -> bytes:
    plain: Any = found.as_json() if isinstance(found, Document) else [one.as_json() for one in found]
    return json.dumps(plain, separators=(",", ":")).encode()
