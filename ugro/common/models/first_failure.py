"""Which rank of an attempt failed first."""

from __future__ import annotations

from ugro.common.models.value import Value


class FirstFailure(Value):
    """The rank that failed first, not the follow-on errors."""

    rank: int | None
    """Global rank; `null`: a node failed before it had ranks."""
    node: str
    exit_code: int | None = None
    signal: str | None = None
    cause: str = "unknown"
    message: str = ""
    """What happened, in a sentence."""
