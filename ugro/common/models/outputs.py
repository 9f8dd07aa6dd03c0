"""What became of the outputs that a job declares."""

from __future__ import annotations

from ugro.common.models.outputs_state import OutputsState
from ugro.common.models.record import Record


class OutputsRecord(Record):
    """`outputs.json` in a job's folder, from its success on. `problem` says what is in the way.

    `files` and `bytes` are those on the master; of outputs that are too large, those on the nodes.
    """

    state: OutputsState
    since: float
    files: int = 0
    bytes: int = 0
    problem: str = ""
    tries: int = 0
