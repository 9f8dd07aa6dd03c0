"""Whether a node reaches the meeting point of a job's ranks."""

from __future__ import annotations

from ugro.common.errors import NodeRefused
from ugro.common.text import printable
from ugro.nodes.process_manager import run_python
from ugro.nodes.transport import Transport

CONNECT_SECONDS = 5.0
ASK_TIMEOUT = 20.0


async def obstacle(transport: Transport, address: str, port: int) -> str | None:
    """What keeps a node from a TCP connection to an address, in a few words; None: nothing does.

    Raises:
        NodeError: the node cannot be asked.
    """
    outcome = await run_python(transport, "reach.py", (address, str(port), f"{CONNECT_SECONDS:g}"), ASK_TIMEOUT)
    said = printable(outcome.text.strip().splitlines()[-1]) if outcome.text.strip() else ""
    if outcome.status or not said:
        raise NodeRefused(transport.name, f"the way to {address}:{port} cannot be tried: {said or outcome.status}")
    return None if said in ("open", "refused") else said
