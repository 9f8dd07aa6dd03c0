"""Gives queued jobs the nodes and GPUs that the scheduler chose, and records that."""

from __future__ import annotations

from ugro.common.config import Inventory
from ugro.common.errors import UgroError
from ugro.common.models.job import Job, Placement
from ugro.common.models.job_state import JobState
from ugro.common.troubles import Troubles
from ugro.control_plane import transitions
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.records import stop_where_held
from ugro.control_plane.resource_manager.balancer import with_batch_shares
from ugro.control_plane.scheduler import tracker
from ugro.control_plane.scheduler.pending_words import turn_in_words
from ugro.control_plane.scheduler.queue import read_queue
from ugro.control_plane.scheduler.scheduling import schedule
from ugro.engines.base import Observation


def place_what_fits(store: MetadataStore, inventory: Inventory, seen: Observation, troubles: Troubles) -> list[Job]:
    """Place every job that can start now, and return them. A job whose spec is broken fails: the others must not wait.

    The caller holds the store's lock.

    Raises:
        StateError: a job that may hold GPUs cannot be read, so that nothing is known to be free.
    """
    jobs = store.jobs.live(stop_where_held)
    broken = [(job, why) for job in jobs if job.state == JobState.QUEUED and (why := _broken_spec(store, job))]
    for job, why in broken:
        store.decisions.remember_undecided(job.id)
        store.jobs.save(*transitions.end(job, JobState.FAILED, why, store.clock.now(), why))
    jobs = store.jobs.live(stop_where_held) if broken else jobs
    waiting = {job.id: job for job in jobs if job.state == JobState.QUEUED}
    if not waiting:
        return []
    placed = []
    for start in schedule(read_queue(store, inventory, jobs, seen.views, store.clock.now())).starts:
        with troubles.boundary(f"{start.id}: its start", start.id):
            placement, words = with_batch_shares(start.placement, store.metrics.speeds())
            why = "; ".join(filter(None, [turn_in_words(start), placement.why, words]))
            placed.append(_place(store, inventory, waiting[start.id], placement, why))
    return placed


def _broken_spec(store: MetadataStore, job: Job) -> str | None:
    try:
        store.jobs.spec(job.id)
    except UgroError as error:
        return error.message
    return None


def _place(store: MetadataStore, inventory: Inventory, job: Job, placement: Placement, why: str) -> Job:
    shares = [share.model_copy(update={"config": inventory.node(share.node)}) for share in placement.shares]
    placement = placement.model_copy(update={"shares": tuple(shares)})
    ranks = tracker.expected_ranks(job.changed(placement=placement))
    return store.jobs.save(*transitions.place(job, placement, ranks, why))
