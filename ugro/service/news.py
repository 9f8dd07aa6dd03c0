"""Which changes are worth telling."""

from __future__ import annotations

from ugro.common.models.event import Event
from ugro.common.models.event_kind import EventKind
from ugro.control_plane.metadata_store import MetadataStore

QUIET_KINDS = (EventKind.RANKS, EventKind.PLACED)
"""Events that appear in a job's timeline only."""


def is_news(event: Event) -> bool:
    """Whether a change is worth telling beside its job's timeline."""
    return event.kind not in QUIET_KINDS


def news_of(store: MetadataStore, cursor: int) -> list[Event]:
    """Return what this process changed since a cursor of its bus that is worth telling."""
    return list(filter(is_news, store.bus.read(cursor).events))
