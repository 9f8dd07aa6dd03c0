"""Extend time limits after the launch: the record changes at once, the nodes follow once a tick has informed them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ugro.common.errors import InputError, JobFailed, NodeError
from ugro.common.job_spec import JobSpec
from ugro.common.models.event_kind import EventKind
from ugro.common.models.job import Job, LimitMark
from ugro.common.models.job_state import JobState
from ugro.common.models.run import RunFiles
from ugro.common.text import duration
from ugro.common.units import check_seconds
from ugro.control_plane.metadata_store import MetadataStore

Runs = Mapping[str, RunFiles | NodeError]

SAME = 0.002
"""Seconds by which two limits may differ that are the same: nodes receive whole milliseconds."""


@dataclass(frozen=True)
class Told:
    """Which nodes of a running job keep its time limit.

    `nodes` keep it, and `pending` has those that do not yet, and why. `deaf` are those that an earlier UGRO started:
    they keep the limit of their start. `late`: ranks are being ended by the previous limit.
    """

    nodes: list[str] = field(default_factory=list)
    pending: dict[str, str] = field(default_factory=dict)
    deaf: list[str] = field(default_factory=list)
    late: bool = False


def told(spec: JobSpec, runs: Runs) -> Told:
    """Return which of a running job's nodes keep the time limit that its spec has."""
    ranks = [rank for run in runs.values() if isinstance(run, RunFiles) for rank in run.ranks]
    found = Told(late=any(rank.limit == LimitMark.ENDED for rank in ranks))
    behind = untold(spec, runs)
    for node, run in runs.items():
        if isinstance(run, NodeError):
            found.pending[node] = run.message
        elif run.claimed and run.time_limit is None:
            found.deaf.append(node)
        elif node in behind:
            found.pending[node] = f"{node} does not have the new limit"
        else:
            found.nodes.append(node)
    return found


def untold(spec: JobSpec, runs: Runs) -> list[str]:
    """Return the nodes whose ranks keep another limit than the spec has, and can receive a new one."""
    limit = spec.time_limit
    if limit is None:
        return []
    kept = {node: run.time_limit for node, run in runs.items() if isinstance(run, RunFiles)}
    return [node for node, one in kept.items() if one is not None and not math.isclose(one, limit, abs_tol=SAME)]


def require_limit(job: Job, spec: JobSpec, seconds: float, add: bool) -> float:
    """The time limit of a job that may be extended (by `seconds`, or to so many), in seconds.

    Raises:
        InputError: it has none, has ended, or is being ended.
    """
    if job.state.ended:
        wanted = (spec.time_limit or 0.0) + seconds if add else seconds
        more = spec.time_limit and job.state != JobState.SUCCEEDED
        again = f"to resume it with that: {_resume(job, wanted)}" if more else ""
        raise InputError(f"{job.id} has ended: it is {job.state.value}", again or f"see: ugro status {job.id}")
    if job.wish or job.first_failure:
        raise InputError(f"{job.id} is stopping: its time limit no longer applies", f"see: ugro status {job.id}")
    if spec.time_limit is None:
        raise InputError(f"{job.id} has no time limit: it runs until it ends by itself", f"see: ugro status {job.id}")
    return spec.time_limit


def extend(store: MetadataStore, job_id: str, seconds: float, add: bool) -> tuple[Job, float, float]:
    """Record a longer time limit: `seconds` more, or so many in all. Returns the job, the limit before and the new one.

    Raises:
        InputError: the job has no limit or is over, or the new limit is not longer or is over the longest allowed.
    """
    with store.lock():
        job, spec = store.jobs.job(job_id), store.jobs.spec(job_id)
        before = require_limit(job, spec, seconds, add)
        limit = longer(job, before, seconds, add)
        words = f"time limit {duration(limit)}, before {duration(before)}"
        changed = spec.model_copy(update={"time_limit": limit})
        return store.jobs.respecify(job_id, changed, EventKind.EXTENDED, words), before, limit


def longer(job: Job, before: float, seconds: float, add: bool) -> float:
    """Return the limit that follows from the one before: `seconds` more, or so many in all.

    Raises:
        InputError: it is not longer, or over the longest that is allowed.
    """
    limit = before + seconds if add else seconds
    if limit <= before:
        hint = f"a limit can only be extended; to end it: ugro cancel {job.id}"
        raise InputError(f"{job.id} may run for {duration(before)} already", hint)
    try:
        return check_seconds(limit)
    except ValueError as error:
        raise InputError(f"{duration(limit)} in all: {error}") from None


def require_hearing(job: Job, found: Told, limit: float) -> None:
    """Check that the nodes of a job can receive another limit.

    Raises:
        InputError: an earlier UGRO started it there.
    """
    if found.deaf:
        nodes = ", ".join(found.deaf)
        told = f"{job.id} was started by an earlier UGRO on {nodes}, where it keeps the time limit it began with"
        raise InputError(
            told, f"save, end and resume it: ugro checkpoint {job.id} && ugro cancel {job.id} && {_resume(job, limit)}"
        )


def _resume(job: Job, limit: float) -> str:
    return f"ugro resume {job.id} --time {math.ceil(limit)}s"


def too_late(job: Job, limit: float) -> JobFailed:
    """The error for an extension that came when the limit of before was just reached."""
    told = f"{job.id} reached its time limit before it could be extended, and is being ended"
    return JobFailed(told, f"once it has ended: {_resume(job, limit)}")
