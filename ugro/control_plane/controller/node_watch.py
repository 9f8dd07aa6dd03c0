"""Keep what ticks observe of the nodes: their last views, since when one is unreachable, their GPUs' history, news."""

from __future__ import annotations

from collections.abc import Sequence

from ugro.common.config import Inventory
from ugro.common.errors import AnswerPending, NodeError
from ugro.common.models.drain import Drain, DrainOrigin
from ugro.common.models.event_kind import EventKind
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.common.models.node import NodeView, Silence
from ugro.common.text import duration
from ugro.common.troubles import Troubles
from ugro.control_plane.controller.share_watch import report_excess
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.resource_manager import monitor
from ugro.control_plane.resource_manager.governor import holders
from ugro.control_plane.resource_manager.monitor import SILENCE_GRACE
from ugro.engines.base import Observation


def drain_departed(store: MetadataStore, inventory: Inventory) -> None:
    """A node that left the inventory keeps what it runs and gets nothing new, until it is back."""
    drains = store.config.drains()
    for node in inventory.departed:
        if node not in drains:
            reason = "it is not in the inventory any more"
            store.config.drain(Drain(node=node, reason=reason, since=store.clock.now(), origin=DrainOrigin.INVENTORY))
    for node, drain in drains.items():
        if drain.origin == DrainOrigin.INVENTORY and node in inventory.present().nodes:
            store.config.undrain(node)


def remember(store: MetadataStore, inventory: Inventory, seen: Observation, live: Sequence[Job]) -> None:
    """Keep the observed state of the nodes, and note their changes in the timeline."""
    now = store.clock.now()
    for view in seen.views.values():
        if isinstance(view, NodeError):
            store.counts.node_errors.add((view.node, view.code))
    before, silent = store.config.remembered_nodes(), store.config.silences()
    said = {name: view for name, view in seen.views.items() if not isinstance(view, AnswerPending)}
    still = {name: silence for name, silence in silent.items() if name in seen.views and name not in said}
    quiet = still | monitor.silences(silent, said, now)
    given_time = {name for name, silence in quiet.items() if _becomes_long(silent.get(name), silence)}
    for job in live:
        if job.state == JobState.UNKNOWN and given_time.intersection(job.nodes):
            store.decisions.remember_undecided(job.id)
    answering = [view for view in seen.views.values() if isinstance(view, NodeView)]
    store.config.remember_nodes(answering, inventory.nodes.values(), quiet)
    troubles = Troubles()
    for view in answering:
        with troubles.boundary(f"{view.node}: what is new there"):
            if view.node in silent:
                words = f"after {duration(now - silent[view.node].since)}"
                store.timeline.note(view.node, EventKind.ANSWERS, words)
            for kind, message in monitor.news(before.get(view.node), view, store.config.known_master()):
                store.timeline.note(view.node, kind, message)
    for name, silence in quiet.items():
        why = said.get(name)
        if name not in silent and isinstance(why, NodeError):
            store.timeline.note(name, EventKind.SILENT, why.problem)
        elif name in given_time:
            store.timeline.note(name, EventKind.PROPOSAL, proposal(name, silence, now))
    with troubles.boundary("shared GPUs"):
        report_excess(store, seen, live)
    troubles.raise_first(store.tell)


def keep_looks(store: MetadataStore, seen: Observation, jobs: Sequence[Job]) -> None:
    """Add an observation of the GPUs to their history. `jobs` are the live jobs of that observation."""
    held, troubles = holders(jobs), Troubles()
    for name, view in seen.views.items():
        if isinstance(view, NodeView):
            with troubles.boundary(f"{name}: the history of its GPUs"), store.optional():
                store.metrics.history.add(name, monitor.looks(view, held))
    troubles.raise_first(store.tell)


def _becomes_long(before: Silence | None, now: Silence) -> bool:
    return before is not None and before.watched < SILENCE_GRACE <= now.watched


def proposal(node: str, silence: Silence, now: float) -> str:
    """Return what the user can do about a node that is unreachable for long; UGRO does none of it by itself."""
    return (
        f"unreachable for {duration(now - silence.since)}; its jobs are kept. If {node} is gone for good: "
        f"ugro cancel JOB --abandon"
    )
