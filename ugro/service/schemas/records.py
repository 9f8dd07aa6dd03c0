"""Requests about UGRO's own records, and their answers."""

from __future__ import annotations

from typing import ClassVar

from ugro.service.schemas.base import Document, Request
from ugro.service.schemas.jobs import UnreadableDocument


class RebuiltDocument(Document):
    """How many jobs the rebuilt indexes have, whose records cannot be read, and what was done about cluster.json."""

    live: int
    ended: int
    unreadable: tuple[UnreadableDocument, ...]
    mended: tuple[str, ...]


class Rebuilt(Document):
    """The same, and the state directory."""

    answer: RebuiltDocument
    home: str


class Rebuild(Request[Rebuilt]):
    """Rebuild the indexes of jobs from the jobs' folders."""

    function: ClassVar[str] = "records.rebuild"
