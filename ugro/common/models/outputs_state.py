"""How far the copy of a job's outputs is."""

from enum import StrEnum


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
