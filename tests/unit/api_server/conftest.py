"""A resident controller with one node of this machine, and the application that it serves, in the loop of the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from ugro.api_server.guard import Application, Guard
from ugro.api_server.server import Listen, bind, listening_on
from ugro.api_server.state import Web
from ugro.api_server.tokens import Tokens
from ugro.api_server.web import create_web
from ugro.common.job_spec import JobSpec
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.control_plane.scheduler.submission import choose_code, submit
from ugro.service.serving import Serving
from ugro.service.web_door import WebDoor
from ugro.testing.cluster import write_forking_python


@dataclass
class Answer:
    """What an application answered."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        return next((value for known, value in self.headers if known == name), None)


async def ask(
    app: Application, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"", **scope: Any
) -> Answer:
    """Call an application as a server does; nothing is added to the headers."""
    target, _, query = path.partition("?")
    found = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": target,
        "raw_path": target.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "client": ("127.0.0.1", 40000),
        "server": ("127.0.0.1", 8470),
        "extensions": {"websocket.http.response": {}},
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()],
    } | scope
    answer, received = Answer(0), False

    async def receive() -> dict[str, Any]:
        nonlocal received
        if received:
            await asyncio.Event().wait()
        received = True
        if found["type"] == "websocket":
            return {"type": "websocket.connect"}
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        if message["type"].endswith("response.start"):
            answer.status = message["status"]
            answer.headers = [(name.decode().lower(), value.decode()) for name, value in message["headers"]]
        elif message["type"].endswith("response.body"):
            answer.body += message.get("body", b"")

    await app(found, receive, send)
    return answer


class Served:
    """A resident controller and its application."""

    def __init__(self, home: Path) -> None:
        self.project = home / "project"
        self.project.mkdir()
        self.inventory = home / "inventory.yaml"
        python = write_forking_python(home / "python")
        self.node = f"{{address: 127.0.0.1, local: true, python: {python}, base_dir: {home}/node}}"
        self.write_inventory()
        self.serving = Serving(str(self.inventory), 0.3)
        self.store = self.serving.context().store
        self.tokens = Tokens.of(self.serving.home)
        self.app: Guard = create_web(self.serving, self.tokens, "127.0.0.1")
        self.web: Web = self.app._app._app.state.web  # type: ignore[attr-defined]
        self.serving.web = WebDoor("http://127.0.0.1:8470", "127.0.0.1", 8470)
        self.bearer = {"host": "127.0.0.1:8470", "authorization": f"Bearer {self.token('token')}"}

    def write_inventory(self, more: str = "") -> None:
        self.inventory.write_text(f"nodes:\n  here: {self.node}\n{more}")

    def token(self, name: str) -> str:
        return (self.serving.home / name).read_text().strip()

    async def get(self, path: str, **headers: str) -> Answer:
        return await ask(self.app, "GET", f"/api/v1{path}", self.bearer | headers)

    async def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        sent = b"" if body is None else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await ask(
            self.app, "POST", f"/api/v1{path}", self.bearer | {"content-type": "application/json"} | named, sent
        )

    def submit(self, text: str, **fields: Any) -> Job:
        """Submit a job that runs this script on the node."""
        (self.project / "t.py").write_text(text)
        spec = JobSpec(script="t.py", workdir=str(self.project), **fields)
        return submit(self.store, spec, choose_code(spec))

    async def until(self, job: str, *states: JobState) -> Job:
        """Wait until a job is in one of these states, and nothing is left to decide about it."""
        async with asyncio.timeout(60):
            while True:
                beat = self.store.bus.beat
                now = self.store.jobs.job(job)
                if now.state in states and job not in self.store.decisions.undecided():
                    return now
                await self.store.bus.beats(beat)


@pytest.fixture
async def served(home: Path) -> AsyncIterator[Served]:
    found, before = Served(home), {child.pid for child in psutil.Process().children()}
    with found.serving.alone():
        staying = asyncio.create_task(found.serving.stay())
        await found.store.bus.beats(0)
        yield found
        found.serving.stop("the test")
        await staying
    with contextlib.suppress(TimeoutError):  # what was broken off on the node is reaped by this loop
        async with asyncio.timeout(10):
            while {child.pid for child in psutil.Process().children()} - before:
                await asyncio.sleep(0.05)


@pytest.fixture
async def listening(served: Served) -> AsyncIterator[Listen]:
    """Where the application is served over TCP."""
    ear = bind(Listen("127.0.0.1", 0))
    listen = Listen("127.0.0.1", ear.getsockname()[1])
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(listening_on(served.app, ear, listen))
        yield listen
