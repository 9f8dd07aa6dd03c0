"""This machine itself, without SSH."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterable, Sequence

from ugro.common.errors import LinkLost
from ugro.nodes.transport.base import KILL_GRACE, Collector, Frame, Outcome, Output, Transport, chunks, conclude


class LocalTransport(Transport):
    """Runs scripts with /bin/sh as the user who runs UGRO."""

    @property
    def peer_address(self) -> str | None:
        return None

    async def run(
        self,
        script: str,
        args: Sequence[str] = (),
        *,
        data: bytes | AsyncIterable[bytes] = b"",
        timeout: float | None = 30.0,
        on_output: Output | None = None,
    ) -> Outcome:
        frame = Frame(script, args, timeout)
        collector = Collector(frame.nonce, on_output)
        started = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            frame.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=os.path.expanduser("~"),
            start_new_session=True,
        )
        assert process.stdin and process.stdout and process.stderr
        try:
            async with asyncio.timeout(timeout + KILL_GRACE + 5 if timeout else None):
                await asyncio.gather(
                    _feed(process.stdin, frame.head, data),
                    collector.drain("stdout", process.stdout),
                    collector.drain("stderr", process.stderr),
                )
                status = await process.wait()
        except TimeoutError:
            raise LinkLost(self.name, f"a command gave no answer within {timeout:.0f} s") from None
        finally:
            if process.returncode is None:
                await _end(process)
            # A grandchild may hold the pipes open; asyncio would complain of them when the loop is gone.
            process._transport.close()  # type: ignore[attr-defined]
        return conclude(self.name, status, collector, frame, time.monotonic() - started)

    async def close(self) -> None:
        return None


async def _feed(stdin: asyncio.StreamWriter, head: bytes, data: bytes | AsyncIterable[bytes]) -> None:
    """Write a command's stdin; a command that stops reading ends this early, and its exit code says the rest."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        stdin.write(head)
        async for chunk in chunks(data):
            stdin.write(chunk)
            await stdin.drain()
        await stdin.drain()
    stdin.close()


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(KILL_GRACE):
                await process.wait()
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
