"""A job in words, as errors and every front end name it."""

from __future__ import annotations

from ugro.common.models.job import Job, JobState
from ugro.common.text import printable
from ugro.service.schemas.jobs import AttemptSummary, JobDocument

_STATES = {
    JobState.UNKNOWN: "is on a node that does not answer",
    JobState.SUCCEEDED: "has succeeded",
    JobState.FAILED: "has failed",
    JobState.CANCELLED: "was cancelled",
}


def title(job: Job | JobDocument) -> str:
    """Return the job's id, with its name where it has one."""
    return job.id if job.name == job.id else f"{job.id} ({job.name})"


def phase(job: Job | JobDocument) -> str:
    """Return the state of a job for people, who hear too that its ranks are being ended."""
    return "stopping" if job.stopping else job.state.value


def state_in_words(job: Job | JobDocument) -> str:
    """Return `job-001 (demo) has failed`."""
    cancelling = job.cancel_requested if isinstance(job, JobDocument) else job.wish is not None
    if cancelling and not job.state.ended:
        return f"{title(job)} is being cancelled"
    return f"{title(job)} {_STATES.get(job.state, f'is {phase(job)}')}"


def end_in_words(job: Job | JobDocument) -> str:
    """Return `job-001 failed: rank 1 on gpu2 failed first …`, of a job that has ended."""
    return f"{job.id} {job.state.value}: {printable(job.reason) or 'as was asked for'}"


def stopping_in_words(asked: bool, grace: float) -> str:
    """Return what happens to a job whose ranks are being ended, with `grace` seconds; `asked`: it was cancelled."""
    return f"{'cancel was asked for; ' if asked else ''}SIGTERM, after {grace:.0f} s SIGKILL"


def begins(attempt: AttemptSummary) -> str:
    """Return from where an attempt began: `the beginning`, `step 20 of attempt 1`."""
    if attempt.step is None and attempt.epoch is None:
        return "the beginning"
    where = f"epoch {attempt.epoch}" if attempt.step is None else f"step {attempt.step}"
    return where if attempt.source is None else f"{where} of attempt {attempt.source}"
