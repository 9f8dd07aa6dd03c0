"""Reads the queue for the scheduler: what waits, what runs and until when, and what each node can give."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ugro.common.config import Inventory
from ugro.common.errors import RecordUnreadable, UgroError
from ugro.common.job_spec import JobSpec
from ugro.common.models.job import Job, Summary
from ugro.common.models.job_state import JobState
from ugro.common.text import moment
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.history import run_of
from ugro.control_plane.metadata_store.records import may_hold
from ugro.control_plane.resource_manager.governor import Capacity, capacities, leases
from ugro.control_plane.resource_manager.monitor import Views
from ugro.control_plane.resource_manager.observation import as_told
from ugro.control_plane.resource_manager.tenants import tenants
from ugro.control_plane.scheduler.allocator import link_rates
from ugro.control_plane.scheduler.backfill import Queue, RunningJob, WaitingJob
from ugro.control_plane.scheduler.pending_reasons import (
    Blocker,
    DependencyUnreadable,
    HolderUnreadable,
    SecretNotSet,
)
from ugro.control_plane.scheduler.scheduling import blockers
from ugro.control_plane.scheduler.sweeps import limited

STOPS_WITHIN = 20.0
"""Seconds that a job which is being ended keeps its GPUs: ranks may ignore SIGTERM, and drivers take their time."""


def read_queue(
    store: MetadataStore,
    inventory: Inventory,
    jobs: Sequence[Job],
    views: Views,
    now: float,
    unreadable: Sequence[RecordUnreadable] = (),
) -> Queue:
    """Return the queue of these live jobs over the observed nodes. Jobs without a readable spec are left out.

    A job that an observation shows as ended holds nothing. `unreadable` live jobs may hold anything, so nothing starts
    beside them, unless a newer UGRO recorded that one holds nothing.
    """
    present = inventory.present()
    blocked = tuple(HolderUnreadable(error.path) for error in unreadable if may_hold(error))
    past = typical_seconds(store.jobs.summaries() if jobs else ())
    states = {job.id: job.state for job in jobs}
    waiting: list[WaitingJob] = []
    running: list[RunningJob] = []
    for job in jobs:
        if job.state.ended:
            continue
        spec = _spec(store, job)
        if job.state.on_nodes:
            ends = _expected_end(job, expected_seconds(spec, past) if spec else None, now)
            ends = now + STOPS_WITHIN if job.stopping else ends
            part = job.placement.part if job.placement else None
            mib = part.memory_mib if part else None
            running.append(RunningJob(job.id, frozenset(leases([job], present.nodes)), ends, job.stopping, mib))
        elif spec and not job.wish:
            found = (*blocked, *blockers_of(store, job, spec, states, now))
            order = int(job.id.rpartition("-")[2])
            waiting.append(WaitingJob(job.id, spec, job.priority, order, expected_seconds(spec, past), found))
    return Queue(limited(waiting, jobs), tuple(running), read_capacities(store, inventory, jobs, views), present, now)


def read_capacities(
    store: MetadataStore, inventory: Inventory, jobs: Sequence[Job], views: Views
) -> dict[str, Capacity]:
    """Return the capacity of each node of the inventory while these jobs hold their slots."""
    present, silences, now = inventory.present(), store.config.silences(), store.clock.now()
    said = {**views} | {name: as_told(views[name], silence) for name, silence in silences.items() if name in views}
    since = {name: moment(silence.since // 60 * 60, now) for name, silence in silences.items()}
    found = capacities(
        present,
        said,
        leases(jobs, present.nodes),
        store.config.drains(),
        store.config.known_gpus(),
        store.config.known_master(),
        since,
        tenants(jobs),
    )
    links = link_rates(store.metrics.links.all())
    return {name: replace(capacity, links=links.get(name, {})) for name, capacity in found.items()}


def typical_seconds(past: Sequence[Summary]) -> dict[str, float]:
    """Return how long equal runs took that succeeded: the median, in seconds, by `run_key`."""
    seen: dict[str, list[float]] = {}
    for row in past:
        if row.state == JobState.SUCCEEDED and row.started_at is not None:
            seen.setdefault(row.run, []).append(row.ended_at - row.started_at)
    return {run: statistics.median(seconds) for run, seconds in seen.items()}


def expected_seconds(spec: JobSpec, past: Mapping[str, float]) -> float | None:
    """Return how long a job is expected to run, as like jobs did, at most its time limit; None: not known."""
    like = past.get(run_of(spec))
    known = [seconds for seconds in (like, spec.time_limit) if seconds is not None]
    return min(known, default=None)


def _expected_end(job: Job, seconds: float | None, now: float) -> float | None:
    return None if seconds is None else max(now, (job.started_at or now) + seconds)


def _spec(store: MetadataStore, job: Job) -> JobSpec | None:
    try:
        return store.jobs.spec(job.id)
    except UgroError:
        return None


def blockers_of(
    store: MetadataStore, job: Job, spec: JobSpec, live: Mapping[str, JobState], now: float
) -> tuple[Blocker, ...]:
    """Return why a job may not start yet even on an idle cluster; `live` has the states of the live jobs."""
    gone = tuple(SecretNotSet(name) for name in store.secrets.missing(spec.secret_names.values()))
    if not spec.after:
        return (*gone, *blockers(job, spec, {}, now))
    unreadable: list[RecordUnreadable] = []
    names = {dependency.partition(":")[0] for dependency in spec.after}
    others = {name: live[name] for name in names & live.keys()}
    others |= {other.id: other.state for other in store.jobs.all(names - live.keys(), unreadable.append)}
    others |= {error.path.parent.name: JobState.UNKNOWN for error in unreadable}
    unread = (DependencyUnreadable(error.path) for error in unreadable)
    return (*unread, *gone, *blockers(job, spec, others, now))
