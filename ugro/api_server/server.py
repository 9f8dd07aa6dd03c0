"""Serves applications in the event loop of the resident controller: on its socket, and over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from ugro.api_server.guard import Application
from ugro.api_server.tokens import Tokens
from ugro.common.errors import InputError, StateError
from ugro.service.resident_socket import reachable_path
from ugro.service.serving import Serving
from ugro.service.web_door import NotServed, WebDoor

BACKLOG = 64
END_WITHIN = 5
"""Seconds that requests under way may take once the resident controller ends."""

WS_BYTES, WS_PING = 65_536, 20.0
"""Longest message of a client, and seconds between two pings."""

CONNECTIONS = 256
"""Connections and requests at a time; further ones are answered 503."""

LINGER = 5.0
"""Seconds in which a WebSocket whose end is decided may take what was written to it before."""


class PortTaken(InputError):
    """Another program listens at the address."""

    code = "port_taken"


@dataclass(frozen=True)
class Listen:
    """Where HTTP is served, and with which certificate and key (PEM files), if any."""

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None

    @property
    def url(self) -> str:
        """The address of the page."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        shown = f"[{host}]" if ":" in host and not host.startswith("[") else host
        return f"{'https' if self.certificate else 'http'}://{shown}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")


class _Server(uvicorn.Server):
    """Leaves signals to the resident controller."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


class _Socket(WebSocketsSansIOProtocol):
    """Ends the connection of a client that takes nothing any more, instead of keeping what it did not take."""

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        self.loop.call_later(LINGER, self.transport.abort)


@contextlib.asynccontextmanager
async def listening(app: FastAPI, path: Path) -> AsyncIterator[None]:
    """Serve an application on a unix socket that only its owner can open. The caller is the only resident.

    Raises:
        StateError: the socket cannot be made.
    """
    ear = _bind(path)

    def gone() -> None:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        app.state.calls.end()

    async with _serving(app, ear, gone, ws="none"):
        yield


@contextlib.asynccontextmanager
async def serving_web(serving: Serving, listen: Listen, ear: socket.socket) -> AsyncIterator[None]:
    """Serve the dashboard and the API on a bound TCP socket.

    Raises:
        StateError: a token cannot be used. InputError: the certificate cannot be used.
    """
    from ugro.api_server.web import create_web  # here, since its import takes long and is not needed on the socket

    _check_certificate(listen)
    web = create_web(serving, await asyncio.to_thread(Tokens.of, serving.home), listen.host)
    serving.web = WebDoor(listen.url, listen.host, listen.port)
    watching = asyncio.create_task(serving.lag.watch())
    try:
        async with listening_on(web, ear, listen):
            yield
    finally:
        serving.web = NotServed("it ends")
        watching.cancel()


def _check_certificate(listen: Listen) -> None:
    if not listen.certificate:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(listen.certificate, listen.key, lambda: "")
    except OSError as error:  # an SSLError is one
        words = f"the certificate {listen.certificate} with its key cannot be used: {error.strerror or error}"
        raise InputError(words, "PEM files without a password are expected: --tls-cert FILE --tls-key FILE") from None


@contextlib.asynccontextmanager
async def listening_on(app: Application, ear: socket.socket, listen: Listen) -> AsyncIterator[None]:
    """Serve an application over HTTP on a bound TCP socket (`bind`)."""
    settings: dict[str, Any] = {
        "ws": _Socket,
        "ws_max_size": WS_BYTES,
        "ws_per_message_deflate": False,  # it costs more than it saves on a local network
        "ws_ping_interval": WS_PING,
        "ws_ping_timeout": WS_PING,
        "proxy_headers": False,  # headers do not prove where a request came from
        "server_header": False,
        "limit_concurrency": CONNECTIONS,
    }
    if listen.certificate:
        settings |= {"ssl_certfile": listen.certificate, "ssl_keyfile": listen.key}
    async with _serving(app, ear, lambda: None, **settings):
        yield


def bind(listen: Listen) -> socket.socket:
    """Return a TCP socket bound to an address.

    Raises:
        PortTaken: another program listens there. InputError: this machine has no such address, or may not use the port.
    """
    place = f"{listen.host}:{listen.port}"
    try:
        found = socket.getaddrinfo(listen.host.strip("[]"), listen.port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        ear = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise InputError(f"{place} is no address of this machine: {error}", "see: ip addr") from None
    try:
        ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        ear.bind(address)
        ear.listen(BACKLOG)
    except OSError as error:
        ear.close()
        if isinstance(error, PermissionError):
            raise InputError(f"port {listen.port} may not be used", "choose one above 1023") from None
        if error.errno == errno.EADDRINUSE:
            hint = (
                f"see by whom: ss -ltnp 'sport = :{listen.port}'; choose another: ugro serve --listen {listen.host}:0"
            )
            raise PortTaken(f"port {listen.port} is in use at {listen.host}", hint) from None
        raise InputError(f"{place} cannot be listened at: {error.strerror}", "see: ip addr") from None
    return ear


@contextlib.asynccontextmanager
async def _serving(app: Any, ear: socket.socket, gone: Callable[[], None], **settings: Any) -> AsyncIterator[None]:
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=END_WITHIN, **settings
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[ear]))
    try:
        yield
    finally:
        gone()
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)
        ear.close()


def _bind(path: Path) -> socket.socket:
    """Make the socket, in place of one that a killed resident left."""
    if path.is_symlink() or (path.exists() and not path.is_socket()):
        raise StateError(f"{path} is no socket of UGRO's", f"move it away: mv {path} {path}.aside")
    ear = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        before = os.umask(0o177)  # no moment in which others could open it
        try:
            with reachable_path(path) as place:
                ear.bind(place)
        finally:
            os.umask(before)
        ear.listen(BACKLOG)
    except OSError as error:
        ear.close()
        raise StateError(f"{path} cannot be made: {error.strerror}", "see whether its folder can be written") from None
    return ear
