"""Requests about UGRO's own records, and their answers."""

from __future__ import annotations

from typing import ClassVar

from ugro.service.schemas.base import Document, Request
from ugro.service.schemas.jobs import UnreadableDocument


class RebuiltDocument(Document):
    """What the rebuilt indexes have."""

    live: int
    """Number of jobs that have not ended."""
    ended: int
    """Number of jobs that have ended."""
    unreadable: tuple[UnreadableDocument, ...]
    """Jobs whose records cannot be read."""
    mended: tuple[str, ...]
    """What was done about `cluster.json`, in sentences."""


class Rebuilt(Document):
    """The same, and the state directory."""

    answer: RebuiltDocument
    home: str


class Rebuild(Request[Rebuilt]):
    """Rebuild the indexes of jobs from the jobs' folders."""

    function: ClassVar[str] = "records.rebuild"
