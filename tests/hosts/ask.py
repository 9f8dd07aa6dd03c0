"""Runs on the master: commands over UGRO's own pool, all at once.

Reads a JSON list of `{node, script, args, timeout, within}`. Answers in JSON lines: `{node, started}` at a command's
first output, then `{node, seconds, …}` with `status`, `stdout` (hex) and `stderr`, or with the error's `code`,
`message` and `hint`. An argument is the interval of keepalives: the real one makes a test of a lost link slow.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from ugro.common.errors import NodeError
from ugro.common.inventory_file import load_inventory
from ugro.nodes.pool import Pool
from ugro.nodes.transport import Outcome, Transport, ssh


def answer(**fields: Any) -> None:
    """Print one answer at once."""
    print(json.dumps(fields), flush=True)


async def ask(pool: Pool, node: str, script: str, args: list[str], timeout: float, within: float | None) -> None:
    """Run one command and answer for it."""
    began = time.monotonic()
    kept = {"stdout": b"", "stderr": b""}

    def on_output(stream: str, chunk: bytes) -> None:
        if not any(kept.values()):
            answer(node=node, started=True)
        kept[stream] += chunk

    async def run(transport: Transport) -> Outcome:
        return await transport.run(script, args, timeout=timeout, on_output=on_output)

    outcome = (await pool.each([node], run, within))[node]
    seconds = time.monotonic() - began
    if isinstance(outcome, NodeError):
        answer(node=node, seconds=seconds, **outcome.as_dict())
    else:
        stdout, stderr = kept["stdout"].hex(), kept["stderr"].decode()
        answer(node=node, seconds=seconds, status=outcome.status, stdout=stdout, stderr=stderr)


async def main() -> None:
    """Run all commands that stdin asks for."""
    async with Pool(load_inventory(Path("inventory.yaml"))) as pool:
        await asyncio.gather(*(ask(pool, **command) for command in json.load(sys.stdin)))


if __name__ == "__main__":
    if sys.argv[1:]:
        ssh.KEEPALIVE_INTERVAL = float(sys.argv[1])
    asyncio.run(main())
