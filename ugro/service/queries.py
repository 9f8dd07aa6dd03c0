"""Reads the state of the cluster and of its jobs. Changes nothing."""

from __future__ import annotations

from ugro.service.context import Context
from ugro.service.schemas.queries import Attended, AttendedDocument


async def attended(context: Context, _: Attended) -> AttendedDocument:
    """Return whether a scheduler runs."""
    return AttendedDocument(attended=context.attended())
