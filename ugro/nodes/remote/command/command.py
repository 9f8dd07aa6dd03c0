"""Runs a command of the user on a node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence

from ugro.nodes.remote.bundle import load
from ugro.nodes.transport import Outcome, Transport
from ugro.nodes.transport.base import Output


def as_words(words: Sequence[str]) -> Sequence[str]:
    """Return what is run for the words that the user typed: one word is a line for /bin/sh."""
    return ("/bin/sh", "-c", *words) if len(words) == 1 else words


async def run_command(
    transport: Transport,
    words: Sequence[str],
    on_output: Output | None = None,
    given: AsyncIterable[bytes] | None = None,
) -> Outcome:
    """Run a command with `given` on its stdin, or nothing; one word is a line for /bin/sh.

    It ends with this call, also where this process is killed, and where the link breaks as soon as sshd knows. What is
    given need not end: it is read no more once the command has ended. Without `on_output` its output is kept.

    Raises:
        NodeError: as in `Transport.run`.
    """
    data = None if given is None else _framed(given)
    args = ("nothing" if given is None else "input", *as_words(words))
    return await transport.run(load("command/command.sh"), args, data=data, timeout=None, on_output=on_output)


async def _framed(given: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Yield what the script on the node reads. It never ends: that would say that this client is gone."""
    async for chunk in given:
        yield b"%d\n" % len(chunk) + chunk
    yield b"0\n"
    await asyncio.Event().wait()
