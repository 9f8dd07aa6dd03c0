"""A job in words, as errors and every front end name it."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ugro.common.models.event_kind import EventKind
from ugro.common.models.job_state import JobState
from ugro.common.models.outputs_state import OutputsState
from ugro.common.text import bytes_in_words, count, duration, printable, size, visible
from ugro.control_plane.scheduler.arguments import with_places
from ugro.service.schemas.jobs import AttemptSummary, CheckpointDocument, JobDocument, OutputsDocument, ProgressDocument

if TYPE_CHECKING:
    from ugro.common.models.job import Attempt, Job
    from ugro.service.schemas.resume import CodeChanges

_BARE = re.compile(r"[\w@%+=:,./{}…-]+", re.ASCII)
"""A word that is shown without quotes."""

_STATES = {
    JobState.UNKNOWN: "is on an unreachable node",
    JobState.SUCCEEDED: "has succeeded",
    JobState.FAILED: "has failed",
    JobState.CANCELLED: "was cancelled",
}

_KINDS: dict[str, str] = {EventKind.SILENT: "unreachable"}
"""Event kinds whose names, an interface, are not the words for them."""


def kind_in_words(kind: str) -> str:
    """Return the kind of an event for people."""
    return _KINDS.get(kind, kind)


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
    return f"{job.id} {job.state.value}: {printable(job.reason) or 'as requested'}"


def stopping_in_words(asked: bool, grace: float) -> str:
    """Return what happens to a job whose ranks are being ended, with `grace` seconds; `asked`: it was cancelled."""
    return f"{'cancel was requested; ' if asked else ''}SIGTERM, after {grace:.0f} s SIGKILL"


def begins(attempt: Attempt | AttemptSummary) -> str:
    """Return from where an attempt began: `the beginning`, `step 20 of attempt 1`."""
    if attempt.step is None and attempt.epoch is None:
        return "the beginning"
    where = f"epoch {attempt.epoch}" if attempt.step is None else f"step {attempt.step}"
    return where if attempt.source is None else f"{where} of attempt {attempt.source}"


def _position(progress: ProgressDocument) -> str:
    if progress.step is not None:
        return f"step {progress.step}" + ("" if progress.steps is None else f" of {progress.steps}")
    if progress.epoch is not None:
        return f"epoch {progress.epoch:g}" + ("" if progress.epochs is None else f" of {progress.epochs}")
    return ""


def progress_in_words(progress: ProgressDocument) -> str:
    """Return how far a run is: `step 120 of 1000 (12%), mean 3.4 steps/s, done in 4 min`."""
    percent = "" if progress.step is None or progress.percent is None else f" ({progress.percent:.0f}%)"
    said = [where + percent] if (where := _position(progress)) else []
    if progress.rate:
        quick = progress.rate >= 0.1
        said.append(f"mean {progress.rate:.3g} steps/s" if quick else f"mean {duration(1 / progress.rate)} a step")
    if (left := _left(progress)) is not None:
        said.append(f"done in {duration(left)}")
    return ", ".join(said)


def progress_in_brief(progress: ProgressDocument) -> str:
    """Return how far a run is where there is little room, what matters most first: `12%, 4m left, step 120 of 1000`."""
    percent = "" if progress.percent is None else f"{progress.percent:.0f}%"
    left = _left(progress)
    words = "" if left is None else f"{duration(left)} left"
    return ", ".join(filter(None, (percent, words, _position(progress))))


def _left(progress: ProgressDocument) -> float | None:
    """Return in how many seconds a run will be done; None: unknown, as when its steps stop coming."""
    left = None if progress.eta is None or not progress.left else progress.eta - time.time()
    return left if left and left > 0 else None


def saved_in_words(checkpoint: CheckpointDocument, seconds: float) -> str:
    """Return `step 20: checkpoint-20.pt (1.2 GiB, on gpu1, 8s after the request)`."""
    step = "" if checkpoint.position is None else f"{checkpoint.where}: "
    nodes = ", ".join(place.node for place in checkpoint.places)
    facts = f"{size(checkpoint.bytes / 2**20)}, on {nodes}, {duration(seconds)} after the request"
    return printable(f"{step}{checkpoint.name} ({facts})")


def outputs_in_words(job_id: str, outputs: OutputsDocument) -> str:
    """Return where a job's outputs are: `4 files (1 MiB) in …/jobs/job-001/outputs`."""
    here = f"{count(outputs.files, 'file')} ({bytes_in_words(outputs.bytes)})"
    declared, pull = visible(", ".join(outputs.globs)), f"`ugro pull {job_id}`"
    match outputs.state:
        case OutputsState.HERE:
            return f"{here} in {outputs.folder}"
        case OutputsState.PARTIAL:
            return f"{here} in {outputs.folder}, not all: {printable(outputs.problem)}; {pull} tries again"
        case OutputsState.OWED:
            why = f" ({printable(outputs.problem)})" if outputs.problem else ""
            return f"{declared}: still to come from the nodes{why}; {pull} copies them now"
        case OutputsState.TOO_LARGE:
            return f"{here} are on the nodes, too much to come by themselves; {pull} copies them"
        case OutputsState.NONE:
            return f"no file is named {declared}; `ugro ls {job_id}` shows what there is"
        case None:
            return declared


def command_of_sweep(jobs: Sequence[JobDocument]) -> str:
    """Return the command of a sweep, of which these are jobs, with `{name}` where each has its own value."""
    words = with_places([(job.command, job.sweep.values if job.sweep else {}) for job in jobs])
    return printable(" ".join(word if _BARE.fullmatch(word) else shlex.quote(word) for word in words))


def count_changes(found: CodeChanges) -> str:
    """Return `2 changed, 1 removed`."""
    return ", ".join(f"{len(names)} {kind}" for kind, names in vars(found).items() if names)
