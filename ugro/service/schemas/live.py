"""The live view: the cluster as a page shows it, whole at first and then only what changed."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Annotated, Any, ClassVar, Literal, Self

from annotated_types import Ge

from ugro.common.models.job_state import JobState
from ugro.service.schemas.base import Document, ErrorDocument, Stream
from ugro.service.schemas.codec import Moment
from ugro.service.schemas.nodes import DrainDocument

ENDED_SHOWN = 30
"""Ended jobs in the view: the last ones."""

TEXT_SHOWN = 160
"""Characters of a reason in the view; the job's own document has all of it."""


class LiveGpu(Document):
    """A GPU as its node last showed it. What the driver does not say is `null`."""

    left_out_where_empty: ClassVar[frozenset[str]] = frozenset({"jobs"})  # every update has every GPU

    index: int | None
    """The driver's index."""
    uuid: str
    """Its UUID."""
    name: str
    """Model."""
    memory_total_mib: int | None
    memory_used_mib: int | None
    utilization_percent: int | None
    temperature_c: int | None
    power_w: float | None
    problem: str | None
    """Why it cannot be used."""
    job: str | None
    """Id of the job that holds it; of those that share it, the oldest."""
    jobs: tuple[str, ...] | None = None
    """Ids of all jobs that hold it, where several share it; else it is left out."""

    @property
    def holders(self) -> tuple[str, ...]:
        """Ids of the jobs that hold it."""
        return self.jobs or ((self.job,) if self.job else ())


class LiveNode(Document):
    """A node."""

    name: str
    """Its name in the inventory."""
    address: str
    """Its address in the inventory."""
    reachable: bool
    """Whether it answered at the last tick."""
    error: ErrorDocument | None
    """Why it is unreachable."""
    last_seen: Moment | None
    """When an unreachable node last answered; `null` while it answers, or if it never did."""
    drained: DrainDocument | None
    """Why it gets no new jobs."""
    departed: bool
    """Whether it left the inventory while a job runs there."""
    cpu_count: int | None
    load_1m: float | None
    memory_total_mib: int | None
    memory_available_mib: int | None
    disk_free_mib: int | None
    gpu_problem: str | None
    """nvidia-smi's error message."""
    gpus: tuple[LiveGpu, ...]
    """Its GPUs."""


class LiveProgress(Document):
    """How far a run is, as far as it says so."""

    step: int | None
    steps: int | None
    """Steps that it will make."""
    epoch: float | None
    epochs: int | None
    """Epochs that it will make."""
    steps_per_second: float | None
    """Its recent speed."""
    ends_at: Moment | None
    """When it will probably end."""


class LiveJob(Document):
    """A job in short."""

    left_out_where_empty: ClassVar[frozenset[str]] = frozenset({"sweep"})  # every view has every job

    id: str
    name: str
    """Its name."""
    state: JobState
    attempt: int
    reason: str
    """Why it is in this state, or why it waits; at most 160 characters."""
    nodes: tuple[str, ...]
    """Names of its nodes, by node rank."""
    gpus: int
    """Number of GPUs that its attempt has, or had."""
    priority: int
    """Its priority."""
    submitted_at: Moment
    """When it was submitted."""
    started_at: Moment | None
    ended_at: Moment | None
    progress: LiveProgress | None
    """How far it is."""
    stopping: bool
    """Whether its ranks are being ended."""
    alert: str | None
    """Why it seems to hang, while it does."""
    user: str | None
    """The user who submitted it; `null`: not recorded."""
    sweep: str | None = None
    """Id of the sweep that it is part of; of a job by itself it is left out."""


class LiveSweep(Document):
    """A sweep in short: how many of its jobs are in each state, those counted that the view has no more."""

    id: str
    """Id of the sweep."""
    name: str
    """Its name; those of its jobs begin with it."""
    of: int
    """How many jobs it was launched with."""
    max_parallel: int | None
    """How many of them run at a time; `null`: as many as there is room for."""
    states: dict[JobState, int]
    """How many of its jobs are in each state that one of them is in."""


class LiveProposal(Document):
    """What is proposed about a job, in one line; it waits for an answer."""

    job: str
    attempt: int
    """The attempt that failed."""
    at: Moment
    """When it was proposed."""
    cause: str
    what: str
    """What is proposed."""


class LiveLink(Document):
    """A way from one node to another as last measured."""

    source: str
    target: str
    """Name of the node that received."""
    backend: str
    """What carried it."""
    gbit_per_s: float
    """Its speed."""
    latency_ms: float
    """Its latency."""
    measured_at: Moment
    """When it was measured."""


class LiveView(Document):
    """The cluster as it is now."""

    at: Moment
    """When it was put together."""
    attended: bool
    """Whether a scheduler runs."""
    nodes: dict[str, LiveNode]
    """By name, in the inventory's order."""
    jobs: dict[str, LiveJob]
    """By id: those that have not ended, and the last ones that did."""
    queue: tuple[str, ...]
    """Ids of the queued jobs, in the order of their turns."""
    proposals: dict[str, LiveProposal]
    """By job."""
    sweeps: dict[str, LiveSweep] = field(default_factory=dict)
    """By id: those that a job of the view is part of."""
    links: dict[str, LiveLink]
    """By `SOURCE>TARGET BACKEND`."""
    problems: dict[str, ErrorDocument]
    """What is wrong with UGRO's records, by message."""

    def with_changes(self, changes: LiveChanges) -> Self:
        """Return the view after these changes."""
        now: dict[str, Any] = {"at": changes.at}
        now |= {name: new for name in ("attended", "queue") if (new := getattr(changes, name)) is not None}
        for name in COLLECTIONS:
            items = getattr(self, name) | getattr(changes, name)
            now[name] = {key: item for key, item in items.items() if item is not None}
        return replace(self, **now)


COLLECTIONS = ("nodes", "jobs", "proposals", "sweeps", "links", "problems")
"""The fields of a view that have items by key."""


class LiveChanges(Document):
    """What changed in a view: each item that is new or other than before, whole; `null` for one that is gone."""

    at: Moment
    attended: bool | None = None
    """`null`: as before."""
    queue: tuple[str, ...] | None = None
    """`null`: as before."""
    nodes: dict[str, LiveNode | None] = field(default_factory=dict)
    jobs: dict[str, LiveJob | None] = field(default_factory=dict)
    proposals: dict[str, LiveProposal | None] = field(default_factory=dict)
    sweeps: dict[str, LiveSweep | None] = field(default_factory=dict)
    links: dict[str, LiveLink | None] = field(default_factory=dict)
    problems: dict[str, ErrorDocument | None] = field(default_factory=dict)


class LiveSnapshot(Document):
    """The whole view. `seq` is its number: each later one is greater."""

    type: Literal["snapshot"] = "snapshot"
    seq: int
    data: LiveView


class LiveDelta(Document):
    """What changed since the update before."""

    type: Literal["delta"] = "delta"
    seq: int
    data: LiveChanges


LiveUpdate = LiveSnapshot | LiveDelta


class Watch(Stream[LiveUpdate]):
    """Watch the cluster: a snapshot, then what changes. `every`: seconds between two ticks where no resident runs."""

    function: ClassVar[str] = "live.watch"
    repeatable: ClassVar[bool] = True
    every: Annotated[float, Ge(0.2)] = 2.0
