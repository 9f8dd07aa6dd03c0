"""Runs a command of the user on a node."""

from __future__ import annotations

from collections.abc import Sequence

from ugro.nodes.remote.bundle import load
from ugro.nodes.transport import Outcome, Transport
from ugro.nodes.transport.base import Output


def as_words(words: Sequence[str]) -> Sequence[str]:
    """Return what is run for the words that the user typed: one word is a line for /bin/sh."""
    return ("/bin/sh", "-c", *words) if len(words) == 1 else words


async def run_command(transport: Transport, words: Sequence[str], on_output: Output | None = None) -> Outcome:
    """Run a command; one word is a line for /bin/sh. Without `on_output` its output is kept.

    It ends with this call, also where this process is killed, and where the link breaks as soon as sshd knows.

    Raises:
        NodeError: as in `Transport.run`.
    """
    return await transport.run(
        load("command/command.sh"), as_words(words), data=None, timeout=None, on_output=on_output
    )
