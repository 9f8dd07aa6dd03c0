"""Serves the application on the socket of the state directory, in the event loop of the resident controller."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from ugro.common.errors import StateError
from ugro.service.resident_socket import reachable_path

BACKLOG = 64
END_WITHIN = 5
"""Seconds that requests under way may take once the resident controller ends."""


class _Server(uvicorn.Server):
    """Leaves signals to the resident controller."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


@contextlib.asynccontextmanager
async def listening(app: FastAPI, path: Path) -> AsyncIterator[None]:
    """Serve an application on a unix socket that only its owner can open. The caller is the only resident.

    Raises:
        StateError: the socket cannot be made.
    """
    ear = _bind(path)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=END_WITHIN, ws="none"
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[ear]))
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        app.state.calls.end()
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
