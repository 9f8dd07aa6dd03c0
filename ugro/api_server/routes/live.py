"""The live views over a WebSocket.

    server  {"type": "hello", "epoch", "version", "seq", "role"}
    client  {"type": "subscribe", "topics": ["cluster", "job:job-001"], "since": {"cluster": 17}}
    server  {"type": "snapshot", "topic", "seq", "data"}    then {"type": "delta", "topic", "seq", "data"} …
            {"type": "error", "topic", "error": {…}}        no such topic, or it cannot be read now and is tried again;
                                                            without a topic: a message was wrong
            {"type": "beat"}                                where nothing else came for some seconds

A subscription takes the place of the one before. Who reads slowly misses no news, only stages: what it did not read so
far is one delta. Who reads nothing at all is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from ugro import __version__
from ugro.api_server.guard import Caller, error_body
from ugro.api_server.state import Here, Web, Who
from ugro.common.errors import InputError, NoSuchJob, UgroError
from ugro.common.job_spec import JOB_ID
from ugro.common.mistakes import without_values
from ugro.common.text import printable
from ugro.service.live import CLUSTER, JOB

router = APIRouter()

LONGEST_MESSAGE = 65_536
MESSAGES_A_SECOND = 20
TOPICS = 16
"""Topics that one socket may watch."""

SOCKETS, SOCKETS_A_CLIENT = 32, 16
"""Open sockets at most: of all, and of one browser or address. Ten tabs of one browser are usual, sixteen are not."""

DRAIN_WITHIN = 10.0
"""Seconds in which a client has to take a message."""

HOW_TO_ASK = 'a message is {"type": "subscribe", "topics": ["cluster", "job:job-001"]}'

BEAT_SECONDS = 5.0

RETRY_SECONDS = 1.0
"""Until a topic is read once more that could not be read."""


class Subscribe(BaseModel):
    """What a client wants to watch, and the numbers of the last updates that it knows of it."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["subscribe"]
    topics: Annotated[tuple[Annotated[str, Field(max_length=50)], ...], Field(max_length=TOPICS)]
    since: Annotated[dict[str, int], Field(max_length=TOPICS)] = Field(default_factory=dict)


@router.websocket("/live")
async def live(socket: WebSocket, web: Here, who: Who) -> None:
    """Send what changes of the topics that the client subscribes to."""
    client = who.name or who.address
    if sum(web.sockets.values()) >= SOCKETS or web.sockets.get(client, 0) >= SOCKETS_A_CLIENT:
        body = error_body("too_many_sockets", "too many live views are open", "close other tabs of the dashboard")
        await socket.send_denial_response(Response(body, 429, media_type="application/json"))
        return
    web.sockets[client] = web.sockets.get(client, 0) + 1
    try:
        await socket.accept()
        await _Live(web, socket, who).run()
    finally:
        web.sockets[client] -= 1
        if not web.sockets[client]:
            del web.sockets[client]


class _Over(Exception):
    """The socket is over, or ends for this reason."""

    def __init__(self, code: int = 0, reason: str = "") -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class _Live:
    """One socket."""

    def __init__(self, web: Web, socket: WebSocket, who: Caller) -> None:
        self._web, self._socket, self._who = web, socket, who
        self._sending = asyncio.Lock()
        self._sent = time.monotonic()
        self._came: deque[float] = deque(maxlen=MESSAGES_A_SECOND)
        self._watching: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Serve it until the client leaves, stops reading, or sends too much."""
        last, role = self._web.serving.board.numbers.last, self._who.role
        hello = {"type": "hello", "epoch": self._web.epoch, "version": __version__, "seq": last, "role": role.value}
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._send(json.dumps(hello))
                tasks.create_task(self._beat())
                while True:
                    self._subscribe(tasks, await self._next())
        except* _Over as over:
            found = over.exceptions[0]
            if isinstance(found, _Over) and found.code:
                with contextlib.suppress(Exception):  # it may be gone
                    await self._socket.close(found.code, found.reason)

    async def _next(self) -> Subscribe:
        """Return the next message that makes sense; others are answered with what is wrong."""
        while True:
            try:
                text = await self._socket.receive_text()
            except (WebSocketDisconnect, RuntimeError):
                raise _Over() from None
            except KeyError:
                raise _Over(1003, "messages are JSON in text, not bytes") from None
            now = time.monotonic()
            if len(self._came) == MESSAGES_A_SECOND and now - self._came[0] < 1.0:
                raise _Over(1008, f"more than {MESSAGES_A_SECOND} messages in a second")
            self._came.append(now)
            if len(text) > LONGEST_MESSAGE:
                raise _Over(1009, "a message is too long")
            try:
                return Subscribe.model_validate_json(text)
            except ValidationError as error:
                await self._say_wrong("malformed", without_values(error.errors(include_url=False)))

    def _subscribe(self, tasks: asyncio.TaskGroup, wanted: Subscribe) -> None:
        for topic in self._watching.keys() - {*wanted.topics}:
            self._watching.pop(topic).cancel()
        for topic in wanted.topics:
            if topic not in self._watching or self._watching[topic].done():
                self._watching[topic] = tasks.create_task(self._watch(topic, wanted.since.get(topic)))

    async def _watch(self, topic: str, since: int | None) -> None:
        if topic.startswith(JOB) and not JOB_ID.fullmatch(job := topic.removeprefix(JOB)):
            await self._say(NoSuchJob(f"there is no job {printable(job)!r}", "`ugro status` lists the jobs"), topic)
            return
        if topic != CLUSTER and not topic.startswith(JOB):
            await self._say_wrong("no_such_topic", "a topic is `cluster`, or `job:` and the id of a job", topic)
            return
        while True:
            try:
                async with contextlib.aclosing(self._web.serving.board.watch(topic, since)) as updates:
                    async for one in updates:
                        since = one.seq
                        await self._send(f'{{"type":"{one.kind}","topic":"{topic}","seq":{one.seq},"data":{one.text}}}')
            except UgroError as error:
                await self._say(error, topic)
                if isinstance(error, InputError):
                    return
            await asyncio.sleep(RETRY_SECONDS)  # what cannot be read now may be again

    async def _say(self, error: UgroError, topic: str) -> None:
        await self._send(json.dumps({"type": "error", "topic": topic, "error": error.as_dict()}))

    async def _say_wrong(self, code: str, message: str, topic: str | None = None) -> None:
        error = {"code": code, "message": message[:500], "hint": HOW_TO_ASK}
        await self._send(json.dumps({"type": "error", "topic": topic, "error": error}))

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(max(0.1, BEAT_SECONDS - (time.monotonic() - self._sent)))
            if time.monotonic() - self._sent >= BEAT_SECONDS:
                await self._send('{"type":"beat"}')

    async def _send(self, text: str) -> None:
        try:
            async with asyncio.timeout(DRAIN_WITHIN), self._sending:
                await self._socket.send_text(text)
        except (TimeoutError, WebSocketDisconnect, RuntimeError):  # it does not read, or is gone
            raise _Over() from None
        self._sent = time.monotonic()
