"""Whether a job that failed is tried again, proposed to be, or left: pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ugro.common.job_spec import JobSpec
from ugro.common.models.argument_change import ArgumentChange
from ugro.common.models.checkpoint import Checkpoint
from ugro.common.models.job import Attempt, Job
from ugro.common.models.job_state import JobState
from ugro.common.text import duration, some
from ugro.control_plane.diagnosis.causes import CAUSES

SAME_FAILURES = 2
"""Failures of one cause after the same checkpoint that are enough: another attempt would be the third."""

GRACE_AFTER_ALERT = 1.0
"""Times the watchdog's floor that a hang has to last after the alert, until a standing consent ends the job."""

FROM_OUTSIDE = ("killed", "hang")
"""Causes that say nothing against the job itself: it may go well without the interference."""


@dataclass(frozen=True)
class Decision:
    """`retry` after `wait` seconds, `ask`, or `leave`; why, in words."""

    action: str
    why: str
    wait: float = 0.0


def trouble(job: Job) -> str | None:
    """The cause of a failure, or of what a job that has not ended suffers from; None: nothing is to be decided."""
    if job.state == JobState.FAILED:
        return job.first_failure.cause if job.first_failure else "unknown"
    if job.wish or job.state.ended:
        return None
    if job.state == JobState.UNKNOWN:
        return "node_lost"
    return "hang" if job.alert and not job.first_failure else None


def decide(
    job: Job,
    cause: str,
    spec: JobSpec,
    checkpoint: Checkpoint | None,
    changes: tuple[ArgumentChange, ...],
    left_out: Collection[str] = (),
    unseen: Sequence[str] = (),
    steps: Mapping[int, int | None] | None = None,
) -> Decision:
    """Decide what to do about a job's trouble, given the checkpoint it would resume from and what would be changed.

    `left_out` are nodes that it would resume without, `unseen` is where a checkpoint may be that was not searched, in
    words: no policy consents beforehand to resume without a node, or to begin again although there may be a checkpoint.
    `steps` is where the logs of each attempt end (`failed_alike`).
    """
    action = spec.on_failure.action(cause)
    if action == "fail":
        return Decision("leave", f"{cause}: the job says that nothing is to be done about it")
    if not can_help(cause, changes):
        return Decision("leave", f"{cause}: the same would happen again")
    where = f"after {checkpoint.where}" if checkpoint else "from the beginning"
    same = 1 + failed_alike(job, cause, checkpoint, steps or {})
    if same >= SAME_FAILURES and not changes and not left_out:
        return Decision("leave", f"{cause}: it failed {same} times {where}, another retry would fail the same way")
    retries = len(job.past)
    doubt = f"; not searched for checkpoints: {some(unseen)}" if checkpoint is None and unseen else ""
    if action == "ask" or left_out or doubt:
        return Decision("ask", f"{cause}: it may go well {where}{doubt}")
    if retries >= spec.on_failure.max_retries:
        return Decision("ask", f"{cause}: it was tried again {retries} times, as often as the job allows")
    wait = spec.on_failure.backoff * 2**retries
    return Decision("retry", f"{cause}: tried again {where} in {duration(wait)}, as the job allows", wait)


def failed_alike(job: Job, cause: str, checkpoint: Checkpoint | None, steps: Mapping[int, int | None]) -> int:
    """Return how many earlier attempts with this code failed of the same cause at the same place: after the same
    checkpoint, or at the same step.

    An attempt's last checkpoint is where the one after it began. `steps` is where the logs of each attempt end.
    """
    here, step = _position(checkpoint), steps.get(job.attempt)
    began: list[Attempt | Checkpoint | None] = [*job.past[1:], job.resume_from]
    return sum(
        (past.cause, past.code.attempt) == (cause, job.code.attempt)
        and (_position(after) == here or (step is not None and steps.get(past.attempt) == step))
        for past, after in zip(job.past, began, strict=False)
    )


def _position(began: Attempt | Checkpoint | None) -> tuple[int | None, int | None]:
    return (began.step, None if began.step is not None else began.epoch) if began else (None, None)


def can_help(cause: str, changes: tuple[ArgumentChange, ...]) -> bool:
    """Whether another attempt may go better: the cause may be over by then, or what is changed helps against it."""
    advice = CAUSES.get(cause)
    return bool(changes) or cause in FROM_OUTSIDE or bool(advice and advice.retry_helps)
