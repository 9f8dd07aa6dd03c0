"""The sandbox's daemon: an SSH server for each node, in one process. `python -m ugro.sandbox.server ROOT`.

It detaches, writes the files that clients need, says `ready` on stdout, and serves until SIGTERM. A command runs as
sshd would run it; what outlives its connection, or this daemon, is left alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import asyncssh

from ugro.sandbox.files import Files, user, write, write_connections
from ugro.sandbox.machines import MACHINES, MARK, NODE_MARK, READY
from ugro.sandbox.processes import start_time

MAX_SESSIONS = 10
"""Sessions that one connection may have open, as with sshd unless it is configured."""

READ_SIZE = 64 * 1024

SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin:/opt/homebrew/bin"

INHERITED = ("LANG", "LD_LIBRARY_PATH", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OMP_NUM_THREADS")
"""What Python and torch may need of the machine they really run on."""

SIGNALS = {
    signal.Signals[f"SIG{name}"].value: name
    for name in ("ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1", "USR2")
}
"""The signals SSH has names for."""


@dataclass(frozen=True)
class NodeAccount:
    """The account of a node: who may log in, and the environment of a login."""

    user: str
    key: asyncssh.SSHKey
    home: Path
    environment: dict[str, str]


class Connection(asyncssh.SSHServer):
    """One connection to a node; while it lasts, it is one of `others`."""

    def __init__(self, account: NodeAccount, others: set[asyncssh.SSHServerConnection]) -> None:
        self._account = account
        self._others = others
        self._sessions: set[Session] = set()

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._others.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        self._others.discard(self._connection)

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return username == self._account.user and key.public_data == self._account.key.public_data

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        return dest_host in ("127.0.0.1", "localhost")  # the nodes share the loopback of this machine

    def session_requested(self) -> Session:
        if len(self._sessions) >= MAX_SESSIONS:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "open failed")
        return Session(self._account, self._sessions)


class Session(asyncssh.SSHServerProcess[bytes]):
    """One command, shell or file transfer.

    As with sshd, a command whose channel is closed counts as an open session until its process has ended.
    """

    def __init__(self, account: NodeAccount, sessions: set[Session]) -> None:
        super().__init__(self._serve, lambda channel: HomeFiles(channel, account.home), sftp_version=3, allow_scp=False)
        self._account = account
        self._sessions = sessions
        self._process: subprocess.Popen[bytes] | None = None
        self._terminal: IO[bytes] | None = None
        self._pumps: list[asyncio.Task[None]] = []
        sessions.add(self)

    def subsystem_requested(self, subsystem: str) -> bool:
        return subsystem == "sftp"

    def exception_received(self, exc: Exception) -> None:
        """Ignore signals over the channel, as sshd does where root logs in."""

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for pump in self._pumps:
            pump.cancel()
        if self._process is None:
            self._sessions.discard(self)

    async def _serve(self, _: asyncssh.SSHServerProcess[bytes]) -> None:
        try:
            process = self._process = self._start()
        except OSError as error:
            self.stderr.write(f"{error}\n".encode())
            self.exit(255)
            return
        ended = _end_of(process)
        if self._terminal:
            feeding = asyncio.create_task(_feed(self.stdin, os.fdopen(os.dup(self._terminal.fileno()), "wb", 0)))
            draining = [asyncio.create_task(_drain(self._terminal, self.stdout))]
        else:
            assert process.stdin and process.stdout and process.stderr
            feeding = asyncio.create_task(_feed(self.stdin, process.stdin))
            draining = [
                asyncio.create_task(_drain(process.stdout, self.stdout)),
                asyncio.create_task(_drain(process.stderr, self.stderr)),
            ]
        self._pumps = [feeding, *draining]
        await asyncio.wait(draining)
        status = await ended
        feeding.cancel()
        # Before the client can know of the end, and open the next session at once.
        self._sessions.discard(self)
        if status >= 0:
            self.exit(status)
        else:
            self.exit_with_signal(SIGNALS.get(-status, "SIG@openssh.com"))

    def _start(self) -> subprocess.Popen[bytes]:
        # Not asyncio's subprocess: that one kills its process when the daemon ends, and sshd does not.
        words = ["/bin/sh", "-c", self.command] if self.command is not None else ["/bin/sh"]
        if self.term_type is None:
            return self._spawn(words, subprocess.PIPE, self._account.environment)
        ours, theirs = os.openpty()
        self._terminal = os.fdopen(ours, "rb", 0)
        self.terminal_size_changed(*self.term_size)
        try:
            return self._spawn(words, theirs, self._account.environment | {"TERM": self.term_type}, _take_terminal)
        finally:
            os.close(theirs)

    def _spawn(
        self, words: list[str], ends: int, environment: dict[str, str], first: Callable[[], object] | None = None
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            words,
            stdin=ends,
            stdout=ends,
            stderr=ends,
            bufsize=0,
            cwd=self._account.home,
            env=environment,
            start_new_session=True,
            preexec_fn=first,
        )

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        if self._terminal:
            termios.tcsetwinsize(self._terminal.fileno(), (height, width))


def _take_terminal() -> None:
    """Make the terminal on stdin that of the session, so that Ctrl-C reaches what runs in it."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


async def _feed(channel: asyncssh.SSHReader[bytes], pipe: IO[bytes]) -> None:
    """Forward the client's input, until its EOF or until the process stops reading."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), pipe
    )
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    with contextlib.closing(transport), contextlib.suppress(OSError, asyncssh.Error):
        while chunk := await channel.read(READ_SIZE):
            writer.write(chunk)
            await writer.drain()


async def _drain(pipe: IO[bytes], channel: asyncssh.SSHWriter[bytes]) -> None:
    """Forward the process's output, until every holder of the pipe has closed it."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    with contextlib.closing(transport), contextlib.suppress(OSError, asyncssh.Error):
        while chunk := await reader.read(READ_SIZE):
            channel.write(chunk)
            await channel.drain()


def _end_of(process: subprocess.Popen[bytes]) -> asyncio.Future[int]:
    """Wait for a process. Returns its exit status, or minus the signal that ended it."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def wait() -> None:
        status = process.wait()
        # The loop is closed when the daemon ended first.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(ended.set_result, status)

    threading.Thread(target=wait, daemon=True).start()
    return ended


class HomeFiles(asyncssh.SFTPServer):
    """SFTP as sshd offers it: paths are the machine's own, relative ones start at the home folder."""

    def __init__(self, channel: Any, home: Path) -> None:  # asyncssh's types for the channel contradict each other
        super().__init__(channel)
        self._home = os.fsencode(home)

    def map_path(self, path: bytes) -> bytes:
        return os.path.join(self._home, path)

    def exit(self) -> None:
        self.channel.exit(0)


def account(files: Files, node: str) -> NodeAccount:
    """Return the account on a node.

    Raises:
        OSError, asyncssh.KeyImportError: the client key cannot be read.
    """
    name, home = user(), files.home(node)
    environment = {key: os.environ[key] for key in INHERITED if key in os.environ}
    environment |= {"HOME": str(home), "USER": name, "LOGNAME": name, "SHELL": "/bin/sh"}
    environment |= {"PATH": f"{files.programs(node)}:{SYSTEM_PATH}", MARK: str(files.root), NODE_MARK: node}
    environment |= {"UGRO_NVIDIA_PROC": os.devnull}  # no driver contradicts the simulated nvidia-smi
    environment.setdefault("LANG", "C.UTF-8")
    return NodeAccount(name, asyncssh.read_private_key(files.client_key), home, environment)


def loopback(address: str) -> str:
    """Return an address, or 127.0.0.1 on a machine without other loopback addresses (macOS)."""
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return "127.0.0.1"
    return address


class Node:
    """A node on the network. Its port is chosen when it is plugged in first, and stays."""

    def __init__(self, account: NodeAccount, address: str, host_key: Path) -> None:
        self.address = address
        self.port = 0
        self._account = account
        self._host_key = host_key
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self._connections: set[asyncssh.SSHServerConnection] = set()

    async def plug_in(self) -> None:
        """Serve the node, unless it is served.

        Raises:
            OSError: the port cannot be opened, or the host key cannot be read.
        """
        if self._acceptor is None:
            self._acceptor = await asyncssh.listen(
                self.address,
                self.port,
                server_host_keys=[self._host_key],
                server_factory=lambda: Connection(self._account, self._connections),
                encoding=None,
                line_editor=False,
            )
            self.port = self._acceptor.get_port()

    def unplug(self) -> None:
        """Refuse connections, and drop existing ones. Their processes stay."""
        if self._acceptor:
            self._acceptor.close()
            self._acceptor = None
        for connection in list(self._connections):
            connection.abort()


async def serve(files: Files) -> None:
    """Serve all nodes until SIGTERM or SIGINT. At SIGHUP the nodes that `files.unplugged` names leave the network."""
    orders: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, orders.put_nowait, number)
    machines = {machine.node: loopback(machine.address) for machine in MACHINES}
    nodes = {name: Node(account(files, name), address, files.host_key(name)) for name, address in machines.items()}
    for node in nodes.values():
        await node.plug_in()
    where = {name: (node.address, node.port) for name, node in nodes.items()}
    write_connections(files, where)
    own = {"pid": os.getpid(), "started": start_time(os.getpid()), "nodes": where, "unplugged": []}
    write(files.daemon, json.dumps(own, indent=2) + "\n")
    os.write(sys.stdout.fileno(), READY)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    while await orders.get() == signal.SIGHUP:
        own["unplugged"] = await _rewire(nodes, json.loads(files.unplugged.read_text()))
        write(files.daemon, json.dumps(own, indent=2) + "\n")
    for node in nodes.values():
        node.unplug()


async def _rewire(nodes: dict[str, Node], unplugged: list[str]) -> list[str]:
    """Take these nodes off the network and put all others on it."""
    for name, node in nodes.items():
        if name in unplugged:
            node.unplug()
        else:
            await node.plug_in()
    return unplugged


def main() -> None:
    """Detach and serve. The parent need not wait for this process, nor reap it."""
    root = Path(sys.argv[1])
    os.chdir(root)
    if not os.fork():
        asyncio.run(serve(Files(root)))


if __name__ == "__main__":
    main()
