"""This machine itself, without SSH."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
import weakref
from collections.abc import AsyncIterable, Sequence

from ugro.common.config import NodeConfig
from ugro.common.errors import LinkLost, PortClosed
from ugro.nodes import children
from ugro.nodes.open_files import with_inherited_limit
from ugro.nodes.transport.base import (
    END_WAIT,
    KILL_GRACE,
    READ_SIZE,
    ByteReader,
    ByteWriter,
    Collector,
    Outcome,
    Output,
    ScriptFrame,
    Transport,
    both_ways,
    chunks,
    conclude,
)
from ugro.nodes.transport.shell import SHELL_COMMAND, Channel, KeptShell


class LocalTransport(Transport):
    """Runs scripts with /bin/sh as the user who runs UGRO."""

    def __init__(self, node: NodeConfig) -> None:
        super().__init__(node)
        self._shell = KeptShell(self.name, _open_shell)

    @property
    def peer_address(self) -> str | None:
        return None

    async def run(
        self,
        script: str,
        args: Sequence[str] = (),
        *,
        data: bytes | AsyncIterable[bytes] | None = b"",
        timeout: float | None = 30.0,
        on_output: Output | None = None,
    ) -> Outcome:
        frame = ScriptFrame(script, args, timeout)
        collector = Collector(frame.nonce, on_output)
        started = time.monotonic()
        command = ("/bin/sh", "-c", with_inherited_limit(frame.command))
        async with children.started(*command, cwd=os.path.expanduser("~"), grace=KILL_GRACE) as child:
            try:
                async with asyncio.timeout(timeout + KILL_GRACE + 5 if timeout else None):
                    status = await both_ways(_feed(child.stdin, frame.head, data), _heard(child, collector))
            except TimeoutError:
                raise LinkLost(self.name, f"a command gave no answer within {timeout:.0f} s") from None
        return conclude(self.name, status, collector, frame, time.monotonic() - started)

    async def ask(
        self,
        script: str,
        args: Sequence[str] = (),
        *,
        timeout: float = 20.0,
        on_output: Output | None = None,
    ) -> Outcome:
        return await self._shell.ask(script, args, timeout, on_output)

    async def connect(self, port: int) -> tuple[ByteReader, ByteWriter]:
        try:
            return await asyncio.open_connection("127.0.0.1", port)
        except OSError as error:
            raise PortClosed(self.name, f"nothing listens on its port {port}") from error

    async def close(self) -> None:
        await self._shell.close()


async def _open_shell() -> Channel:
    return _LocalChannel()


class _LocalChannel:
    """A shell on this machine. Both of its streams are one socket, as sshd has it too."""

    linked = True

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        with theirs:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", with_inherited_limit(SHELL_COMMAND)],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=theirs.fileno(),
                cwd=os.path.expanduser("~"),
                start_new_session=True,
            )
        # A transport that is never closed leaves nothing behind, not even a warning.
        self._bury = weakref.finalize(self, _bury, self._process, self._socket)

    @property
    def alive(self) -> bool:
        return self._bury.alive and self._process.poll() is None

    async def read(self) -> bytes:
        try:
            return await asyncio.get_running_loop().sock_recv(self._socket, READ_SIZE)
        except OSError:
            return b""

    async def write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def close(self, leader: int | None, within: float = END_WAIT) -> bool:
        try:
            if leader is not None and self._bury.alive:
                await self._end()
        finally:
            self._bury()
        return True

    async def _end(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # asyncio would wait for ever at a socket that is just closed
        _signal(self._process, signal.SIGTERM)
        for _ in range(20):
            await asyncio.sleep(0.05)
            self._process.poll()
            if not _signal(self._process, 0):
                break


def _bury(process: subprocess.Popen[bytes], own: socket.socket) -> None:
    own.close()
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen[bytes], number: int) -> bool:
    """Signal a process group; False if it is gone."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True


async def _heard(child: children.Child, collector: Collector) -> int:
    """Take all that a command prints; returns its exit status."""
    await asyncio.gather(collector.drain("stdout", child.stdout), collector.drain("stderr", child.stderr))
    return await child.wait()


async def _feed(stdin: asyncio.StreamWriter, head: bytes, data: bytes | AsyncIterable[bytes] | None) -> None:
    """Write a command's stdin; a command that stops reading ends this early, and its exit code says the rest."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        stdin.write(head)
        async for chunk in chunks(data or b""):
            stdin.write(chunk)
            await stdin.drain()
        await stdin.drain()
    if data is not None:
        stdin.close()
