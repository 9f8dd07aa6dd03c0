"""The request for the jobs that a command line names, and its answer."""

from __future__ import annotations

from typing import ClassVar

from ugro.common.models.job_state import JobState
from ugro.service.plan import Question
from ugro.service.schemas.base import Document, ErrorDocument, Request


class ChosenJob(Document):
    """A job that is meant."""

    id: str
    name: str
    state: JobState


class NamedJob(Document):
    """A job by one of the references, or why that means none; `exit_code` is that of the error."""

    reference: str
    job: ChosenJob | None
    error: ErrorDocument | None = None
    exit_code: int = 0


class JobSelection(Document):
    """The jobs that are meant, each once, in the order of the references.

    `question`: what to ask before a command that changes something acts on several jobs not named one by one.
    """

    found: tuple[NamedJob, ...]
    question: Question | None


class Select(Request[JobSelection]):
    """Find the jobs that references mean for a command: ids, names, numbers, `@last`, `@last-failed` and patterns.

    A pattern means the jobs that the command accepts. `every` means all of them, `states` those in these states.
    """

    function: ClassVar[str] = "naming.select"
    command: str
    references: tuple[str, ...] = ()
    every: bool = False
    states: tuple[JobState, ...] = ()
