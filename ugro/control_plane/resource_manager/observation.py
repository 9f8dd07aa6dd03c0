"""Observations of the nodes at one moment, made just now or by the resident controller a moment ago."""

from __future__ import annotations

from collections.abc import Mapping

from ugro.common.config import Inventory
from ugro.common.errors import AnswerPending, NodeError, Unreachable
from ugro.common.models.node import NodeView, Silence
from ugro.common.text import duration
from ugro.control_plane.metadata_store import RESIDENT_LOCK, MetadataStore
from ugro.engines.base import Observation

FRESH_SECONDS = 3.0
"""Seconds up to which the resident controller's observation is shown without a new one. It observes every two."""


def seen_by_resident(store: MetadataStore, inventory: Inventory, now: float) -> Observation | None:
    """Return the observation that `ugro serve` made a moment ago, if it runs and uses this inventory; its files of runs
    are in the jobs' records. None: the caller has to observe the nodes itself.
    """
    if not store.is_locked(RESIDENT_LOCK):
        return None
    remembered, silences, configs = (
        store.config.remembered_nodes(),
        store.config.silences(),
        store.config.remembered_configs(),
    )
    for name, config in inventory.nodes.items():
        view, silence = remembered.get(name), silences.get(name)
        looked_at = silence.seen_at if silence else view.seen_at if view else 0.0
        if configs.get(name) != config or not 0 <= now - looked_at <= FRESH_SECONDS:
            return None
    return Observation(last_look(store, inventory, now), {}, now)


def last_look(store: MetadataStore, inventory: Inventory, now: float) -> dict[str, NodeView | NodeError]:
    """Return each node's view at the last tick, or why it was unreachable."""
    said: dict[str, NodeView | NodeError] = {**store.config.remembered_nodes()}
    said |= {name: _error(name, silence, now) for name, silence in store.config.silences().items()}
    return {name: said[name] for name in inventory.nodes if name in said}


def as_told(view: NodeView | NodeError, silence: Silence | None) -> NodeView | NodeError:
    """Return an observation of a node, in the words of the tick that noted it as unreachable, which waited longer.

    An observation that ended too early shows nothing: the tick's finding still holds.
    """
    if silence is None or not silence.problem or isinstance(view, NodeView):
        return view
    if isinstance(view, AnswerPending) or view.code == silence.code:
        return _kind(silence)(view.node, silence.problem, silence.hint)
    return view


def _kind(silence: Silence) -> type[NodeError]:
    return {kind.code: kind for kind in NodeError.__subclasses__()}.get(silence.code, Unreachable)


def _error(name: str, silence: Silence, now: float) -> NodeError:
    because = f": {silence.problem}" if silence.problem else ""
    return _kind(silence)(name, f"has not answered for {duration(now - silence.since)}{because}", silence.hint)


def fresh_or_remembered(
    store: MetadataStore, seen: Observation
) -> tuple[dict[str, NodeView | None], dict[str, NodeError | None]]:
    """Return each node's view, fresh or as it was last seen, and why it is not fresh.

    Where an observation was only too short for a node that a tick found unreachable, the tick's finding is the reason.
    """
    silences = store.config.silences() if any(isinstance(view, AnswerPending) for view in seen.views.values()) else {}
    said = {name: as_told(view, silences.get(name)) for name, view in seen.views.items()}
    errors = {name: view if isinstance(view, NodeError) else None for name, view in said.items()}
    remembered: Mapping[str, NodeView] = store.config.remembered_nodes() if any(errors.values()) else {}
    views = {name: remembered.get(name) if isinstance(view, NodeError) else view for name, view in seen.views.items()}
    return views, errors
