"""Requests that change nothing, and their answers."""

from __future__ import annotations

from typing import ClassVar

from ugro.service.schemas.base import Document, Request


class AttendedDocument(Document):
    """Whether a scheduler runs for this state directory: a resident controller, or sweeps from the crontab."""

    attended: bool


class Attended(Request[AttendedDocument]):
    """Ask whether a scheduler runs."""

    function: ClassVar[str] = "queries.attended"
