"""Which nodes are drained: what a table says, and what the timeline says happened since. Pure, but for the table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tinydb import TinyDB

from ugro.common.models.event import Event
from ugro.common.models.node import Drain
from ugro.control_plane.metadata_store.records import known_part


def drains_in(db: TinyDB) -> dict[str, Drain]:
    """Return the drains of a `cluster.json`, by node."""
    return {row["node"]: known_part(Drain, dict(row)) for row in db.table("drains").all()}


def drains_told(drains: Mapping[str, Drain], events: Iterable[Event]) -> dict[str, Drain]:
    """Return drains as they were at some moment, with what the timeline says happened to them since."""
    known = dict(drains)
    for event in events:
        if event.node in known and event.at < known[event.node].since:
            continue
        if event.kind == "drained":
            known[event.node] = Drain(node=event.node, reason=event.message, since=event.at)
        elif event.kind == "undrained":
            known.pop(event.node, None)
    return known


def take_drains(db: TinyDB, events: Sequence[Event]) -> None:
    """Bring the table up to what the timeline says, where `cluster.json` is new or an older copy."""
    known = drains_in(db)
    told = drains_told(known, events)
    changed = {node for node in {*known, *told} if known.get(node) != told.get(node)}
    db.table("drains").remove(lambda row: row.get("node") in changed)
    db.table("drains").insert_multiple(told[node].model_dump() for node in told if node in changed)
