"""Reports jobs that share a GPU and use more of its memory than they declared. Nothing is ended: people decide."""

from __future__ import annotations

from collections.abc import Sequence

from ugro.common.models.event_kind import EventKind
from ugro.common.models.job import Job
from ugro.common.troubles import Troubles
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.resource_manager.tenants import excess_in_words, tenants
from ugro.engines.base import Observation


def report_excess(store: MetadataStore, seen: Observation, jobs: Sequence[Job]) -> None:
    """Note in the timeline, once an attempt, that a job uses more of its GPU than it declared.

    The caller holds the store's lock. `jobs` are those of the observation.
    """
    sharing, troubles = tenants(jobs), Troubles()
    for job in jobs:
        if (words := excess_in_words(job, seen.views, sharing)) and job.placement:
            with troubles.boundary(f"{job.id}: what it uses of a shared GPU", job.id):
                if not _is_told(store, job):
                    store.timeline.note(job.placement.shares[0].node, EventKind.OVER_SHARE, words, job.id)
    troubles.raise_first(store.tell)


def _is_told(store: MetadataStore, job: Job) -> bool:
    begun = job.launched_at or job.submitted_at
    return any(one.kind == EventKind.OVER_SHARE and one.at >= begun for one in store.timeline.of_job(job.id))
