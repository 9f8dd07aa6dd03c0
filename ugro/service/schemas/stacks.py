"""Requests about the stacks of a job's ranks, and their answers."""

from __future__ import annotations

from typing import ClassVar

from ugro.common.models.stacks import Thread
from ugro.service.schemas.base import Document, ErrorDocument, Request
from ugro.service.schemas.codec import Moment
from ugro.service.schemas.jobs import JobDocument


class RankStackDocument(Document):
    """The threads of a rank."""

    node: str
    rank: int
    pid: int | None
    state: str | None
    """The kernel's letter for its state; `null`: its process has ended."""
    cpu_seconds: float | None
    """CPU time so far."""
    problem: str | None
    """Why there are no Python stacks."""
    threads: tuple[Thread, ...]
    """Its threads."""


class StacksDocument(Document):
    """The stack traces of a job's ranks."""

    id: str
    at: Moment | None
    """When it was last found to hang, before it ended; `null`: now."""
    ranks: tuple[RankStackDocument, ...]
    """The ranks that answered."""
    nccl: str | None
    """NCCL's own report, as text."""
    errors: tuple[ErrorDocument, ...]


class StacksAnswer(Document):
    """The stacks, with the job, and what a command ends with where a node could not be asked."""

    answer: StacksDocument
    job: JobDocument
    exit_code: int


class Stacks(Request[StacksAnswer]):
    """Ask for the stack of each rank of a running job, or of one `rank`."""

    function: ClassVar[str] = "stacks.stacks"
    job: str
    rank: int | None = None
