"""The edges between the states of a job: which event leads from where to where, and what it changes. Pure.

Each function is an edge and returns a `Change` for `store.jobs.save(*change)`. An edge that is not in `EDGES` is a bug:
it raises `ImpossibleTransition`, so that no record is written.

    submitted ─► QUEUED ◄─► HELD        QUEUED ─► STARTING ─► PLACED ─► RUNNING ◄─► UNKNOWN
                   ▲                               │ a launch broke off before any node was asked to start
                   └───────────────────────────────┘
    STARTING, PLACED, RUNNING, UNKNOWN ─► FAILING ─► FAILED        RUNNING, UNKNOWN ─► SUCCEEDED
    every stage of a live job ─► CANCELLED                         every ended one ─► QUEUED, its next attempt
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from ugro.common.models.checkpoint import Checkpoint
from ugro.common.models.event_kind import EventKind
from ugro.common.models.first_failure import FirstFailure
from ugro.common.models.job import Job, Placement, Rank, TakenBack, Wish, hang_alert
from ugro.common.models.job_state import JobState


class Stage(StrEnum):
    """Stage of a job's life: its state, split for some states by other fields of its record.

    `placed` is a starting job whose nodes may have been asked to start. `failing` is a job on nodes whose first failure
    is known: whatever else its nodes report, it does not run again.
    """

    QUEUED = "queued"
    HELD = "held"
    STARTING = "starting"
    PLACED = "placed"
    RUNNING = "running"
    UNKNOWN = "unknown"
    FAILING = "failing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


def stage(job: Job) -> Stage:
    """Return the stage that a job's record shows."""
    if job.state.on_nodes and job.first_failure:
        return Stage.FAILING
    if job.state == JobState.STARTING and job.placement and job.placement.master_port:
        return Stage.PLACED
    return Stage(job.state.value)


def _stay(*stages: Stage) -> dict[Stage, Stage]:
    return {one: one for one in stages}


_WAITING = (Stage.QUEUED, Stage.HELD)
_BEFORE_FAILURE = (Stage.STARTING, Stage.PLACED, Stage.RUNNING, Stage.UNKNOWN)
_ON_NODES = (*_BEFORE_FAILURE, Stage.FAILING)
_ENDED = (Stage.SUCCEEDED, Stage.FAILED, Stage.CANCELLED)

EDGES: Mapping[EventKind, Mapping[Stage, Stage]] = {
    EventKind.HELD: {Stage.QUEUED: Stage.HELD, Stage.HELD: Stage.HELD},  # held for another reason
    EventKind.RELEASED: {Stage.HELD: Stage.QUEUED},
    EventKind.PRIORITY: _stay(*_WAITING),
    EventKind.EDITED: _stay(*_WAITING),
    EventKind.STARTING: {Stage.QUEUED: Stage.STARTING, **_stay(Stage.STARTING, Stage.PLACED)},  # it is tried again
    EventKind.SETUP: _stay(Stage.STARTING, Stage.PLACED),
    EventKind.QUEUED: {Stage.STARTING: Stage.QUEUED},
    EventKind.PLACED: {Stage.STARTING: Stage.PLACED, Stage.PLACED: Stage.PLACED},  # by the next controller
    EventKind.RUNNING: {Stage.PLACED: Stage.RUNNING, Stage.UNKNOWN: Stage.RUNNING, Stage.RUNNING: Stage.RUNNING},
    EventKind.RANKS: {Stage.RUNNING: Stage.RUNNING, Stage.UNKNOWN: Stage.RUNNING},
    EventKind.LEFTOVERS: {Stage.RUNNING: Stage.RUNNING, Stage.UNKNOWN: Stage.RUNNING},
    EventKind.UNMET: _stay(Stage.RUNNING),
    EventKind.HANG: _stay(Stage.RUNNING),
    EventKind.IDLE: _stay(Stage.RUNNING),
    EventKind.MOVED: _stay(*_ON_NODES),
    EventKind.EXTENDED: _stay(*_WAITING, *_BEFORE_FAILURE),
    EventKind.UNKNOWN: {**dict.fromkeys(_BEFORE_FAILURE, Stage.UNKNOWN), Stage.FAILING: Stage.FAILING},
    EventKind.CANCEL: _stay(*_WAITING, *_ON_NODES),
    EventKind.FAILING: dict.fromkeys(_BEFORE_FAILURE, Stage.FAILING),
    EventKind.SUCCEEDED: dict.fromkeys((Stage.RUNNING, Stage.UNKNOWN), Stage.SUCCEEDED),
    EventKind.FAILED: dict.fromkeys((Stage.QUEUED, Stage.FAILING), Stage.FAILED),  # queued: its spec is broken
    EventKind.CANCELLED: dict.fromkeys((*_WAITING, *_ON_NODES), Stage.CANCELLED),
    EventKind.RESUMED: dict.fromkeys(_ENDED, Stage.QUEUED),
    EventKind.RESTORED: _stay(*Stage),
}
"""The stages in which an event may change a job, and the stage afterwards. `submitted` makes a job: it is queued
or held. Events that are only noted (`Event.noted`) change no record, and are not here."""


class ImpossibleTransition(Exception):
    """A change of a job that `EDGES` does not have: a bug. The record stays as it was."""

    def __init__(self, job: Job, source: Stage, target: Stage, kind: EventKind) -> None:
        last = f"; its last event is `{job.last_event.kind}`: {job.last_event.message}" if job.last_event else ""
        super().__init__(f"bug: {job.id}, attempt {job.attempt}: `{kind}` leads from {source} to {target}{last}")
        self.job_id = job.id
        self.source = source
        self.target = target
        self.kind = kind


class Change(NamedTuple):
    """A job's next record, and the event that reports it."""

    job: Job
    kind: EventKind
    message: str


def _edge(before: Job, after: Job, kind: EventKind, message: str) -> Change:
    source, target = stage(before), stage(after)
    if EDGES[kind].get(source) != target:
        raise ImpossibleTransition(before, source, target, kind)
    return Change(after, kind, message)


# --- waiting ---------------------------------------------------------------------------------------------------------


def hold(job: Job, reason: str) -> Change:
    """Keep a queued job from starting."""
    return _edge(job, job.changed(state=JobState.HELD, reason=reason), EventKind.HELD, reason)


def release(job: Job) -> Change:
    """Let a held job take its turn again."""
    return _edge(job, job.changed(state=JobState.QUEUED, reason=""), EventKind.RELEASED, "")


def reprioritize(job: Job, priority: int) -> Change:
    """Give a waiting job another priority."""
    return _edge(job, job.changed(priority=priority), EventKind.PRIORITY, f"priority {priority}")


def edit(job: Job, name: str, priority: int, command: tuple[str, ...], predicted_mib: int | None, said: str) -> Change:
    """Ask a waiting job for something else. `said` has each change."""
    edited = job.changed(name=name, priority=priority, command=command, predicted_mib=predicted_mib)
    return _edge(job, edited, EventKind.EDITED, said)


# --- starting --------------------------------------------------------------------------------------------------------


def place(job: Job, placement: Placement, ranks: tuple[Rank, ...], why: str) -> Change:
    """Give a queued job its nodes and GPUs. `why` says why these."""
    placed = job.changed(state=JobState.STARTING, placement=placement, ranks=ranks, reason="")
    return _edge(job, placed, EventKind.STARTING, f"on {', '.join(placed.nodes)}" + (f": {why}" if why else ""))


def set_up(job: Job, reason: str, message: str) -> Change:
    """Record what is set up on which nodes before the ranks of a job start; without a reason, that this is done."""
    return _edge(job, job.changed(reason=reason), EventKind.SETUP, message)


def set_meeting_point(job: Job, placement: Placement, now: float, message: str) -> Change:
    """Record where the ranks of a job meet, before any node is asked to start."""
    met = job.changed(placement=placement, launched_at=job.launched_at or now)
    return _edge(job, met, EventKind.PLACED, message)


def take_back(job: Job, taken_back: TakenBack, message: str) -> Change:
    """Queue a job again whose launch was broken off before any node was asked to start."""
    queued = job.changed(state=JobState.QUEUED, placement=None, ranks=(), reason="", taken_back=taken_back)
    return _edge(job, queued, EventKind.QUEUED, message)


def launch_again(job: Job, reason: str, message: str) -> Change:
    """Note why a launch is tried again of which nodes may have started their part."""
    return _edge(job, job.changed(reason=reason), EventKind.STARTING, message)


# --- running ---------------------------------------------------------------------------------------------------------


def as_running(job: Job, now: float, reason: str = "") -> Job:
    """Return the record of a job whose ranks run, or what they left running."""
    return job.changed(
        state=JobState.RUNNING,
        unknown_since=None,
        reason=reason,
        taken_back=None,
        started_at=job.started_at or now,
    )


def as_unknown(job: Job, reason: str, now: float) -> Job:
    """Return the record of a job whose nodes do not say what became of it, since `now` at the latest."""
    return job.changed(state=JobState.UNKNOWN, unknown_since=job.unknown_since or now, reason=reason)


def run(job: Job, now: float, message: str) -> Change:
    """Count a job as running: its ranks were started, or its nodes answer again."""
    return _edge(job, as_running(job, now), EventKind.RUNNING, message)


def follow_ranks(job: Job, now: float, message: str, reason: str = "") -> Change:
    """Record what became of single ranks. `reason`: what the job waits for before it counts as failed."""
    return _edge(job, as_running(job, now, reason), EventKind.RANKS, message)


def wait_for_leftovers(job: Job, now: float, reason: str) -> Change:
    """Wait for what a job left running whose ranks ended with 0."""
    return _edge(job, as_running(job, now, reason), EventKind.LEFTOVERS, reason)


def lose_sight(job: Job, reason: str, now: float) -> Change:
    """Count a job as unknown: a node of it cannot be read."""
    return _edge(job, as_unknown(job, reason, now), EventKind.UNKNOWN, reason)


def move(job: Job, placement: Placement, message: str) -> Change:
    """Record that nodes of a job are reached in another way."""
    return _edge(job, job.changed(placement=placement), EventKind.MOVED, message)


def find_unmet(job: Job, reason: str) -> Change:
    """Record why no rank of a job has begun."""
    return _edge(job, job.changed(reason=reason), EventKind.UNMET, reason)


def hang(job: Job, reason: str) -> Change:
    """Record that a running job seems to hang."""
    return _edge(job, job.changed(alert=hang_alert(reason)), EventKind.HANG, reason)


def calm(job: Job) -> Change:
    """Record that a hang is over."""
    return _edge(job, job.changed(alert=None), EventKind.RUNNING, "there is progress again")


def idle(job: Job, message: str) -> Change:
    """Record that the GPUs of a job did nothing for long."""
    return _edge(job, job, EventKind.IDLE, message)


# --- ending ----------------------------------------------------------------------------------------------------------


def cancel(job: Job, wish: Wish, message: str) -> Change:
    """Record that the end of a job is requested."""
    return _edge(job, job.changed(wish=wish), EventKind.CANCEL, message)


def fail(job: Job, failure: FirstFailure, reason: str) -> Change:
    """Record what of a job failed first; its other ranks are to be ended."""
    return _edge(job, job.changed(first_failure=failure, reason=reason), EventKind.FAILING, reason)


def fail_hang(job: Job, rank: int | None, consent: str) -> Change:
    """Record that a job which hangs is to be ended for it. `rank` takes no part, where one differs from the others."""
    node = next((one.node for one in job.ranks if one.rank == rank), next(iter(job.nodes), ""))
    failure = FirstFailure(rank=rank, node=node, cause="hang", message=job.hang or "")
    failed = job.changed(first_failure=failure, reason=job.alert or "", alert=None)
    return _edge(job, failed, EventKind.FAILING, f"{job.alert}; ended, {consent}")


def end(job: Job, state: JobState, reason: str, now: float, news: str) -> Change:
    """Record the end of a job; `news` is what its timeline says of it."""
    ended_at = max(job.ended_at or now, job.started_at or 0.0)  # a clock may have jumped between
    ended = job.changed(state=state, reason=reason, ended_at=ended_at, unknown_since=None, wish=None, alert=None)
    return _edge(job, ended, EventKind(state.value), news)


def resume(job: Job, command: tuple[str, ...], checkpoint: Checkpoint | None) -> Job:
    """Return an ended job as its next attempt is queued, from a checkpoint or from the beginning.

    `store.jobs.reopen` records it.
    """
    queued = job.changed(
        state=JobState.QUEUED,
        reason="",
        attempt=job.attempt + 1,
        command=command,
        past=(*job.past, job.latest),
        resume_from=checkpoint,
        placement=None,
        ranks=(),
        abandoned=(),
        gone_from=(),
        launched_at=None,
        started_at=None,
        ended_at=None,
        unknown_since=None,
        first_failure=None,
        wish=None,
        peak_mib=None,
        alert=None,
    )
    return _edge(job, queued, EventKind.RESUMED, "").job
