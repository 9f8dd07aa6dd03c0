"""Requests about jobs that wait, and their answers."""

from __future__ import annotations

from typing import ClassVar

from ugro.common.models.job_state import JobState
from ugro.service.schemas.base import Document, Request
from ugro.service.schemas.codec import Moment
from ugro.service.schemas.jobs import JobDocument


class Hold(Request[JobDocument]):
    """Keep a queued job from starting."""

    function: ClassVar[str] = "queue.hold"
    job: str
    reason: str = ""


class Released(Document):
    """A job after a release; it may not have been `held`."""

    job: JobDocument
    was_held: bool


class Release(Request[Released]):
    """Let a held job take its turn again."""

    function: ClassVar[str] = "queue.release"
    job: str


class Reprioritize(Request[JobDocument]):
    """Give a waiting job another priority."""

    function: ClassVar[str] = "queue.reprioritize"
    job: str
    priority: int


class ReasonsDocument(Document):
    """Why a job waits, or why it runs where it does."""

    id: str
    state: JobState
    reasons: tuple[str, ...]
    """Each in a sentence, the nearest first."""
    attended: bool
    starts_at: Moment | None
    never_starts: bool


class Explained(Document):
    """The reasons, with what a page shows beside them.

    `expected` says when the job probably starts. `recorded_state` is older than the job's state where only its nodes
    show the new one so far.
    """

    answer: ReasonsDocument
    job: JobDocument
    expected: str
    recorded_state: JobState


class Why(Request[Explained]):
    """Explain why a job waits, or why it runs where it does."""

    function: ClassVar[str] = "queue.why"
    job: str
