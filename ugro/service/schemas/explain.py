"""Requests about why a run failed, and their answers."""

from __future__ import annotations

from typing import ClassVar

from pydantic import ConfigDict, Field

from ugro.common.models.job import JobState
from ugro.service.schemas.base import Document, Moment, Request
from ugro.service.schemas.jobs import JobDocument
from ugro.service.schemas.queries import Proposed


class FindingDocument(Document):
    """Why a run failed; of one that ended well `cause` is null, and nothing else is said.

    `where` is a file and line of the script. `consequences` counts what only followed from this.
    """

    cause: str | None = None
    rank: int | None = None
    evidence: tuple[str, ...] = ()
    suggestion: str | None = None
    retry_helps: bool | None = None
    message: str | None = None
    where: str | None = None
    facts: dict[str, str] = Field(default_factory=dict)
    consequences: int = 0


class LogsAnswer(Document):
    """Why the run failed that wrote some log files; `words` are those for its cause."""

    answer: FindingDocument
    words: str | None


class LastCheckpointDocument(Document):
    """The checkpoint to resume from, with its age; `on_master`: the master has a copy."""

    step: int | None
    epoch: int | None
    name: str
    saved_at: Moment
    age_seconds: float
    bytes: int
    nodes: tuple[str, ...]
    on_master: bool


class NextAttemptDocument(Document):
    """The attempt that followed one; `from` says where it began."""

    model_config = ConfigDict(populate_by_name=True)

    attempt: int
    state: JobState
    step: int | None
    epoch: int | None
    begins: str = Field(alias="from")


class FailureDocument(FindingDocument):
    """Why an attempt of a job failed, what that cost, and how to resume it.

    `step` of `steps` (and `epoch`) is how far it was. `not_asked` are nodes that did not say which checkpoints they
    have, `not_searched` places that others did not search. `changes` are those that the command `resume` makes.
    `earlier_failures_here` counts the attempts before that failed alike at this point.
    """

    job: str
    state: JobState
    attempt: int
    node: str | None
    exit_code: int | None
    signal: str | None
    step: int | None = None
    steps: int | None = None
    epoch: int | None = None
    last_checkpoint: LastCheckpointDocument | None = None
    not_asked: tuple[str, ...] = ()
    not_searched: tuple[str, ...] = ()
    lost_seconds: float | None = None
    resume: str | None = None
    changes: tuple[str, ...] = ()
    earlier_failures_here: int = 0
    next_attempt: NextAttemptDocument | None = None


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
