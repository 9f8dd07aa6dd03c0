"""Plan a tick's actions for a job, and for what ended jobs left on nodes, by records and an observation. Pure.

The tick executes what is planned here, and plans nothing itself. An action names what to do, not how: it may be cut
short anywhere, since the next tick plans again from the records and the nodes' files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import AnswerPending
from ugro.common.job_spec import JobSpec
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.common.models.metrics import GpuSample
from ugro.common.models.node import NodeView
from ugro.common.models.owed import Owed
from ugro.control_plane import transitions
from ugro.control_plane.failure_handler.watchdog.rendezvous import PATIENCE, waits_to_meet
from ugro.control_plane.resource_manager import monitor
from ugro.control_plane.scheduler import time_limits, tracker
from ugro.control_plane.scheduler.tracker import Assessment, Phase
from ugro.control_plane.transitions import Change
from ugro.engines.base import Observation

SAMPLE_SECONDS = 10.0
"""Seconds between two samples of a job's GPUs that are kept."""

HOW_TO_REACH = ("address", "user", "port", "identity_file", "ssh_config", "local")
"""Fields of a node's description that may change under a run, once the node does not answer where the run started."""


@dataclass(frozen=True)
class RecordChange:
    """Write a change of the job's record."""

    change: Change


@dataclass(frozen=True)
class Sample:
    """Keep what the GPUs of a job show."""

    job_id: str
    samples: tuple[GpuSample, ...]


@dataclass(frozen=True)
class Start:
    """Bring a placed job to its nodes. `owners` has the owner lines of those that answered."""

    job: Job
    owners: Mapping[str, str]


@dataclass(frozen=True)
class TellLimit:
    """Send these nodes the extended time limit of a job."""

    job: Job
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Conclude:
    """End a job whose ranks ended with 0, once what they left running has had its time."""

    job: Job
    found: Assessment


@dataclass(frozen=True)
class Fail:
    """Fetch the ends of the logs, name what failed first, and end the other ranks."""

    job: Job
    found: Assessment


@dataclass(frozen=True)
class Stop:
    """End what remains of a job on its nodes; it is over in this state once all of them confirm it."""

    job: Job
    state: JobState


@dataclass(frozen=True)
class RunWatchdog:
    """Let the watchdog take a sample of a running job."""

    job: Job


@dataclass(frozen=True)
class AskMeeting:
    """Ask the nodes why no rank of a job has begun."""

    job: Job


Ending = Conclude | Fail | Stop
"""Actions that end a job. A request to end it breaks off anything else that is under way on its nodes."""

OnNodes = Start | TellLimit | Ending
"""Actions that take long on a job's nodes: one at a time for each job, beside the ticks."""

Begun = OnNodes | RunWatchdog | AskMeeting
"""Actions that a tick only begins, since nodes are asked."""

Action = RecordChange | Sample | Begun


@dataclass(frozen=True)
class JobFacts:
    """Facts that a plan for a job needs beside its record and the observation.

    `cancel_requested_at` is when its end was requested last, `spec` None where it cannot be read or is not needed,
    `sampled_at` the time of the last sample that is kept. `meeting_asked` is the number of seconds since the nodes were
    asked why no rank has begun; None: they were not asked.
    """

    cancel_requested_at: float | None = None
    spec: JobSpec | None = None
    sampled_at: float | None = None
    watch_due: bool = False
    meeting_asked: float | None = None


def plan(job: Job, seen: Observation, facts: JobFacts, now: float) -> list[Action]:
    """Return what to do about a job, in order: at most one action changes its record, one after it acts on nodes."""
    if not job.state.on_nodes:
        return [RecordChange(end_unstarted(job, now))] if job.wish else []
    if job.state == JobState.STARTING and not (job.wish or job.first_failure):
        return [start(job, seen)]
    found = tracker.assess(job, seen.runs[job.id])
    if any(isinstance(run, AnswerPending) for run in seen.runs[job.id].values()):
        return [Stop(job, JobState.CANCELLED)] if job.wish else _watch(job, found, seen, facts)
    if job.first_failure:  # also where its end was requested afterwards
        return [Stop(job, JobState.FAILED)]
    if job.wish:
        return [_end_as_requested(job, found, seen, facts)]
    return [*_sample(job, seen, facts, now), *_follow(job, found, seen, facts, now)]


def start(job: Job, seen: Observation) -> Start:
    """Return how a placed job is brought to its nodes."""
    owners = {name: view.owner for name, view in seen.views.items() if isinstance(view, NodeView) and view.owner}
    return Start(job, owners)


def end_unstarted(job: Job, now: float) -> Change:
    """Return the end of a job whose end was requested before it started."""
    words = "cancelled before it started"
    return transitions.end(job, JobState.CANCELLED, words, now, words)


def relocate(job: Job, nodes: Mapping[str, NodeConfig]) -> Change:
    """Return the record of a job whose nodes are reached in another way. What it runs with there stays as it was."""
    assert job.placement
    shares = []
    for share in job.placement.shares:
        there, was = nodes.get(share.node), share.config
        if there and was:
            reached = {field: getattr(there, field) for field in HOW_TO_REACH}
            share = share.model_copy(update={"config": was.model_copy(update=reached)})
        shares.append(share)
    placement = job.placement.model_copy(update={"shares": tuple(shares)})
    words = "; ".join(f"{name} is reached at {config.address} now" for name, config in nodes.items())
    return transitions.move(job, placement, words)


def _end_as_requested(job: Job, found: Assessment, seen: Observation, facts: JobFacts) -> Action:
    """End a job as requested; one that had ended before the request counts as it ended."""
    if job.state != JobState.STARTING and found.phase == Phase.SUCCEEDED:
        return Stop(job, JobState.SUCCEEDED)
    requested = facts.cancel_requested_at
    failed_before = requested is not None and tracker.failed_before(found.ranks, requested, seen.clock_offsets)
    return Fail(job, found) if found.phase == Phase.FAILED and failed_before else Stop(job, JobState.CANCELLED)


def _sample(job: Job, seen: Observation, facts: JobFacts, now: float) -> list[Action]:
    if facts.sampled_at is not None and 0 <= now - facts.sampled_at < SAMPLE_SECONDS:
        return []
    samples = monitor.samples(job, seen.views, now)
    return [Sample(job.id, tuple(samples))] if samples else []


def _follow(job: Job, found: Assessment, seen: Observation, facts: JobFacts, now: float) -> list[Action]:
    """Follow what the nodes say of a running job."""
    known, job = job.ranks, job.changed(ranks=found.ranks)
    match found.phase:
        case Phase.SUCCEEDED:
            return [Conclude(job, found)]
        case Phase.FAILED:
            return [Fail(job, found)]
        case Phase.UNKNOWN if job.state != JobState.UNKNOWN:
            return [RecordChange(transitions.lose_sight(job, found.reason, now)), *_attend(job, found, seen, facts)]
        case Phase.RUNNING if job.state == JobState.UNKNOWN:
            change = transitions.run(job, now, "its nodes answer again")
            return [RecordChange(change), *_attend(job, found, seen, facts)]
        case Phase.RUNNING if found.ranks != known:
            change = transitions.follow_ranks(job, now, tracker.news_of_ranks(known, found.ranks))
            return [RecordChange(change), *_attend(job, found, seen, facts)]
    return _attend(job, found, seen, facts)


def _attend(job: Job, found: Assessment, seen: Observation, facts: JobFacts) -> list[Action]:
    """Send nodes an extended time limit, else watch the job."""
    if facts.spec and (nodes := time_limits.untold(facts.spec, seen.runs[job.id])):
        return [TellLimit(job, tuple(nodes))]
    return _watch(job, found, seen, facts)


def _watch(job: Job, found: Assessment, seen: Observation, facts: JobFacts) -> list[Action]:
    """See whether a running job hangs, or its ranks never meet."""
    if found.phase != Phase.RUNNING or job.state not in (JobState.RUNNING, JobState.UNKNOWN):
        return []
    asked = facts.meeting_asked is not None and facts.meeting_asked < PATIENCE
    unmet: list[Action] = [] if asked or not waits_to_meet(job, seen.runs[job.id], seen.at) else [AskMeeting(job)]
    return [*unmet, *([RunWatchdog(job)] if facts.watch_due else [])]


# --- what ended jobs left on nodes -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clear:
    """End what an attempt that was ended without unreachable nodes left on those of `nodes` that are `back`."""

    job: Job
    nodes: tuple[str, ...]
    back: tuple[str, ...]


@dataclass(frozen=True)
class RemoveOwed:
    """Remove what removed jobs left on a node that was unreachable then. `place` is the node as it was described."""

    place: str
    owed: tuple[Owed, ...]


def clearing(job: Job, nodes: Sequence[str], inventory: Inventory, seen: Observation) -> Clear | None:
    """Return what to end of an attempt that was ended without these nodes, on those that answer again.

    A node that the inventory describes otherwise by now is asked, too: it may answer where the job was started.
    """
    elsewhere = [node for node, was in job.node_configs.items() if inventory.nodes.get(node) != was]
    back = tuple(node for node in nodes if node in elsewhere or isinstance(seen.views.get(node), NodeView))
    return Clear(job, tuple(nodes), back) if back else None


def removals(owed: Sequence[Owed], inventory: Inventory, seen: Observation) -> list[RemoveOwed]:
    """Return what to remove on nodes that answer again, or that the inventory describes otherwise by now."""
    by_place: dict[str, list[Owed]] = {}
    for one in owed:
        by_place.setdefault(one.config.model_dump_json(), []).append(one)
    return [
        RemoveOwed(place, tuple(ones))
        for place, ones in by_place.items()
        if inventory.nodes.get(ones[0].config.name) != ones[0].config
        or isinstance(seen.views.get(ones[0].config.name), NodeView)
    ]
