"""Which changes are worth telling."""

from __future__ import annotations

from ugro.common.models.event import Event
from ugro.control_plane.metadata_store import MetadataStore

QUIET_KINDS = ("ranks", "placed")
"""Events that are told in a job's timeline and are no news of their own."""


def news_of(store: MetadataStore) -> list[Event]:
    """Return what this process changed that is worth telling."""
    return [event for event in store.timeline.added if event.kind not in QUIET_KINDS]
