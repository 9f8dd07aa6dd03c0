"""Find what a job's end cost and how to resume: its step, the last checkpoint, the time lost. Changes nothing."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ugro.common.errors import InputError
from ugro.common.models.argument_change import ArgumentChange
from ugro.common.models.checkpoint import Checkpoint
from ugro.common.models.job import Job
from ugro.control_plane.metadata_store.checkpoint_store import newest_whole, with_copies
from ugro.control_plane.metadata_store.log_ends import rank_log
from ugro.control_plane.training_metrics.steps import Progress, last_progress

MOST_RANKS = 16
"""Number of ranks whose logs are searched for a step; those of the others would show the same."""

OF_THE_CODE = ("python_exception", "import_error", "bad_arguments", "setup_failed")
"""Causes for which the same code fails again: the user repairs it, then resumes the job."""

LAST_PART = 16_000
"""Characters at the end of a log in which the step is looked for."""


@dataclass(frozen=True)
class LastCheckpoint:
    """The checkpoint to resume from, and whether this machine has a copy of it."""

    checkpoint: Checkpoint
    on_master: bool


def steps_reached(job: Job, logs: Callable[[int], Path]) -> dict[int, int | None]:
    """The step at which the logs of each attempt end. `logs` is the folder of an attempt's logs."""
    rank = job.first_failure.rank if job.first_failure else None
    found = {number: reached(logs(number), rank) for number in (*(past.attempt for past in job.past), job.attempt)}
    return {number: progress.step if progress else None for number, progress in found.items()}


def reached(folder: Path, rank: int | None) -> Progress | None:
    """The step at which an attempt's logs end: that of a rank's log, else the furthest of any rank's."""
    own = _step_of(folder, rank) if rank is not None else None
    if own and own.step is not None:
        return own
    others = sorted(folder.glob("rank-*.log"), key=lambda path: (len(path.name), path.name))[:MOST_RANKS]
    said = [_step_of(folder, int(path.stem.removeprefix("rank-"))) for path in others]
    steps = [progress for progress in said if progress and progress.step is not None]
    return max(steps, key=lambda progress: (progress.epoch or 0, progress.step or 0), default=own)


def _step_of(folder: Path, rank: int) -> Progress | None:
    return last_progress(rank_log(folder, rank)[-LAST_PART:])


def last_checkpoint(job: Job, found: Sequence[Checkpoint], kept: Mapping[str, Checkpoint]) -> LastCheckpoint | None:
    """Return the furthest complete checkpoint in the latest attempt's lineage, of those on the nodes and those kept on
    the master, by label.
    """
    try:
        newest = newest_whole(with_copies(job, found, kept))
    except InputError:
        return None
    return LastCheckpoint(newest, newest.label in kept)


def lost_seconds(job: Job, last: LastCheckpoint | None, now: float) -> float | None:
    """The time whose work is gone: since the last checkpoint, or all of this attempt. None: it never ran.

    What an earlier attempt lost is not counted again.
    """
    if job.started_at is None:
        return None
    since = max(job.started_at, last.checkpoint.saved_at) if last else job.started_at
    return max(0.0, (job.ended_at or now) - since)


def resume_command(
    job: Job, changes: Sequence[ArgumentChange], cause: str | None, from_start: bool = False, code_gone: bool = False
) -> str:
    """Return the command that resumes an ended job; with new code, where the code was the cause.

    `from_start`: there is no checkpoint, so the command has to ask for a new beginning. `code_gone`: the snapshot was
    removed.
    """
    again = ["--from", "0"] if from_start else []
    settings = [word for change in changes for word in ("--set", f"{change.name.lstrip('-')}={change.after}")]
    mended = ["--new-code"] if cause in OF_THE_CODE or code_gone else []
    return shlex.join(["ugro", "resume", job.id, *again, *mended, *settings])
