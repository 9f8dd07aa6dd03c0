"""Whether a node reaches the meeting point of a job's ranks."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, TypeAdapter

from ugro.common.text import printable
from ugro.nodes.remote.python import ask_script
from ugro.nodes.transport import Transport

CONNECT_SECONDS = 5.0
ASK_TIMEOUT = 20.0

_WAY = TypeAdapter(Annotated[str, Field(min_length=1, max_length=100)])


async def obstacle(transport: Transport, address: str, port: int) -> str | None:
    """Return what keeps a node from a TCP connection to an address, in a few words; None: nothing does.

    Raises:
        NodeError: the node cannot be asked.
    """
    args, problem = (address, str(port), f"{CONNECT_SECONDS:g}"), f"the way to {address}:{port} cannot be tested there"
    way = await ask_script(transport, "network/reach.py", args, _WAY, problem, timeout=ASK_TIMEOUT)
    return None if way in ("open", "refused") else printable(way)
