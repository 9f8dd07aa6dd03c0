"""States in which a job accepts a request: commands check them before they act, and completion offers such jobs."""

from __future__ import annotations

from collections.abc import Mapping

from ugro.common.models.job import Job, Summary
from ugro.common.models.job_state import JobState

_LIVE = frozenset(state for state in JobState if not state.ended)
_WAITING = frozenset({JobState.QUEUED, JobState.HELD})

STATES: Mapping[str, frozenset[JobState]] = {
    "hold": _WAITING,  # a held job may get another reason
    "release": frozenset({JobState.HELD}),
    "reprioritize": _WAITING,
    "edit": _WAITING,
    "stacks": frozenset({JobState.RUNNING, JobState.UNKNOWN}),
    "checkpoint": frozenset({JobState.RUNNING, JobState.UNKNOWN}),  # the nodes that answer can be asked all the same
    "exec": frozenset(state for state in JobState if state.on_nodes),
    "extend": _LIVE,
    "cancel": _LIVE,
    "wait": _LIVE,
    "resume": frozenset(JobState) - _LIVE,
    "rm": frozenset(JobState) - _LIVE,
}
"""States by request. Every other command takes a job in any state."""

_DESPITE_CANCEL = frozenset({"cancel", "exec", "wait", "stacks"})
"""Requests that a job accepts while its cancel is under way."""


def accepts(request: str, job: Job | Summary) -> bool:
    """Whether a request can be made of a job as it is now."""
    if request not in STATES:
        return True
    ending = isinstance(job, Job) and job.wish is not None and not job.state.ended
    return job.state in STATES[request] and not (ending and request not in _DESPITE_CANCEL)
