"""The queue as the scheduler wants it: what waits, what runs and until when, and what each node can give."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ugro.common.config import Inventory, JobSpec
from ugro.common.errors import UgroError, Unreachable
from ugro.common.models import Job, JobState, Placement, Summary
from ugro.control_plane import scheduler
from ugro.control_plane.history import run_of
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.resource_manager.balancer import Room, candidates, choose
from ugro.control_plane.resource_manager.governor import Offer, leases, offers
from ugro.control_plane.resource_manager.monitor import Views
from ugro.control_plane.scheduler import Forecast, Running, Schedule, Waiting


@dataclass(frozen=True)
class Queue:
    """Plain data for the scheduler's pure functions, as of one moment."""

    waiting: tuple[Waiting, ...]
    running: tuple[Running, ...]
    offers: Mapping[str, Offer]
    inventory: Inventory
    now: float

    def schedule(self) -> Schedule:
        """What starts now."""
        return scheduler.schedule(self.waiting, self.running, self.offers, self.inventory, self.now)

    def why(self, job_id: str) -> tuple[str, ...]:
        """Every reason why a job waits, nearest first."""
        return scheduler.why(job_id, self.waiting, self.running, self.offers, self.inventory, self.now)

    def forecast(self, job_id: str) -> Forecast:
        """When a waiting job is expected to start."""
        return scheduler.forecast(job_id, self.waiting, self.running, self.offers, self.inventory, self.now)

    def with_draft(self, job: Job, spec: JobSpec) -> Queue:
        """As it would be with one more job at its end."""
        order = 1 + max((other.order for other in self.waiting), default=0)
        draft = Waiting(job.id, spec, spec.priority, order, spec.time_limit, ())
        return replace(self, waiting=(*self.waiting, draft))

    def placement_of(self, job: Job, spec: JobSpec) -> Placement | None:
        """Where a job that is not submitted would start now."""
        starts = self.with_draft(job, spec).schedule().starts
        return next((start.placement for start in starts if start.id == job.id), None)

    def placement_when_idle(self, spec: JobSpec) -> Placement | None:
        """Where a job would start if nothing else ran and no node was drained or short of something."""
        idle = {name: replace(offer, busy={}, refusal=None) for name, offer in self.offers.items() if not offer.error}
        return choose(spec, candidates(spec, self.inventory), Room(idle))

    def why_not(self, job: Job, spec: JobSpec) -> tuple[str, ...]:
        """Why a job that is not submitted would wait."""
        return self.with_draft(job, spec).why(job.id)


def read_queue(store: MetadataStore, inventory: Inventory, jobs: Sequence[Job], views: Views, now: float) -> Queue:
    """The queue of these live jobs, over what the nodes said. Jobs without a readable spec are left out."""
    present = inventory.present()
    past = typical_seconds(store.summaries() if jobs else ())
    waiting: list[Waiting] = []
    running: list[Running] = []
    for job in jobs:
        spec = _spec(store, job)
        if job.state.on_nodes:
            ends = _expected_end(job, expected_seconds(spec, past) if spec else None, now)
            running.append(Running(job.id, frozenset(leases([job])), ends))
        elif spec and not job.wish:
            stops = _obstacles(store, job, spec, present, now)
            order = int(job.id.rpartition("-")[2])
            waiting.append(Waiting(job.id, spec, job.priority, order, expected_seconds(spec, past), stops))
    return Queue(tuple(waiting), tuple(running), read_offers(store, inventory, jobs, views), present, now)


def read_offers(store: MetadataStore, inventory: Inventory, jobs: Sequence[Job], views: Views) -> dict[str, Offer]:
    """What each node of the inventory can give while these jobs hold what they hold."""
    present = inventory.present()
    said = {name: views.get(name) or Unreachable(name, "did not answer yet") for name in present.nodes}
    return offers(present, said, leases(jobs), store.drains(), store.known_gpus(), store.known_master())


def typical_seconds(past: Sequence[Summary]) -> dict[str, float]:
    """How long equal runs took that succeeded: the median, in seconds, by `run_key`."""
    seen: dict[str, list[float]] = {}
    for row in past:
        if row.state == JobState.SUCCEEDED and row.started_at is not None:
            seen.setdefault(row.run, []).append(row.ended_at - row.started_at)
    return {run: statistics.median(seconds) for run, seconds in seen.items()}


def expected_seconds(spec: JobSpec, past: Mapping[str, float]) -> float | None:
    """How long a job is expected to run: as long as its like did, at most its time limit; None: nobody can say."""
    like = past.get(run_of(spec))
    known = [seconds for seconds in (like, spec.time_limit) if seconds is not None]
    return min(known, default=None)


def _expected_end(job: Job, seconds: float | None, now: float) -> float | None:
    return None if seconds is None else max(now, (job.started_at or now) + seconds)


def _spec(store: MetadataStore, job: Job) -> JobSpec | None:
    try:
        return store.spec(job.id)
    except UgroError:
        return None


def _obstacles(store: MetadataStore, job: Job, spec: JobSpec, present: Inventory, now: float) -> tuple[str, ...]:
    others = {}
    for dependency in spec.after:
        name = dependency.partition(":")[0]
        if store.files(name).record.exists():
            others[name] = store.job(name).state
    gone = [name for name in (spec.nodes if isinstance(spec.nodes, tuple) else ()) if name not in present.nodes]
    return (
        *scheduler.obstacles(job, spec, others, now),
        *(f"{name} is not in the inventory any more" for name in gone),
    )
