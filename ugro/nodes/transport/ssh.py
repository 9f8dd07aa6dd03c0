"""One SSH connection to one node, kept open, with every command as a session on it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from typing import Any

import asyncssh

from ugro.common.config import NodeConfig
from ugro.common.errors import (
    LinkLost,
    NodeError,
    NodeRefused,
    PortClosed,
    TurnedAway,
    Unreachable,
)
from ugro.common.text import printable
from ugro.nodes.transport.base import (
    END_SCRIPT,
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
from ugro.nodes.transport.link import LinkLimits, open_link
from ugro.nodes.transport.shell import SHELL_COMMAND, START_TIMEOUT, Channel, KeptShell

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 8.0
"""Seconds in which a connection must be made, the tries that sshd turned away included."""

TURNED_AWAY_WAIT = (0.1, 0.6)
"""Seconds, drawn at random each time: sshd closes connections at random while many others log in (MaxStartups)."""

ATTEMPT_WAIT = 1.0
"""Seconds between the tries of ConnectionAttempts, as for ssh."""

LOGIN_TIMEOUT = 15.0
KEEPALIVE_INTERVAL = 5.0
KEEPALIVE_COUNT = 3
SESSIONS_PER_NODE = 8
"""Below sshd's MaxSessions, which is 10 unless configured."""

BACKOFF_FIRST = 1.0
BACKOFF_LIMIT = 60.0
BACKOFF_REFUSED = 30.0
"""Seconds after a refused key: sshd >= 9.8 punishes addresses that keep trying."""


class SshTransport(Transport):
    """A node over SSH. The connection is made at the first command and made again when it was lost.

    `dials` bounds how many nodes are dialled at the same time by those who share it.
    """

    def __init__(self, node: NodeConfig, dials: asyncio.Semaphore | None = None) -> None:
        super().__init__(node)
        self._connection: asyncssh.SSHClientConnection | None = None
        self._connecting = asyncio.Lock()
        self._dials = dials or asyncio.Semaphore(1)
        self._sessions = asyncio.Semaphore(SESSIONS_PER_NODE)
        self._shell = KeptShell(self.name, self._open_shell, lambda: self.run("", timeout=START_TIMEOUT))
        self._failures = 0
        self._retry_at = 0.0
        self._last_error: NodeError | None = None

    @property
    def peer_address(self) -> str | None:
        peer = self._connection.get_extra_info("peername") if self._connection else None
        return str(peer[0]) if peer and peer[0] else None

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
        async with self._sessions:
            connection = await self._connected()
            started = time.monotonic()
            process = await self._open(connection, frame.command)
            try:
                async with asyncio.timeout(timeout + KILL_GRACE + 5 if timeout else None):
                    status = await self._converse(process, frame.head, data, collector)
            except TimeoutError:
                raise LinkLost(self.name, f"a command gave no answer within {timeout:.0f} s") from None
            except asyncio.CancelledError:
                await self._end(connection, collector.leader)
                raise
            finally:
                process.close()
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
        connection = await self._connected()
        try:
            return await connection.open_connection("127.0.0.1", port, encoding=None)
        except asyncssh.ChannelOpenError as error:
            if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
                hint = "set `AllowTcpForwarding yes` in its sshd_config; then: sudo systemctl reload ssh"
                raise NodeRefused(self.name, "its sshd forwards no connections", hint) from None
            raise PortClosed(self.name, f"nothing listens on its port {port}") from error
        except (asyncssh.ConnectionLost, OSError) as error:
            raise LinkLost(self.name, f"the connection broke: {printable(str(error))}") from None

    async def close(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._shell.close()
        if self._connection:
            self._connection.abort()
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._connection.wait_closed(), 1)
            self._connection = None

    @staticmethod
    async def _converse(
        process: asyncssh.SSHClientProcess[bytes],
        head: bytes,
        data: bytes | AsyncIterable[bytes] | None,
        collector: Collector,
    ) -> int | None:
        async def feed() -> None:
            async for chunk in _after(head, chunks(data or b"")):
                # A command that stops reading is judged by its exit code, a lost link by its missing one.
                with contextlib.suppress(OSError, asyncssh.Error):
                    process.stdin.write(chunk)
                    await process.stdin.drain()
            if data is not None:
                with contextlib.suppress(OSError, asyncssh.Error):
                    process.stdin.write_eof()

        async def read() -> int | None:
            with contextlib.suppress(asyncssh.ConnectionLost, asyncssh.DisconnectError, OSError):
                await asyncio.gather(
                    collector.drain("stdout", process.stdout), collector.drain("stderr", process.stderr)
                )
                await process.wait_closed()
                return process.returncode
            return None

        return await both_ways(feed(), read())

    async def _open_shell(self) -> Channel:
        """A session for the kept shell; it is one of the SESSIONS_PER_NODE until it is closed."""
        await self._sessions.acquire()
        try:
            connection = await self._connected()
            process = await self._open(connection, SHELL_COMMAND, stderr=asyncssh.STDOUT)
        except BaseException:
            self._sessions.release()
            raise
        return _SshChannel(self, connection, process)

    async def _open(
        self, connection: asyncssh.SSHClientConnection, command: str, **options: Any
    ) -> asyncssh.SSHClientProcess[bytes]:
        """Open a session. If the call is cancelled, the session is closed as soon as it is open.

        asyncssh leaves a session alone whose opening is cancelled: its command would wait for input until its time is
        up, and count among those that sshd allows.
        """
        opening = asyncio.ensure_future(connection.create_process(command, encoding=None, **options))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_leave)
            await asyncio.wait({opening}, timeout=END_WAIT)  # it is one of SESSIONS_PER_NODE until then
            raise
        except (asyncssh.ChannelOpenError, asyncssh.ConnectionLost, OSError) as error:
            raise self._not_opened(connection, error) from None

    def _not_opened(self, connection: asyncssh.SSHClientConnection, error: Exception) -> NodeError:
        if connection.is_closed() or not isinstance(error, asyncssh.ChannelOpenError):
            return LinkLost(self.name, "the connection broke before a command could start", "the next try reconnects")
        return NodeRefused(
            self.name,
            "sshd opens no further session on this connection",
            "raise MaxSessions in its sshd_config (UGRO uses up to 8 of the usual 10)",
        )

    async def _end(
        self, connection: asyncssh.SSHClientConnection, leader: int | None, within: float = END_WAIT
    ) -> bool:
        """End a command whose caller gave up. Without a live link, the remote time limit ends it."""
        if leader is None or connection.is_closed():
            return False
        frame = ScriptFrame(END_SCRIPT, (str(leader),), timeout=5)
        with contextlib.suppress(OSError, asyncssh.Error, TimeoutError):
            async with asyncio.timeout(within):
                done = await connection.run(frame.command, input=frame.head, encoding=None)
                return done.exit_status == 0
        return False

    async def _connected(self) -> asyncssh.SSHClientConnection:
        async with self._connecting:
            if self._connection and not self._connection.is_closed():
                return self._connection
            if self._last_error and time.monotonic() < self._retry_at:
                raise self._last_error
            try:
                async with self._dials:
                    self._connection = await self._connect()
            except NodeError as error:
                self._back_off(error)
                log.info("no connection to %s: %s (%d in a row)", self.name, error.code, self._failures)
                raise
            self._failures, self._last_error = 0, None
            log.info("connected to %s", self.name)
            return self._connection

    def _back_off(self, error: NodeError) -> None:
        self._failures += 1
        wait = min(BACKOFF_LIMIT, BACKOFF_FIRST * 2 ** (self._failures - 1))
        if not isinstance(error, Unreachable):
            wait = max(wait, BACKOFF_REFUSED)
        self._last_error = error
        self._retry_at = time.monotonic() + wait * random.uniform(0.7, 1.3)

    async def _connect(self) -> asyncssh.SSHClientConnection:
        link = await open_link(self.node, limits())
        end = time.monotonic() + link.connect_limit
        attempts = int(link.target.get("connectionattempts") or 1)
        while True:
            try:
                return await link.connect()
            except TurnedAway as error:
                wait = random.uniform(*TURNED_AWAY_WAIT)
                if time.monotonic() + wait > end:
                    raise await link.explain_turning_away(error) from None
            except Unreachable:
                attempts -= 1
                if attempts < 1:
                    raise
                wait = ATTEMPT_WAIT
            await asyncio.sleep(wait)


class _SshChannel:
    """The kept shell's session."""

    def __init__(
        self,
        transport: SshTransport,
        connection: asyncssh.SSHClientConnection,
        process: asyncssh.SSHClientProcess[bytes],
    ) -> None:
        self._transport = transport
        self._connection = connection
        self._process = process
        self._open = True

    @property
    def linked(self) -> bool:
        return not self._connection.is_closed()

    @property
    def alive(self) -> bool:
        return self._open and self.linked and not self._process.is_closing() and not self._process.stdout.at_eof()

    async def read(self) -> bytes:
        with contextlib.suppress(OSError, asyncssh.Error):
            return await self._process.stdout.read(READ_SIZE)
        return b""

    async def write(self, data: bytes) -> None:
        with contextlib.suppress(OSError, asyncssh.Error):
            self._process.stdin.write(data)
            await self._process.stdin.drain()

    async def close(self, leader: int | None, within: float = END_WAIT) -> bool:
        try:
            return await self._transport._end(self._connection, leader, within)
        finally:
            self._process.close()
            if self._open:
                self._open = False
                self._transport._sessions.release()


def _leave(opening: asyncio.Future[asyncssh.SSHClientProcess[bytes]]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


async def _after(first: bytes, rest: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


def limits() -> LinkLimits:
    """The time limits of a connection."""
    return LinkLimits(CONNECT_TIMEOUT, LOGIN_TIMEOUT, KEEPALIVE_INTERVAL, KEEPALIVE_COUNT)
