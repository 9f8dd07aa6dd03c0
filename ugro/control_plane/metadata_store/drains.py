"""Drained nodes: those of a table, and the timeline's changes since. Pure, but for the table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tinydb import TinyDB

from ugro.common.models.drain import Drain, DrainOrigin
from ugro.common.models.event import Event
from ugro.common.models.event_kind import EventKind
from ugro.control_plane.metadata_store.records import known_part


def drains_in(db: TinyDB) -> dict[str, Drain]:
    """Return the drains of a `cluster.json`, by node."""
    rows = ({"origin": _origin_before(str(row["reason"]))} | dict(row) for row in db.table("drains").all())
    return {str(row["node"]): known_part(Drain, row) for row in rows}


def drains_told(drains: Mapping[str, Drain], events: Iterable[Event]) -> dict[str, Drain]:
    """Return drains as they were at some moment, with what the timeline says happened to them since."""
    known = dict(drains)
    for event in events:
        if event.node in known and event.at < known[event.node].since:
            continue
        if event.kind == EventKind.DRAINED:
            known[event.node] = _drain_told(event)
        elif event.kind == EventKind.UNDRAINED:
            known.pop(event.node, None)
    return known


def _drain_told(event: Event) -> Drain:
    """Return the drain that an event reports. If only a newer UGRO knows its origin, this one may not end it."""
    origin = _origin_before(event.message) if event.origin is None else event.origin
    known = origin if isinstance(origin, DrainOrigin) else DrainOrigin.PERSON
    return Drain(node=event.node, reason=event.message, since=event.at, origin=known)


def _origin_before(reason: str) -> DrainOrigin:
    """Return the origin of a drain whose row or event an earlier UGRO wrote: only its text shows it."""
    return DrainOrigin.INVENTORY if reason == "it is not in the inventory any more" else DrainOrigin.PERSON


def take_drains(db: TinyDB, events: Sequence[Event]) -> None:
    """Bring the table up to what the timeline says, where `cluster.json` is new or an older copy."""
    known = drains_in(db)
    told = drains_told(known, events)
    changed = {node for node in {*known, *told} if known.get(node) != told.get(node)}
    db.table("drains").remove(lambda row: row.get("node") in changed)
    db.table("drains").insert_multiple(told[node].model_dump(mode="json") for node in told if node in changed)
