"""One connection over Fabric with what the machine's owner types. It accepts the pinned host keys alone.

Fabric's own policy trusts any host key. Nothing of ~/.ssh/config, fabric.yml, the agent or stdin is read by it: the
settings are those that `ssh -G` reports, as for every other connection.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
import socket
import time
from collections.abc import AsyncIterable, Callable, Sequence
from typing import Any, NoReturn

import asyncssh
import fabric
import paramiko

from ugro.common.config import NodeConfig
from ugro.common.errors import HostKeyChanged, LinkLost, NodeError, NodeRefused, Unreachable
from ugro.common.models.login import AskPerson, LoginPrompt
from ugro.common.text import printable
from ugro.nodes.bootstrap.methods import Methods
from ugro.nodes.transport.base import Collector, Outcome, Output, ScriptFrame, Transport, chunks, conclude
from ugro.nodes.transport.host_keys import KEY_ALGORITHMS
from ugro.nodes.transport.link import SILENT_HINT
from ugro.nodes.transport.ssh_config import SshSettings, find_route

CONNECT_TIMEOUT = 15.0
AUTH_TIMEOUT = 150.0
"""Seconds for one method: longer than the two minutes of sshd's LoginGraceTime, which therefore ends a slow login."""

SESSION_TIMEOUT = 15.0
READ_SIZE = 32 * 1024

_RSA = ("rsa-sha2-512", "rsa-sha2-256", "ssh-rsa")


class _NotPinned(paramiko.SSHException):
    def __init__(self, key: paramiko.PKey) -> None:
        super().__init__("another host key")
        self.fingerprint = str(key.fingerprint)


class _Pin(paramiko.MissingHostKeyPolicy):
    """Accepts the keys that were agreed to, byte by byte. Nothing else is known, so every key arrives here."""

    def __init__(self, pinned: Sequence[asyncssh.SSHKey]) -> None:
        self._pinned = {key.public_data for key in pinned}

    def missing_host_key(self, client: Any, hostname: str, key: paramiko.PKey) -> None:
        if key.asbytes() not in self._pinned:
            raise _NotPinned(key)


class FirstLogin(Transport):
    """A machine, reached with a password or what else its sshd asks for."""

    def __init__(self, node: NodeConfig, connection: fabric.Connection) -> None:
        super().__init__(node)
        self._connection = connection

    @classmethod
    async def open(cls, node: NodeConfig, pinned: Sequence[asyncssh.SSHKey], ask: AskPerson) -> FirstLogin:
        """Log in. `ask` is called in this thread, one prompt at a time.

        Raises:
            HostKeyChanged: the machine shows another key than those pinned; nothing was sent to it.
            AuthenticationFailed: it does not let in. Unreachable: it does not answer. What `ask` raises.
        """
        *jumps, target = await find_route(node)
        loop = asyncio.get_running_loop()

        async def asked(prompt: LoginPrompt) -> str | None:
            return ask(prompt)

        def from_thread(prompt: LoginPrompt) -> str | None:
            return asyncio.run_coroutine_threadsafe(asked(prompt), loop).result()

        logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # every failure is an error of ours
        methods = Methods(node.name, target.user, target.host, from_thread)
        connection = _connection(target, jumps, pinned, methods)
        opening = asyncio.ensure_future(asyncio.to_thread(_open, node.name, target, pinned, connection))
        try:
            await asyncio.shield(opening)
        except BaseException:
            await asyncio.to_thread(connection.close)
            raise
        return cls(node, connection)

    @property
    def peer_address(self) -> str | None:
        return str(self._connection.transport.getpeername()[0])

    async def run(
        self,
        script: str,
        args: Sequence[str] = (),
        *,
        data: bytes | AsyncIterable[bytes] | None = b"",
        timeout: float | None = 30.0,
        on_output: Output | None = None,
    ) -> Outcome:
        given = b"".join([chunk async for chunk in chunks(data or b"")])
        frame = ScriptFrame(script, args, timeout)
        collector = Collector(frame.nonce, on_output)
        started = time.monotonic()
        try:
            status = await asyncio.to_thread(_converse, self._connection, frame, given, collector)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise LinkLost(self.name, f"the connection broke: {_words(error)}", "run the same command") from None
        return conclude(self.name, status, collector, frame, time.monotonic() - started)

    async def ask(
        self, script: str, args: Sequence[str] = (), *, timeout: float = 20.0, on_output: Output | None = None
    ) -> Outcome:
        return await self.run(script, args, timeout=timeout, on_output=on_output)

    async def connect(self, port: int) -> NoReturn:
        raise NodeRefused(self.name, "a first login forwards no connections")

    async def close(self) -> None:
        await asyncio.to_thread(self._connection.close)


def _connection(
    target: SshSettings, jumps: Sequence[SshSettings], pinned: Sequence[asyncssh.SSHKey], methods: Methods
) -> fabric.Connection:
    """A connection that is not open. It reads no configuration: neither of Fabric nor of ssh."""
    quiet = {"hide": True, "warn": True, "in_stream": False}
    config = fabric.Config(lazy=True, overrides={"load_ssh_configs": False, "run": quiet})
    wanted = {key.get_algorithm() for key in pinned}
    wanted |= set(_RSA) if "ssh-rsa" in wanted else set()
    arguments = {
        "auth_strategy": methods,
        "banner_timeout": CONNECT_TIMEOUT,
        "auth_timeout": AUTH_TIMEOUT,
        # Else a machine with several keys may show one that is not on record.
        "disabled_algorithms": {"keys": sorted({*KEY_ALGORITHMS, *_RSA} - wanted)},
    }
    if command := _proxy(target, jumps):
        arguments["sock"] = paramiko.ProxyCommand(command)
    made = fabric.Connection(
        target.host,
        user=target.user,
        port=target.port,
        config=config,
        connect_timeout=CONNECT_TIMEOUT,
        connect_kwargs=arguments,
    )
    made.client.set_missing_host_key_policy(_Pin(pinned))
    return made


def _proxy(target: SshSettings, jumps: Sequence[SshSettings]) -> str:
    """The command that leads to the machine: its ProxyCommand, or ssh through its jump hosts, which take keys alone."""
    if command := target.get("proxycommand"):
        return target.expand(command)
    if not jumps:
        return ""
    *before, last = jumps
    through = ("-J", ",".join(hop.label for hop in before)) if before else ()
    place = f"[{target.host}]:{target.port}"
    return shlex.join(["ssh", "-o", "BatchMode=yes", *last.arguments, *through, "-W", place, "--", last.asked])


def _open(name: str, target: SshSettings, pinned: Sequence[asyncssh.SSHKey], connection: fabric.Connection) -> None:
    where = printable(f"{target.host}:{target.port}" if target.port != 22 else target.host)
    try:
        connection.open()
    except NodeError:
        raise
    except _NotPinned as error:
        agreed = ", ".join(key.get_fingerprint() for key in pinned)
        raise HostKeyChanged(
            name,
            f"THE HOST KEY HAS CHANGED between two connections: {where} shows {error.fingerprint}, agreed was {agreed}",
            "nothing was sent to it; the connection may be intercepted, or two machines share the address",
        ) from None
    except paramiko.ssh_exception.IncompatiblePeer as error:
        raise Unreachable(
            name,
            f"{where} and paramiko {paramiko.__version__} agree on no algorithm: {_words(error)}",
            f"install the key with OpenSSH, then run the same command: ssh-copy-id {printable(target.user)}@{where}",
        ) from None
    except socket.gaierror:
        raise Unreachable(name, f"{where} is not a known host name", "correct the address") from None
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise Unreachable(name, f"no SSH connection to {where}: {_words(error)}", SILENT_HINT) from None


def _converse(connection: fabric.Connection, frame: ScriptFrame, data: bytes, collector: Collector) -> int | None:
    """Run a framed script in a session of its own; its exit status, None where there was none."""
    channel = connection.transport.open_session(timeout=SESSION_TIMEOUT)
    try:
        channel.settimeout((frame.timeout or 3600.0) + SESSION_TIMEOUT)
        channel.exec_command(frame.command)
        try:
            channel.sendall(frame.head + data)
            channel.shutdown_write()
        except OSError:
            pass  # a shell that reads nothing is judged by what it says
        _read(channel.recv, lambda chunk: collector.feed("stdout", chunk))
        _read(channel.recv_stderr, lambda chunk: collector.feed("stderr", chunk))
        channel.status_event.wait(SESSION_TIMEOUT)
        return int(channel.exit_status) if channel.exit_status_ready() and channel.exit_status >= 0 else None
    finally:
        channel.close()


def _read(receive: Callable[[int], bytes], take: Callable[[bytes], None]) -> None:
    while chunk := receive(READ_SIZE):
        take(chunk)


def _words(error: BaseException) -> str:
    return printable(str(error)) or type(error).__name__
