"""Reads from the state directory what a plan for a job needs beside its record and the observation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from ugro.common.config import NodeConfig
from ugro.common.errors import UgroError
from ugro.common.job_spec import JobSpec
from ugro.common.models.event_kind import EventKind
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.common.models.metrics import GpuSample
from ugro.common.models.run import RunFiles
from ugro.control_plane.controller.plan import JobFacts
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.records import pass_over
from ugro.engines.base import Observation


def read_facts(
    store: MetadataStore,
    job: Job,
    seen: Observation,
    meeting_asked: float | None,
    note: Callable[[UgroError], None],
) -> JobFacts:
    """Read the facts of a job. A problem with the watchdog's memory is passed to `note`: the job is followed without.

    Raises:
        StateError: the job's events or samples cannot be read.
    """
    if job.wish:
        requested = [one.at for one in store.timeline.of_job(job.id) if one.kind == EventKind.CANCEL]
        return JobFacts(cancel_requested_at=requested[-1] if requested else None)
    if job.state not in (JobState.RUNNING, JobState.UNKNOWN) or job.first_failure:
        return JobFacts()
    spec: JobSpec | None = None
    sample: GpuSample | None = None
    if any(isinstance(run, RunFiles) and run.time_limit is not None for run in seen.runs[job.id].values()):
        with contextlib.suppress(UgroError):  # a job without a readable spec keeps the limit it has
            spec = store.jobs.spec(job.id)
    with store.optional():
        sample = store.metrics.last_sample(job.id)
    return JobFacts(
        spec=spec,
        sampled_at=sample.at if sample else None,
        watch_due=_watch_is_due(store, job, seen, note),
        meeting_asked=meeting_asked,
    )


def _watch_is_due(store: MetadataStore, job: Job, seen: Observation, note: Callable[[UgroError], None]) -> bool:
    # Here, since its import takes long, and many commands tick without a running job.
    from ugro.control_plane.failure_handler.watchdog.watch import is_due

    try:
        return is_due(store, job.id, seen)
    except UgroError as error:
        note(error)
        return False


def configs_in_use(store: MetadataStore) -> list[NodeConfig]:
    """Return the nodes as runs were started with them that are not over, or that left something there."""
    owing = store.jobs.all({job_id for job_id, _ in store.cleanup.leftovers()}, pass_over)
    kept = [config for job in (*store.jobs.live(pass_over), *owing) for config in job.node_configs.values()]
    return [*kept, *(one.config for one in store.cleanup.removals())]
