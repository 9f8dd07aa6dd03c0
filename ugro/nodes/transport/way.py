"""How the bytes of one hop travel: a ProxyCommand as ssh starts it, and the addresses that are bound to."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import tempfile
import weakref
from collections.abc import Callable
from typing import IO, Any

import asyncssh

from ugro.common.text import printable
from ugro.nodes.transport.ssh_config import SshSettings

COMPLAINT_LIMIT = 64 * 1024
"""Bytes of a ProxyCommand's stderr that are looked at."""


class Way:
    """How one hop's bytes travel: over a jump host's connection, a ProxyCommand, or a plain socket.

    A connection keeps it in the place of asyncssh's tunnel, and closes it when it is lost.
    """

    def __init__(self, hop: SshSettings, through: asyncssh.SSHClientConnection | None) -> None:
        self._hop = hop
        self._through = through
        self._end: Callable[[], object] = lambda: None
        self._complaint: IO[bytes] | None = None
        self.said = ""
        self.arguments: dict[str, Any] = {}

    async def open(self) -> None:
        """Prepare `arguments`, with which asyncssh connects.

        Raises:
            OSError: the ProxyCommand cannot be started, or BindInterface is not there.
        """
        if self._through:
            self.arguments = {"tunnel": self._through}
        elif command := self._hop.get("proxycommand"):
            self.arguments = {"sock": self._start(self._hop.expand(command))}
        else:
            families = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}
            family = families.get(self._hop.get("addressfamily").lower(), socket.AF_UNSPEC)
            self.arguments = {"family": family} | _local_address(self._hop, family)

    def _start(self, command: str) -> socket.socket:
        """Start a ProxyCommand as ssh does, but without a terminal: it cannot ask for a password."""
        self._complaint = tempfile.TemporaryFile()  # noqa: SIM115 — it lives as long as the process
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = subprocess.Popen(
                    [os.environ.get("SHELL") or "/bin/sh", "-c", f"exec {command}"],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=self._complaint.fileno(),
                    env={**os.environ, "SSH_ASKPASS_REQUIRE": "never"},
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                self._complaint.close()
                raise
        # A transport that is never closed leaves nothing behind.
        self._end = weakref.finalize(self, _end_proxy, process, self._complaint)
        ours.setblocking(False)
        return ours

    def close(self) -> None:
        """Let go of the way. A ProxyCommand is ended; `said` has the last line it complained with."""
        if self._complaint and not self._complaint.closed:
            self._complaint.seek(0)
            lines = self._complaint.read(COMPLAINT_LIMIT).decode("utf-8", "replace").strip().splitlines()
            self.said = printable(lines[-1])[:200] if lines else ""
        self._end()

    async def wait_closed(self) -> None:
        """Nothing remains to wait for."""

    def keep(self, connection: asyncssh.SSHClientConnection) -> None:
        """Let the connection close this way, and all before it, with itself."""
        connection.set_tunnel(self._through or self)


def _end_proxy(process: subprocess.Popen[bytes], complaint: IO[bytes]) -> None:
    complaint.close()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _local_address(hop: SshSettings, family: int) -> dict[str, Any]:
    """BindAddress, or the address of BindInterface.

    Raises:
        OSError: there is no such interface, or it has no address.
    """
    if address := hop.get("bindaddress"):
        return {"local_addr": (address, 0)}
    if not (interface := hop.get("bindinterface")):
        return {}
    import psutil  # BindInterface is rare

    families = (family,) if family else (socket.AF_INET, socket.AF_INET6)
    for wanted in families:
        for found in psutil.net_if_addrs().get(interface, ()):
            if found.family == wanted:
                return {"local_addr": (found.address.partition("%")[0], 0)}
    raise OSError(errno.ENODEV, f"BindInterface {interface} is not there, or has no address")
