"""What monitoring gets: a snapshot of the live view, the progress of trainings, and what this process counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

from ugro.common.config import Inventory
from ugro.common.errors import UgroError
from ugro.common.models.gpu import Gpu
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.common.models.node import NodeView
from ugro.control_plane.counts import Counts
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.metrics_store.training import Index, JobSeries, Known
from ugro.service.live import live_view, read_recorded
from ugro.service.schemas.live import LiveJob, LiveView

ENDED_SECONDS = 600.0
"""Seconds for which an ended job has gauges."""

LIVE_JOBS = 200
"""With more jobs that have not ended, no job has gauges of its own."""

LOSS = ("loss", "train/loss", "train_loss")
LEARNING_RATE = ("lr", "learning_rate", "train/learning_rate")
"""Names of a series; the first one that there is counts."""


@dataclass(frozen=True)
class TrainingNow:
    """What a job's training said last. `at`: when its step was read; `rate` in steps a second."""

    at: float
    step: int | None = None
    steps: int | None = None
    rate: float | None = None
    loss: float | None = None
    learning_rate: float | None = None


@dataclass(frozen=True)
class Serve:
    """What only a resident controller knows: its counts, open live views, and the lateness of its event loop (s)."""

    counts: Counts
    clients: int
    lag: float | None


@dataclass(frozen=True)
class Snapshot:
    """What is known at one moment. `seen` has when each node answered last, `waiting` since when queued jobs wait.

    `gpus` has by UUID what the live view does not show of those of nodes that answer.
    """

    view: LiveView
    seen: Mapping[str, float] = field(default_factory=dict)
    waiting: Mapping[str, float] = field(default_factory=dict)
    gpus: Mapping[str, Gpu] = field(default_factory=dict)
    training: Mapping[str, TrainingNow] = field(default_factory=dict)
    dcgm_names: bool = False
    serve: Serve | None = None
    swept_at: float | None = None
    """When the pass of `ugro sweep` that writes this was complete; None in the resident controller."""


def is_told(job: LiveJob, now: float) -> bool:
    """Whether a job may have gauges: it has not ended, or did a moment ago."""
    return not job.state.ended or (job.ended_at is not None and now - job.ended_at <= ENDED_SECONDS)


class Monitor:
    """Reads snapshots of one state directory. Series of jobs stay known from one to the next."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store
        self._series: dict[str, JobSeries] = {}

    def read(self, inventory: Inventory, serve: Serve | None = None, swept_at: float | None = None) -> Snapshot:
        """Read what the last tick left. For threads: it reads files.

        Raises:
            StateError: the state directory cannot be read.
        """
        known = read_recorded(self._store, inventory, attended=True)
        view = live_view(known)
        told = [key for key, job in view.jobs.items() if job.started_at is not None and is_told(job, view.at)]
        if len(known.live) > LIVE_JOBS:
            told = []
        self._series = {key: self._series.get(key) or self._store.metrics.series(key) for key in told}
        training = {key: found for key, series in self._series.items() if (found := _training(series))}
        answers = {name: one for name, one in known.views.items() if isinstance(one, NodeView)}
        return Snapshot(
            view,
            seen={name: one.seen_at for name, one in ({**known.remembered} | answers).items()},
            waiting={job.id: _waits_since(job) for job in known.live if job.state == JobState.QUEUED},
            gpus={gpu.uuid: gpu for node in answers.values() for gpu in node.gpus},
            training=training,
            dcgm_names=inventory.metrics.dcgm_names,
            serve=serve,
            swept_at=swept_at,
        )


def _waits_since(job: Job) -> float:
    """When a queued job began to wait: one that was resumed did at the end of the attempt before."""
    return max([job.submitted_at, *(one.ended_at for one in job.past if one.ended_at is not None)])


def _training(series: JobSeries) -> TrainingNow | None:
    """Return a training's last values; None: there are none, or they cannot be read, which `problems` report."""
    try:
        index = series.index()
        loss, rate = (_last(series, index, names) for names in (LOSS, LEARNING_RATE))
    except UgroError:
        return None
    if (found := index.progress) is None:
        return None
    return TrainingNow(found.at, found.step, found.steps, found.rate, loss, rate)


def _last(series: JobSeries, index: Index, names: tuple[str, ...]) -> float | None:
    """The last value of the first of these series, from where it is newest; None: there is none, or it is no number."""
    for name in names:
        if kept := [known for known in index.series.values() if known.name == name and known.count]:
            return _value(series, max(kept, key=lambda known: known.at))
    return None


def _value(series: JobSeries, known: Known) -> float | None:
    if not known.bad:
        return known.last
    with series.opened(known) as points:
        value = points.point(known.count - 1)[2]
    return value if isfinite(value) else None
