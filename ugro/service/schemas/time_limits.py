"""Requests about time limits, and their answers."""

from __future__ import annotations

from typing import ClassVar

from ugro.service.schemas.base import Document, Request
from ugro.service.schemas.jobs import JobDocument


class PendingNode(Document):
    """A node that does not keep the new time limit so far."""

    node: str
    reason: str
    """Why."""


class ExtendedDocument(JobDocument):
    """A job after its time limit was extended."""

    time_limit_before: float
    """The limit before, in seconds."""
    told: tuple[str, ...]
    """Nodes that keep the new limit."""
    pending: tuple[PendingNode, ...]
    """Nodes that get it at the next scheduling pass."""


class Extend(Request[ExtendedDocument]):
    """Let a job run for longer than its time limit: `seconds` more, or, without `add`, so many from its start."""

    function: ClassVar[str] = "time_limits.extend"
    job: str
    seconds: float
    add: bool
