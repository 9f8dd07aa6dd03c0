"""How fast a node's GPUs train: `on_node/speed.py` measures, this asks for it and reads the answer."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, TypeAdapter, ValidationError

from ugro.common.errors import NodeRefused
from ugro.common.models.record import Record
from ugro.common.text import printable
from ugro.nodes.remote.run.process_manager import run_python
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
    outcome = await run_python(transport, "speed/speed.py", gpus, TIMEOUT)
    if outcome.status != 0:
        last = (outcome.error_text.splitlines() or [f"exit {outcome.status}"])[-1]
        raise NodeRefused(transport.name, f"its speed cannot be measured: {printable(last)}")
    try:
        found = _ANSWER.validate_json(outcome.text)
    except ValidationError:
        raise NodeRefused(transport.name, "its answer to a measurement of speed cannot be understood") from None
    return [speed.model_copy(update={"name": printable(speed.name)}) for speed in found]
