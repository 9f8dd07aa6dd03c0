"""What became of the outputs that a job declares."""

from __future__ import annotations

from enum import StrEnum

from ugro.common.models.record import Record


class OutputsState(StrEnum):
    """State of the master's copy of a job's outputs."""

    OWED = "owed"
    """They are being copied, or a node is waited for."""
    HERE = "here"
    """All of them are on the master."""
    NONE = "none"
    """No file has a name that was declared."""
    PARTIAL = "partial"
    """Some could not be copied, and it is not tried again."""
    TOO_LARGE = "too_large"
    """They are more than comes without being asked for."""


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
