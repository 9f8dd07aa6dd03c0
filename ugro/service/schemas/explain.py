"""Requests about why a run failed, and their answers."""

from __future__ import annotations

from dataclasses import field
from typing import ClassVar

from ugro.common.models.job_state import JobState
from ugro.service.schemas.base import Document, Request
from ugro.service.schemas.codec import Moment
from ugro.service.schemas.jobs import JobDocument
from ugro.service.schemas.queries import Proposed


class DiagnosisDocument(Document):
    """Why a run failed. Of one that ended well `cause` is `null`, and nothing else is said."""

    cause: str | None = None
    """Cause of the failure ([list](causes.md))."""
    rank: int | None = None
    """Global rank that failed first."""
    evidence: tuple[str, ...] = ()
    """Lines of the log that show it."""
    suggestion: str | None = None
    """What to do about it."""
    retry_helps: bool | None = None
    """Whether the same run may go well when it is started again."""
    message: str | None = None
    """What happened, in a sentence."""
    where: str | None = None
    """File and line of the script."""
    facts: dict[str, str] = field(default_factory=dict)
    """Details by name, such as sizes and addresses."""
    consequences: int = 0
    """Number of errors that only followed from this."""


class LogsAnswer(Document):
    """Why the run failed that wrote some log files; `words` are those for its cause."""

    answer: DiagnosisDocument
    words: str | None


class LastCheckpointDocument(Document):
    """The checkpoint to resume from."""

    step: int | None
    epoch: int | None
    name: str
    """Path below the directory of checkpoints."""
    saved_at: Moment
    """When it was saved."""
    age_seconds: float
    """Its age."""
    bytes: int
    nodes: tuple[str, ...]
    """Nodes that have it."""
    on_master: bool


class NextAttemptDocument(Document):
    """The attempt that followed one."""

    attempt: int
    state: JobState
    step: int | None
    """Step that it began from."""
    epoch: int | None
    """Epoch that it began from."""
    from_: str
    """Where it began, in words."""


class FailureDocument(DiagnosisDocument):
    """Why an attempt of a job failed, what that cost, and how to resume it."""

    job: str
    state: JobState
    attempt: int
    """Number of the attempt, from 1."""
    node: str | None
    """Node that failed first."""
    exit_code: int | None
    signal: str | None
    step: int | None = None
    """Last step that it finished."""
    steps: int | None = None
    """Steps that it should have made."""
    epoch: int | None = None
    """Epoch that it was in."""
    last_checkpoint: LastCheckpointDocument | None = None
    """The one to resume from."""
    not_asked: tuple[str, ...] = ()
    """Nodes that did not say which checkpoints they have."""
    not_searched: tuple[str, ...] = ()
    """Places that others did not search for checkpoints."""
    lost_seconds: float | None = None
    """Time since that checkpoint that is lost."""
    resume: str | None = None
    """The command that resumes it; only of the latest attempt."""
    changes: tuple[str, ...] = ()
    """Changes that this command makes."""
    earlier_failures_here: int = 0
    """Number of earlier attempts that failed alike at this point."""
    next_attempt: NextAttemptDocument | None = None
    """The attempt that followed; `null` for the latest."""


class FailureAnswer(Document):
    """Why an attempt failed, with the job as its nodes show it, and the state in its record.

    `words` are those for the cause; `proposed` is what waits for an answer.
    """

    answer: FailureDocument
    words: str | None
    job: JobDocument
    recorded: JobState
    proposed: tuple[Proposed, ...]


class Explain(Request[FailureAnswer]):
    """Explain why a job failed, or an earlier attempt of it."""

    function: ClassVar[str] = "explain.explain"
    job: str
    attempt: int | None = None
