"""Draws what scheduling passes change."""

from __future__ import annotations

from ugro.common.text import printable
from ugro.service.schemas.jobs import EventDocument
from ugro.service.words import kind_in_words


def news_line(event: EventDocument) -> str:
    """Return one change in one line."""
    what = f"{event.job or event.node} {kind_in_words(event.kind)}".lstrip()
    return what + (f": {printable(event.message)}" if event.message else "")
