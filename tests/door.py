"""The service layer on a master with one node of its own machine: no terminal, and every message as JSON."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from kept_worlds import KeptWorlds

from ugro.api_server.app import create_app
from ugro.api_server.server import listening
from ugro.common.job_spec import JobSpec
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.common.models.value import Value
from ugro.control_plane.scheduler.submission import choose_code, submit
from ugro.nodes.pool import Pool
from ugro.service.backend import Answer, Backend
from ugro.service.context import Context
from ugro.service.local import Local
from ugro.service.resident_socket import ResidentSocket
from ugro.service.schemas.base import Document, Notice, Request, Stream
from ugro.service.schemas.codec import to_json, ways
from ugro.service.web_door import NotServed, WebDoor
from ugro.service.wire import SOCKET
from ugro.testing.cluster import controller_over, pauses_between_ticks, write_forking_python

V = TypeVar("V", bound=Value)


class Door:
    """A state directory, a local node `here`, a project, and a backend, with the notices of the functions."""

    def __init__(self, home: Path, stack: ExitStack, by_socket: bool = False, worlds: KeptWorlds | None = None) -> None:
        self._worlds = worlds
        self.project = home / "project"
        self.project.mkdir()
        python = write_forking_python(home / "python")
        inventory = home / "inventory.yaml"
        node = f"{{address: 127.0.0.1, local: true, python: {python}, base_dir: {home}/node}}"
        inventory.write_text(f"nodes:\n  here: {node}\n")
        self.context = Context(str(inventory), home / "state")
        self.store = self.context.store
        self._local = Local(self.context)
        self.backend: Backend = self._local
        self._web: list[WebDoor | NotServed] = []
        if by_socket:
            path = stack.enter_context(resident_of(inventory, self.store.home, self._web))
            self.backend = ResidentSocket(path, inventory)
        stack.callback(self._close)
        self.told: list[Notice] = []

    def _close(self) -> None:
        for backend in {id(one): one for one in (self.backend, self._local)}.values():
            backend.close()

    def serve(self, web: WebDoor | NotServed) -> None:
        """Have the functions know of a dashboard."""
        self.context.web = web
        self._web.append(web)

    def use(self, inventory: Path) -> None:
        """Act on another inventory from now on, in this process."""
        self._close()
        self.context = Context(str(inventory), self.store.home)
        self._local = Local(self.context)
        self.backend = self._local

    def call(self, request: Request[Answer]) -> Answer:
        """Return the answer to a request; both go through JSON, as they do to another process."""
        sent = through_json(request)
        answer = (self._local if sent.here else self.backend).call(sent, self.told.append)
        assert isinstance(answer, Document)
        return through_json(answer)

    def stream(self, request: Stream[Answer]) -> Generator[Answer, None, None]:
        """Yield the items of an answer; they and the request go through JSON, too."""
        sent = through_json(request)
        for item in (self._local if sent.here else self.backend).stream(sent, self.told.append):
            assert isinstance(item, Document)
            yield through_json(item)

    def forget_code(self) -> None:
        """Let the other side forget the code that was brought."""
        if isinstance(self.backend, Local):
            self.context.code.clear()
        else:
            self.backend.close()

    def submit(self, text: str, **fields: Any) -> Job:
        """Submit a job that runs this script on the node."""
        (self.project / "t.py").write_text(text)
        spec = JobSpec(script="t.py", workdir=str(self.project), **fields)
        return submit(self.store, spec, choose_code(spec))

    def until(self, job: Job, *states: JobState) -> Job:
        """Tick until a job is in one of these states, and nothing is left to decide about it."""

        async def ticks() -> Job:
            pauses = pauses_between_ticks()
            async with asyncio.timeout(30), Pool(self.context.cluster) as pool:
                while (
                    now := self.store.jobs.job(job.id)
                ).state not in states or job.id in self.store.decisions.undecided():
                    await asyncio.sleep(next(pauses))
                    controller = controller_over(self.store, self.context.cluster, pool)
                    try:
                        await controller.complete()
                    finally:
                        await controller.close()
            return now

        return asyncio.run(ticks())

    def is_undecided(self, job: Job) -> bool:
        """Whether a tick has still to decide what to do about a job."""
        return job.id in self.store.decisions.undecided()

    def failed(self, text: str, **fields: Any) -> Job:
        """Return a job of this script that failed."""
        return self._ended(JobState.FAILED, text, fields)

    def succeeded(self, text: str, **fields: Any) -> Job:
        """Return a job of this script that succeeded."""
        return self._ended(JobState.SUCCEEDED, text, fields)

    def _ended(self, state: JobState, text: str, fields: dict[str, Any]) -> Job:
        """Submit a job and wait for its end, unless another test had the same one in the same surroundings."""
        if self._worlds is None:
            return self.until(self.submit(text, **fields), state)
        key = self._worlds.key(state, text, fields)
        return self._worlds.recall(key) or self._worlds.keep(key, self.until(self.submit(text, **fields), state))


@contextmanager
def resident_of(inventory: Path, home: Path, web: Sequence[WebDoor | NotServed] = ()) -> Iterator[Path]:
    """Serve the functions on the socket of a state directory, in a thread with a loop of its own.

    `web`: where a dashboard is served, the last one.
    """
    home.mkdir(exist_ok=True)
    path, ready, ended = home / SOCKET, threading.Event(), asyncio.Event()

    def context() -> Context:
        made = Context(str(inventory), home)
        made.web = web[-1] if web else None
        return made

    async def serve() -> None:
        app = create_app(home, context, lambda: str(inventory))
        async with listening(app, path):
            loops.append(asyncio.get_running_loop())
            ready.set()
            await ended.wait()

    loops: list[asyncio.AbstractEventLoop] = []
    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    try:
        yield path
    finally:
        loops[0].call_soon_threadsafe(ended.set)
        thread.join()


@contextmanager
def opened(home: Path, by_socket: bool = False, worlds: KeptWorlds | None = None) -> Iterator[Door]:
    """A door that is closed at the end."""
    with ExitStack() as stack:
        yield Door(home, stack, by_socket, worlds)


def through_json(value: V) -> V:
    """Return a request or document after its way over a wire, where pydantic has to understand it alike."""
    form = json.loads(json.dumps(to_json(value)))
    received: V = ways(type(value)).read(form)
    assert received == type(value).checked(form)
    assert to_json(received) == form
    return received
