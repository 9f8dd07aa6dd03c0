"""Answers requests by the resident controller, over its socket. The standard library does it: a quick start matters."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
from collections.abc import Generator, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ugro import __version__
from ugro.common.errors import ResidentGone, UgroError
from ugro.service.backend import Answer, Tell
from ugro.service.schemas.base import Request, Stream, answer_to
from ugro.service.schemas.code import CodeDocument
from ugro.service.schemas.codec import to_json, ways
from ugro.service.wire import HELLO_WITHIN, SESSION, error_from, notices

if TYPE_CHECKING:
    from ugro.service.code import WorkingCode


class NoResident(Exception):
    """The resident controller cannot be used, and why."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, within: float | None) -> None:
        super().__init__("localhost", timeout=within)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with reachable_path(self._path) as path:
            self.sock.connect(path)


@contextlib.contextmanager
def reachable_path(path: Path) -> Iterator[str]:
    """Yield a name of a socket that fits into the 107 bytes that the kernel takes, however deep its folder is."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class ResidentSocket:
    """One session with the resident controller."""

    def __init__(self, path: Path, inventory: Path | None) -> None:
        """Greet it.

        Raises:
            NoResident: it does not answer within HELLO_WITHIN seconds, is of another version, or uses another
                inventory than this (None: any will do).
        """
        self._path = path
        self._brought = False
        self._session = {SESSION: os.urandom(16).hex()}
        try:
            hello = self._hello()
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = f"no answer within {HELLO_WITHIN:g} s" if isinstance(error, TimeoutError) else _words_of(error)
            raise NoResident(f"the resident controller does not answer at {path} ({reason})") from None
        if hello.get("version") != __version__:
            raise NoResident(f"the resident controller is of version {hello.get('version')}, this is {__version__}")
        if inventory is not None and hello.get("inventory") != str(inventory):
            raise NoResident(f"the resident controller uses another inventory: {hello.get('inventory')}")

    def _hello(self) -> dict[str, Any]:
        connection = _Connection(self._path, HELLO_WITHIN)
        try:
            connection.request("GET", "/hello")
            return _document(connection.getresponse())
        finally:
            connection.close()

    def call(self, request: Request[Answer], tell: Tell | None = None) -> Answer:
        items = list(self._lines(request, tell))
        answer: Answer = items[-1]
        return answer

    def stream(self, request: Stream[Answer], tell: Tell | None = None) -> Generator[Answer, None, None]:
        yield from self._lines(request, tell)

    def _lines(self, request: Request[Any] | Stream[Any], tell: Tell | None) -> Iterator[Any]:
        """Send a request; yield its items or its one answer. Closing early ends the function over there."""
        read = ways(answer_to(type(request))).read
        connection = _Connection(self._path, None)
        try:
            try:
                body = json.dumps(to_json(request))
                connection.request("POST", f"/call/{request.function}", body, self._session)
                response = connection.getresponse()
                if response.status != HTTPStatus.OK:
                    raise ValueError(f"HTTP {response.status}")
                for line in response:
                    fields = json.loads(line)
                    if "notice" in fields:
                        if tell and (kind := notices().get(fields["notice"])):
                            tell(ways(kind).read(fields["body"]))
                    elif "error" in fields:
                        raise error_from(fields["error"])
                    elif "item" in fields:
                        yield read(fields["item"])
                    else:
                        if fields["answer"] is not None:
                            yield read(fields["answer"])
                        return
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise lost(error) from None
            raise lost(None)
        finally:
            connection.close()

    def bring(self, code: WorkingCode) -> CodeDocument:
        from ugro.service.upload import sending  # here, since few commands send code

        connection = _Connection(self._path, None)
        try:
            with sending(code) as stream:
                connection.request("POST", "/code", stream, self._session, encode_chunked=True)
                answer = _document(connection.getresponse())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise lost(error) from None
        finally:
            connection.close()
        if "error" in answer:
            raise error_from(answer["error"])
        self._brought = True
        return code.document

    def close(self, rest: bool = True) -> None:
        """Let the resident forget what was brought; what was begun continues there."""
        if not self._brought:
            return
        connection = _Connection(self._path, HELLO_WITHIN)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("DELETE", "/session", headers=self._session)
            connection.getresponse().read()
        connection.close()

    @property
    def troubles(self) -> list[UgroError]:
        return []


def _words_of(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def _document(response: http.client.HTTPResponse) -> dict[str, Any]:
    """Return the JSON object of an answer.

    Raises:
        ValueError: it has none.
    """
    document = json.loads(response.read())
    if response.status != HTTPStatus.OK or not isinstance(document, dict):
        raise ValueError(f"HTTP {response.status}")
    return document


def lost(error: Exception | None) -> UgroError:
    """Return what to tell when the resident controller went away in the middle: what it did so far is recorded."""
    why = f" ({_words_of(error)})" if error else ""
    return ResidentGone(
        f"the resident controller ended before it answered{why}",
        "see what became of it: ugro status; without the resident: ugro --local status",
    )
