"""Run programs on this machine that end with the task that waits for them.

asyncio's own subprocesses do not: where a start is cancelled, as Ctrl-C cancels all tasks at once, the loop waits
for ever for pipes that are never connected. Here a start may be cancelled anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import IO

LONGEST_PAUSE = 0.05
"""Most seconds between two polls of a program whose output has ended: mostly it has ended, too."""

REAP_SECONDS = 1.0
"""Most seconds that the loop stands still for the end of a program that was killed."""


@dataclass(frozen=True, slots=True)
class Child:
    """A running program and its three streams."""

    process: subprocess.Popen[bytes]
    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader

    async def wait(self) -> int:
        """Wait for its end; returns its exit status, negative for a signal."""
        return await _ended(self.process)


@contextlib.asynccontextmanager
async def started(*command: str, cwd: str | None = None, grace: float = 0) -> AsyncIterator[Child]:
    """Start a program that leads a process group.

    If it still runs when the block is left, its group is killed: at once, or after SIGTERM and `grace` seconds.
    Processes that an ended program left running are not touched.
    """
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=cwd, start_new_session=True)
    assert process.stdin and process.stdout and process.stderr
    async with contextlib.AsyncExitStack() as stack:
        for file in (process.stdin, process.stdout, process.stderr):
            stack.callback(file.close)
        # A grandchild may hold the pipes open; asyncio would complain of them when the loop is gone.
        transports = stack.enter_context(contextlib.ExitStack())
        stack.push_async_callback(_end, process, grace)
        stdin = await _writer(process.stdin, transports)
        stdout = await _reader(process.stdout, transports)
        stderr = await _reader(process.stderr, transports)
        yield Child(process, stdin, stdout, stderr)


async def output(*command: str, data: bytes = b"", seconds: float | None = None) -> tuple[int | None, bytes, bytes]:
    """Run a program on that stdin; returns its exit status, stdout and stderr. The status is None after `seconds`."""
    async with started(*command) as child:
        try:
            async with asyncio.timeout(seconds):
                _, stdout, stderr = await asyncio.gather(
                    give(child.stdin, data), child.stdout.read(), child.stderr.read()
                )
                return await child.wait(), stdout, stderr
        except TimeoutError:
            return None, b"", b""


async def give(stdin: asyncio.StreamWriter, data: bytes) -> None:
    """Write all of a program's stdin. Stop early if it stops reading: its exit status says why."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        stdin.write(data)
        await stdin.drain()
    stdin.close()


async def _reader(file: IO[bytes], transports: contextlib.ExitStack) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    connecting = asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    transports.callback((await connecting)[0].close)
    return reader


async def _writer(file: IO[bytes], transports: contextlib.ExitStack) -> asyncio.StreamWriter:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), file
    )
    # Drop what the program did not read. A transport that is closed already cannot be aborted.
    transports.callback(lambda: transport.abort() if transport.get_write_buffer_size() else transport.close())
    return asyncio.StreamWriter(transport, protocol, None, loop)


async def _ended(process: subprocess.Popen[bytes]) -> int:
    pause = 0.001
    while (status := process.poll()) is None:
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
    return status


async def _end(process: subprocess.Popen[bytes], grace: float) -> None:
    try:
        if grace and process.poll() is None:
            with contextlib.suppress(TimeoutError):
                os.killpg(process.pid, signal.SIGTERM)
                async with asyncio.timeout(grace):
                    await _ended(process)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            try:
                await _ended(process)
            finally:  # also where this is cancelled once more: its end is milliseconds away
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(REAP_SECONDS)
