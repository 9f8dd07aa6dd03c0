"""The attempts of a job: one of them as the job was then, and all of them in order."""

from __future__ import annotations

from ugro.common.errors import InputError
from ugro.common.models.job import Attempt, Job


def in_attempt(job: Job, attempt: int | None) -> Job:
    """The job as it was in an attempt; None: as it is.

    Raises:
        InputError: it has no such attempt.
    """
    if attempt is None or attempt == job.attempt:
        return job
    there = [past.attempt for past in job.past]
    if attempt not in there:
        names = (
            f"its attempts are {', '.join(map(str, there))} and {job.attempt}" if there else "it has attempt 1 alone"
        )
        raise InputError(f"{job.id} has no attempt {attempt}", names)
    return job.as_of(attempt)


def attempts(job: Job) -> tuple[Attempt, ...]:
    """All attempts of a job, the present one as it stands last."""
    return (*job.past, job.latest)


def next_after(job: Job, attempt: int) -> Attempt | None:
    """The attempt that followed one of a job's; None: it is the latest."""
    return next((one for one in attempts(job) if one.attempt > attempt), None)


def missing_logs(job: Job, unknown: list[str], silent: list[str]) -> str:
    """Return why an attempt has no logs to show."""
    if not job.nodes:
        return f"attempt {job.attempt} of {job.id} never ran, so it printed nothing"
    asked = [node for node in job.nodes if node not in unknown and node not in silent]
    words = [f"{', '.join(asked)} {'has' if len(asked) == 1 else 'have'} none" if asked else ""]
    words += [f"{', '.join(silent)} cannot be reached" if silent else ""]
    words += [
        f"{', '.join(unknown)} {'is' if len(unknown) == 1 else 'are'} no longer in the inventory" if unknown else ""
    ]
    return "; ".join(filter(None, [f"this machine has no logs of attempt {job.attempt} of {job.id}", *words]))
