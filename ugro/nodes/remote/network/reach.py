"""Whether a node reaches the meeting point of a job's ranks."""

from __future__ import annotations

import re

from ugro.common.errors import NodeRefused
from ugro.common.text import printable
from ugro.nodes.remote.run.process_manager import run_python
from ugro.nodes.transport import Transport

CONNECT_SECONDS = 5.0
ASK_TIMEOUT = 20.0


async def obstacle(transport: Transport, address: str, port: int) -> str | None:
    """What keeps a node from a TCP connection to an address, in a few words; None: nothing does.

    Raises:
        NodeError: the node cannot be asked.
    """
    outcome = await run_python(transport, "network/reach.py", (address, str(port), f"{CONNECT_SECONDS:g}"), ASK_TIMEOUT)
    words = re.search(r"^reach (.{1,100})$", outcome.text, re.MULTILINE)
    if outcome.status or not words:
        raise NodeRefused(transport.name, f"the way to {address}:{port} cannot be tried there")
    return None if words[1] in ("open", "refused") else printable(words[1])
