"""Requests about the stacks of a job's ranks, and their answers."""

from __future__ import annotations

from typing import ClassVar

from ugro.common.models.stacks import Thread
from ugro.service.schemas.base import Document, ErrorDocument, Moment, Request
from ugro.service.schemas.jobs import JobDocument


class RankStackDocument(Document):
    """The threads of a rank. `state` is None when its process has ended; `problem`: why there are no Python stacks."""

    node: str
    rank: int
    pid: int | None
    state: str | None
    cpu_seconds: float | None
    problem: str | None
    threads: tuple[Thread, ...]


class StacksDocument(Document):
    """The stacks of a job's ranks: now, or `at` the time when it was last found to hang, before it ended."""

    id: str
    at: Moment | None
    ranks: tuple[RankStackDocument, ...]
    nccl: str | None
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
