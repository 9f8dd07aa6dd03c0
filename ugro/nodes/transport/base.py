"""What every transport promises, and how a script is framed so that any login shell delivers it unharmed.

The command line sshd hands to the login shell is a constant without single quotes inside, backslashes or newlines, so
bash, zsh, fish and tcsh all read it alike. The script itself, with its arguments quoted by `shlex`, follows on stdin
and is read by /bin/sh alone. Before the script runs, a line with a nonce is printed: what comes before it is the
chatter of a `.bashrc` and is thrown away; the pid on that line is what ends the command when its time is up.

A start-up file may `exec` another shell, which then reads our stdin as its own commands. Only the /bin/sh that we asked
for has the argument OURS, so the first line of every script is a `guard`: any other shell names itself there and ends.
"""

from __future__ import annotations

import asyncio
import math
import re
import secrets
import shlex
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from ugro.common.config import NodeConfig
from ugro.common.errors import CommandTimedOut, LinkLost, NodeRefused, ShellRefused
from ugro.common.text import printable

OUTPUT_LIMIT = 4 * 1024 * 1024
"""Bytes of stdout (and as many of stderr) that are kept of one command; the rest is dropped and said."""

CHATTER_LIMIT = 1024 * 1024
"""Bytes that a login shell may print before our script starts."""

KILL_GRACE = 2
"""Seconds between SIGTERM and SIGKILL for a command whose time is up."""

END_WAIT = 3.0
"""Seconds to end a command on the node whose caller gave up."""

READ_SIZE = 64 * 1024

OURS = "ugro"
"""The first argument of the /bin/sh that we ask for; a shell that a start-up file puts in its place has none."""

INTACT = "UGRO=1"
"""How a script begins. What a `.bashrc` that reads stdin left of one begins otherwise, and must not run."""

Read = TypeVar("Read")

Output = Callable[[str, bytes], None]
"""Called with "stdout" or "stderr" and the bytes as they come."""


def guard(marker: str) -> str:
    """The line that lets only our own /bin/sh pass; another shell says its name after the marker and a dash, and ends.

    tcsh understands it as sh does. fish does not parse `$1`, and interpreters nothing of it.
    """
    ours = f'test "$1" = {OURS}'
    return f"{INTACT}; {ours} || printf '\\n%s - %s\\n' {marker} \"$0\"; {ours} || exit 126; set +eux"


@dataclass(frozen=True)
class Outcome:
    """A command that ended and whose end was seen. `status` is its exit code, or minus the signal that ended it."""

    status: int
    stdout: bytes = b""
    stderr: bytes = b""
    truncated: bool = False

    @property
    def text(self) -> str:
        """stdout as text; bytes that are not UTF-8 become replacement characters."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def error_text(self) -> str:
        """The last non-empty line of stderr, for messages."""
        lines = self.stderr.decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else ""


class ByteReader(Protocol):
    """The part of asyncio's and asyncssh's readers that is used."""

    async def read(self, n: int = -1) -> bytes: ...


class ByteWriter(Protocol):
    """The part of asyncio's and asyncssh's writers that is used."""

    def write(self, data: bytes) -> None: ...

    def write_eof(self) -> None: ...

    async def drain(self) -> None: ...

    def close(self) -> None: ...


class Transport(ABC):
    """One node, as a place where scripts run."""

    def __init__(self, node: NodeConfig) -> None:
        self.node = node

    @property
    def name(self) -> str:
        """The node's name in the inventory."""
        return self.node.name

    @property
    @abstractmethod
    def peer_address(self) -> str | None:
        """The IP address at which this machine reached the node, once it did."""

    @abstractmethod
    async def run(
        self,
        script: str,
        args: Sequence[str] = (),
        *,
        data: bytes | AsyncIterable[bytes] | None = b"",
        timeout: float | None = 30.0,
        on_output: Output | None = None,
    ) -> Outcome:
        """Run a POSIX shell script with positional arguments and `data` on its stdin; None: stdin stays open.

        `timeout` is in seconds; when it is over the command is ended on the node too. With `on_output` the output is
        handed over as it comes, without limit, and not kept. A cancelled call ends the command as well.

        Raises:
            NodeError: Unreachable, AuthenticationFailed, HostKeyUnknown, HostKeyChanged, LinkLost, CommandTimedOut.
        """

    @abstractmethod
    async def ask(
        self,
        script: str,
        args: Sequence[str] = (),
        *,
        timeout: float = 20.0,
        on_output: Output | None = None,
    ) -> Outcome:
        """Run a short POSIX shell script in the node's kept shell: one round trip, no login, no `.bashrc`.

        For repeated observations. Calls take turns, and `timeout` counts from a call's own turn, when the shell is
        there. stdin is empty and stderr is lost. `$$` is the kept shell. A death by signal N shows as status 128 + N,
        as in shells. What the script leaves running in the background must not write to stdout. The script itself is
        ended at a timeout or a cancellation; if the link is lost it keeps running, so it bounds what can hang.
        With `on_output` stdout is handed over as it comes, without limit, and not kept.

        Raises:
            NodeError: as in `run`; also NodeRefused: the login shell runs no script of ours.
        """

    @abstractmethod
    async def connect(self, port: int) -> tuple[ByteReader, ByteWriter]:
        """Connect to a TCP port of the node's own loopback.

        Raises:
            PortClosed: nothing listens there. NodeRefused: its sshd forwards nothing. NodeError: as in `run`.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let go of the connection. Commands under way are lost."""


@dataclass
class ScriptFrame:
    """One script made ready for the wire."""

    script: str
    args: Sequence[str]
    timeout: float | None
    nonce: str = field(default_factory=lambda: secrets.token_hex(12))

    @property
    def command(self) -> str:
        """The constant command line for the login shell."""
        # Whole seconds, as every `timeout` knows them; rounded up, because 0 would mean no limit.
        bound = f"timeout -k {KILL_GRACE} {math.ceil(self.timeout)} " if self.timeout else ""
        intact = f'case "$ugro" in {INTACT}*) eval "$ugro";; esac'
        return f"exec {bound}/bin/sh -c 'ugro=\"$(head -c $0)\"; {intact}' {len(self.head)} {OURS}"

    @property
    def head(self) -> bytes:
        """The script with its arguments, as the first bytes of stdin."""
        marker = f"UGRO-{self.nonce}"
        leader = "$PPID" if self.timeout else "$$"
        lines = [
            guard(marker),
            f"unset ugro UGRO; echo; echo {marker} {leader}; echo >&2; echo {marker} >&2",
            f"set -- {shlex.join(self.args)}",
            self.script,
        ]
        return "\n".join(lines).encode("utf-8", "surrogateescape") + b"\n"


class Collector:
    """Takes the two output streams of a framed script apart: chatter, the marker with the pid, what is wanted."""

    def __init__(self, nonce: str, on_output: Output | None) -> None:
        self._marker = f"\nUGRO-{nonce}".encode()
        self._on_output = on_output
        self._before = {"stdout": bytearray(), "stderr": bytearray()}
        self._started = {"stdout": False, "stderr": False}
        self.kept = {"stdout": bytearray(), "stderr": bytearray()}
        self.truncated = False
        self.leader: int | None = None
        self.foreign: str | None = None

    def feed(self, stream: str, chunk: bytes) -> None:
        """Take the next bytes of one stream."""
        if not self._started[stream]:
            before = self._before[stream]
            before += chunk
            start = before.find(self._marker)
            end = before.find(b"\n", start + 1) if start >= 0 else -1
            if end < 0:
                del before[:-CHATTER_LIMIT]
                return
            if stream == "stdout":
                said = before[start:end].decode("utf-8", "replace").split(maxsplit=2)[1:]
                if not said or not _PID.fullmatch(said[0]):  # another shell took our script for its own input
                    self.foreign = said[-1] if said[:1] == ["-"] else self.foreign
                    del before[:-CHATTER_LIMIT]
                    return
                self.leader = int(said[0])
            self._started[stream] = True
            chunk = bytes(before[end + 1 :])
        if chunk and self._on_output:
            self._on_output(stream, chunk)
        elif chunk:
            room = OUTPUT_LIMIT - len(self.kept[stream])
            self.kept[stream] += chunk[:room]
            self.truncated |= len(chunk) > room

    @property
    def chatter(self) -> bytes:
        """Output of stderr, or of stdout, before our script started."""
        return bytes(self._before["stderr"].strip() or self._before["stdout"].strip())

    @property
    def started(self) -> bool:
        """Whether the script began to run."""
        return self._started["stdout"]

    async def drain(self, stream: str, reader: ByteReader) -> None:
        """Feed everything a reader has until its end."""
        while chunk := await reader.read(READ_SIZE):
            self.feed(stream, chunk)


def conclude(node: str, status: int | None, collector: Collector, frame: ScriptFrame, elapsed: float) -> Outcome:
    """The outcome of an ended command, or the error that says why there is none."""
    if status is None:
        hint = "the next scheduling pass shows whether it took effect"
        raise LinkLost(node, "the connection broke while a command ran", hint)
    if frame.timeout and elapsed >= frame.timeout and status in (124, 137, -9, -15):
        raise CommandTimedOut(node, f"a command did not end within {frame.timeout:g} s and was ended")
    if not collector.started:
        raise refused_by_shell(node, collector.chatter, collector.foreign, status)
    kept = collector.kept
    return Outcome(status, bytes(kept["stdout"]), bytes(kept["stderr"]), collector.truncated)


def refused_by_shell(node: str, said: bytes, foreign: str | None, status: int | None = None) -> NodeRefused:
    """Why a login did not lead to our /bin/sh, from its last words, and what to change on the node.

    `foreign` is the name of the shell that read our script in its place.
    """
    lines = said.decode("utf-8", "replace").strip().splitlines()
    last = printable(lines[-1])[:LAST_WORDS] if lines else ""
    if foreign is not None:
        shell = printable(foreign)[:LAST_WORDS]
        return ShellRefused(
            node,
            f"the login shell did not run our script: a start-up file there put {shell} in its place",
            f"find `exec` in ~/.bashrc or ~/.profile there, and let it be for terminals only: [ -t 0 ] && exec {shell}",
        )
    details = [f"exit {status}"] * (status is not None) + [last] * bool(last)
    detail = f" ({': '.join(details)})" if details else ""
    problem = f"the login shell did not run our script{detail}"
    for pattern, hint in _SHELL_HINTS:
        if pattern.search(last):
            return ShellRefused(node, problem, hint)
    return NodeRefused(node, problem, _SHELL_HINT)  # it may be out of processes or memory, which passes


LAST_WORDS = 200
"""Characters of what a login shell said last, for a message."""

_PID = re.compile(r"[0-9]{1,10}")
_SHELL_HINT = (
    "the account needs a shell that runs /bin/sh, and `timeout` and `head` from coreutils in its PATH; "
    "is there a ForceCommand, or a start-up file (~/.bashrc) that execs another shell or reads its input?"
)
_SHELL_HINTS = (
    (
        re.compile(r"(?i)password.*(expired|change required)|change your password"),
        "its password has expired: set a new one there (passwd), or end its ageing: sudo chage -M -1 USER",
    ),
    (
        re.compile(r"(?i)account.*not available"),
        "the account has no login shell: sudo usermod --shell /bin/bash USER there, or name another 'user'",
    ),
    (
        re.compile(r"(?i)sftp"),
        "sshd gives this account SFTP alone (ForceCommand or command=): UGRO needs a login that runs /bin/sh",
    ),
)


async def chunks(data: bytes | AsyncIterable[bytes]) -> AsyncIterable[bytes]:
    """The data for a command's stdin in pieces that do not swamp the link."""
    if isinstance(data, bytes):
        for start in range(0, len(data), READ_SIZE):
            yield data[start : start + READ_SIZE]
    else:
        async for chunk in data:
            yield chunk


async def both_ways(feeding: Coroutine[Any, Any, None], reading: Coroutine[Any, Any, Read]) -> Read:
    """Write a command's stdin and read its output; return what `reading` returns.

    Once that is over nothing more is fed: what is left, of a source that may never end, has no reader.

    Raises:
        Exception: what `feeding` or `reading` raises, which ends the other.
    """
    feed, read = asyncio.create_task(feeding), asyncio.create_task(reading)
    try:
        await asyncio.wait({feed, read}, return_when=asyncio.FIRST_COMPLETED)
        if feed.done():
            feed.result()
        return await read
    finally:
        feed.cancel()
        read.cancel()
        await asyncio.gather(feed, read, return_exceptions=True)


END_SCRIPT = """
kill -s TERM -- "-$1" 2>/dev/null
for tenth in 1 2 3 4 5 6 7 8 9 10; do
    kill -s 0 -- "-$1" 2>/dev/null || exit 0
    sleep 0.1
done
kill -s KILL -- "-$1" 2>/dev/null
:
"""
"""Ends a command by its process group: sshd and the local transport make each command the leader of its own."""
