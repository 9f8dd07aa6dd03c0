"""Yields what commands print on nodes while they run, and how each ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

from ugro.common.errors import NodeError
from ugro.nodes.transport import Outcome
from ugro.nodes.transport.base import Output
from ugro.service.documents import error_document
from ugro.service.schemas.maintenance import CommandDocument, CommandEnd, CommandOutput, NotRunDocument

Outcomes = Mapping[str, Outcome | NodeError]
"""How a command ended, or why that is not known, by node."""


async def follow(
    run: Callable[[Callable[[str], Output]], Awaitable[Outcomes]],
) -> AsyncGenerator[CommandOutput | CommandEnd, None]:
    """Yield what is printed, then how the commands ended. They end with this iterator.

    `run` runs them to their end; for the name of a node it gets what takes the output there.
    """
    printed: asyncio.Queue[CommandOutput | None] = asyncio.Queue()

    def output_of(node: str) -> Output:
        def take(stream: str, data: bytes) -> None:
            printed.put_nowait(CommandOutput(node=node, stream=stream, data=data))

        return take

    async def to_their_end() -> Outcomes:
        try:
            return await run(output_of)
        finally:
            printed.put_nowait(None)

    running = asyncio.ensure_future(to_their_end())
    try:
        while (output := await printed.get()) is not None:
            yield output
        for name, outcome in (await running).items():
            yield _ended(name, outcome)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def _ended(name: str, outcome: Outcome | NodeError) -> CommandEnd:
    """Return how a command ended on a node, or why that is not known."""
    if isinstance(outcome, NodeError):
        return CommandEnd(answer=NotRunDocument(node=name, error=error_document(outcome)), worst=outcome.exit_code)
    code = outcome.status if outcome.status >= 0 else 128 - outcome.status
    ended = CommandDocument(
        node=name,
        exit_code=code,
        stdout=outcome.text,
        stderr=outcome.stderr.decode("utf-8", "replace"),
        truncated=outcome.truncated,
    )
    return CommandEnd(answer=ended, worst=code)
