"""How fast a node's GPUs train: `on_node/speed.py` measures, this asks for it and reads the answer."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, TypeAdapter

from ugro.common.models.record import Record
from ugro.common.text import printable
from ugro.nodes.remote.python import ask_script
from ugro.nodes.transport import Transport

TIMEOUT = 120.0
"""Seconds for a node with a dozen GPUs, which are measured one after the other, and a slow import of torch."""


class MeasuredSpeed(Record):
    """A GPU's speed, or the CPU's (no `uuid`) of a node without GPUs. Those of GPUs compare across nodes."""

    index: int
    uuid: str | None
    name: str
    steps_per_second: float = Field(gt=0, allow_inf_nan=False)


_ANSWER = TypeAdapter(list[MeasuredSpeed])


async def measure(transport: Transport, gpus: Sequence[str] = ()) -> list[MeasuredSpeed]:
    """Measure the GPUs of these UUIDs, or all that are visible; about 3 s each, in which they should be idle.

    Raises:
        NodeRefused: they cannot be measured, with the reason. NodeError: as `Transport.run` does.
    """
    problem = "its speed cannot be measured"
    found = await ask_script(transport, "speed/speed.py", gpus, _ANSWER, problem, timeout=TIMEOUT)
    return [speed.model_copy(update={"name": printable(speed.name)}) for speed in found]
