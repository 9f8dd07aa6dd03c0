"""The kept shell: one session on a node in which short scripts run one after another, without a login for each.

The login shell becomes /bin/sh, which reads its commands from the session's stdin. Each call runs in a
subshell, so nothing it does to itself is left for the next one. A line with a nonce comes before a call's output and
another one, with the exit code, after it; what stands outside of these two (a `.bashrc`, a process that an earlier
call left behind) is thrown away. The nonce stands in the lines that the shell reads and in no variable of it, so no
output has it. A script's text is sent once and kept in a variable.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import shlex
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from ugro.common.errors import CommandTimedOut, LinkLost, NodeError
from ugro.nodes.transport.base import (
    END_WAIT,
    OURS,
    OUTPUT_LIMIT,
    READ_SIZE,
    Outcome,
    Output,
    guard,
    refused_by_shell,
)

SHELL_COMMAND = f"exec /bin/sh -s {OURS}"
"""The command line for the login shell; every one of them reads it alike."""

START_TIMEOUT = 20.0
"""Seconds that a login shell may take to become ours; no call pays for them out of its own time."""

START_SOON = 3.0
"""Seconds after which `Transport.run` is asked whether this login runs scripts of ours at all. Something that waits
for the end of its input (`exec fish` in a `.bashrc`, a `cat`) would keep a kept shell waiting without any output."""

LATE_WAIT = 10.0
"""Seconds to see a command end whose time is up; the login that ends it pays for a `.bashrc` again."""

CHATTER_KEPT = 4096
"""Bytes of what the login shell printed that are kept to explain why it did not become ours."""

NEEDED = ("timeout", "head")
"""Programs that every command line of `Transport.run` starts: a node without them works in neither way."""

MISSING = "neither `timeout` nor `head` may be missing in its PATH"

SCRIPTS_KEPT = 32
"""Different scripts that one shell holds; with the next one a new shell begins."""


class Channel(Protocol):
    """Both ends of a running login shell."""

    @property
    def alive(self) -> bool:
        """Whether the shell may still answer."""

    @property
    def linked(self) -> bool:
        """Whether the node can still be reached this way, be the shell alive or not."""

    async def read(self) -> bytes:
        """The next output, at most READ_SIZE bytes; nothing when there will be no more."""

    async def write(self, data: bytes) -> None:
        """Send input. What cannot be sent any more shows at the next read."""

    async def close(self, leader: int | None, within: float = END_WAIT) -> bool:
        """Close the session. With `leader`, end its process group on the node first; whether that was done in time."""


class KeptShell:
    """A node's shell, opened at the first call, and again when it was lost. Calls take turns."""

    def __init__(
        self,
        node: str,
        connect: Callable[[], Awaitable[Channel]],
        try_run: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """`try_run` runs any script as `Transport.run` does, where a login and its start-up files come before ours.

        It raises where that fails, so that both ways agree about a node.
        """
        self._node = node
        self._connect = connect
        self._try_run = try_run
        self._turn = asyncio.Lock()
        self._shell: _Shell | None = None

    async def ask(self, script: str, args: Sequence[str], timeout: float, on_output: Output | None) -> Outcome:
        """As `Transport.ask`."""
        async with self._turn:
            shell = await self._ready(script)
            try:
                async with asyncio.timeout(timeout):
                    return await shell.call(script, args, on_output)
            except TimeoutError:
                raise await self._out_of_time(shell, timeout) from None
            except BaseException:
                # The shell is in the middle of a script: the rest of its output would be taken for the next answer.
                self._shell = None
                await shell.channel.close(shell.leader)
                raise

    async def close(self) -> None:
        """End the shell; a call under way is lost."""
        shell, self._shell = self._shell, None
        if shell:
            await shell.channel.close(shell.leader if self._turn.locked() else None)

    async def _ready(self, script: str) -> _Shell:
        """The shell, alive and not too full for this script."""
        if self._shell and not (self._shell.channel.alive and self._shell.has_room(script)):
            shell, self._shell = self._shell, None
            await shell.channel.close(None)
        if self._shell is None:
            self._shell = await self._open()
        return self._shell

    async def _open(self) -> _Shell:
        shell = _Shell(self._node, await self._connect(), guarded=self._try_run is not None)
        starting = asyncio.create_task(shell.start())
        try:
            done, _ = await asyncio.wait({starting}, timeout=min(START_SOON, START_TIMEOUT))
            if not done and self._try_run:
                await self._try_run()
            async with asyncio.timeout(START_TIMEOUT):
                await starting
        except TimeoutError:
            await shell.channel.close(None)
            raise CommandTimedOut(self._node, f"its login shell did not start within {START_TIMEOUT:g} s") from None
        except BaseException:
            starting.cancel()
            await shell.channel.close(None)
            raise
        return shell

    async def _out_of_time(self, shell: _Shell, timeout: float) -> NodeError:
        self._shell = None
        if await shell.channel.close(shell.leader, LATE_WAIT):
            return CommandTimedOut(self._node, f"a command did not end within {timeout:g} s and was ended")
        return LinkLost(self._node, f"a command gave no answer within {timeout:g} s")


class _Shell:
    """One running shell."""

    def __init__(self, node: str, channel: Channel, guarded: bool) -> None:
        self.channel = channel
        self._guarded = guarded
        self.leader: int | None = None
        self._node = node
        self._nonce = f"UGRO-{secrets.token_hex(12)}"
        self._calls = 0
        self._scripts: dict[str, str] = {}

    def has_room(self, script: str) -> bool:
        """Whether it holds this script, or has room for it."""
        return script in self._scripts or len(self._scripts) < SCRIPTS_KEPT

    async def start(self) -> None:
        """Wait until the login shell has become ours.

        Raises:
            NodeRefused, LinkLost: it did not.
        """
        mark = f"{self._nonce}-0"
        needed = " && ".join(f"command -v {program} >/dev/null" for program in NEEDED)
        # In one line: of two, a `.bashrc` that reads its input would take the guard alone.
        line = f"{guard(mark)}; " if self._guarded else ""
        line += f"exec 2>/dev/null; {needed} || {{ echo '{MISSING}'; exit 127; }}; printf '\\n%s %s\\n' {mark} $$\n"
        await self.channel.write(line.encode())
        said = bytearray()
        # The first word counts: tcsh names itself, and does the rest of the line before it ends.
        while not (started := re.search(rb"\n%s (-|[0-9]{1,10})[ \n]" % mark.encode(), said)):
            del said[:-CHATTER_KEPT]
            chunk = await self.channel.read()
            if not chunk:
                raise self._not_started(mark, said)
            said += chunk
        if started[1] == b"-":
            raise self._not_started(mark, said)
        self.leader = int(started[1])

    async def call(self, script: str, args: Sequence[str], on_output: Output | None) -> Outcome:
        """Run a script to its end.

        Raises:
            LinkLost: the shell ended before, or its answer makes no sense.
        """
        self._calls += 1
        mark = f"{self._nonce}-{self._calls}"
        answer = _Answer(mark.encode(), on_output)
        await self.channel.write(self._lines(mark, script, args).encode("utf-8", "surrogateescape"))
        try:
            status = await self._hear(answer)
        except asyncio.CancelledError:  # a timeout is one, too
            answer.flush()
            raise
        return Outcome(status, bytes(answer.kept), truncated=answer.truncated)

    async def _hear(self, answer: _Answer) -> int:
        while answer.status is None:
            chunk = await self.channel.read()
            if not chunk:
                what = "the shell on the node ended" if self.channel.linked else "the connection broke"
                raise LinkLost(self._node, f"{what} while a command ran", "try again")
            if not answer.feed(chunk):
                raise LinkLost(self._node, "the shell on the node gave an answer that makes no sense")
        return answer.status

    def _lines(self, mark: str, script: str, args: Sequence[str]) -> str:
        lines = ""
        if script not in self._scripts:
            self._scripts[script] = f"ugro_script_{len(self._scripts)}"
            lines = f"{self._scripts[script]}={shlex.quote(script)}\n"
        run = f'set -- {shlex.join(args)}; eval "${self._scripts[script]}"'
        return lines + f"printf '\\n%s\\n' {mark}; ( {run}\n) </dev/null; printf '\\n%s %s\\n' {mark} $?\n"

    def _not_started(self, mark: str, said: bytearray) -> NodeError:
        if not self.channel.linked:
            return LinkLost(self._node, "the connection broke before a command could start", "the next try reconnects")
        other = re.search(rb"\n%s - (.*)" % mark.encode(), said)
        return refused_by_shell(self._node, bytes(said), other[1].decode("utf-8", "replace") if other else None)


class _Answer:
    """Cuts one call's output out of what the shell says."""

    def __init__(self, mark: bytes, on_output: Output | None) -> None:
        self._begin, self._end = b"\n%s\n" % mark, b"\n%s " % mark
        self._on_output = on_output
        self._begun = False
        self._buffer = bytearray()
        self.kept = bytearray()
        self.truncated = False
        self.status: int | None = None

    def feed(self, chunk: bytes) -> bool:
        """Take what the shell said next; False if it makes no sense."""
        self._buffer += chunk
        if not self._begun:
            start = self._buffer.find(self._begin)
            if start < 0:
                del self._buffer[: 1 - len(self._begin)]
                return True
            self._begun = True
            del self._buffer[: start + len(self._begin)]
        end = self._buffer.find(self._end)
        self._pass_on(self._open_end() if end < 0 else end)
        if end < 0 or b"\n" not in self._buffer[len(self._end) :]:
            return len(self._buffer) < READ_SIZE
        status = bytes(self._buffer[len(self._end) :]).partition(b"\n")[0]
        self.status = int(status) if status.isdigit() else None
        return status.isdigit()

    def flush(self) -> None:
        """No more will come: what may have been the beginning of the end was output."""
        if self._begun:
            self._pass_on(len(self._buffer))

    def _open_end(self) -> int:
        """Return where the buffer's last bytes may be the beginning of the end marker."""
        last = self._buffer.rfind(b"\n")
        return last if last >= 0 and self._end.startswith(self._buffer[last:]) else len(self._buffer)

    def _pass_on(self, size: int) -> None:
        output = bytes(self._buffer[:size])
        del self._buffer[:size]
        if output and self._on_output:
            self._on_output("stdout", output)
        elif output:
            room = OUTPUT_LIMIT - len(self.kept)
            self.kept += output[:room]
            self.truncated |= len(output) > room
