"""Draws what scheduling passes change."""

from __future__ import annotations

from ugro.common.text import printable
from ugro.service.schemas.jobs import EventDocument


def news_line(event: EventDocument) -> str:
    """Return one change in one line."""
    what = f"{event.job or event.node} {event.kind}".lstrip()
    return what + (f": {printable(event.message)}" if event.message else "")
