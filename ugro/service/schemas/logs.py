"""Requests about what a job prints, and their answers."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ugro.service.schemas.base import Document, ErrorDocument, Stream
from ugro.service.schemas.ending import JobProgress
from ugro.service.schemas.jobs import JobDocument


class LogLine(Document):
    """A line of a log: of a rank, or of torchrun itself on the node of that node rank."""

    rank: int | None
    """Global rank; `null`: torchrun wrote it."""
    node_rank: int | None
    """Node rank of the torchrun that wrote it."""
    text: str
    """The line."""


class LogLines(Document):
    """Lines, in the order in which they came.

    `explains`: torchrun's own words, added since the job failed before a rank could say why. `nodes` are the job's.
    """

    kind: Literal["lines"] = "lines"
    lines: tuple[LogLine, ...]
    nodes: tuple[str, ...]
    explains: bool = False


class LogsEnd(Document):
    """The end of the lines: the job (in the attempt that was asked for), why there are none, and unreadable nodes."""

    kind: Literal["end"] = "end"
    job: JobDocument
    missing: str | None
    unreadable: tuple[ErrorDocument, ...]


class GpuUse(Document):
    """How busy a GPU was at the last observation."""

    utilization_percent: int | None
    memory_used_mib: int | None


class NodeUse(Document):
    """A node of a followed job; `silent`: its logs cannot be read now."""

    node: str
    silent: bool
    gpus: tuple[GpuUse, ...]


class UnfinishedLine(Document):
    """A line whose end has not come. `number` tells it apart from those before and after it in its log."""

    line: LogLine
    number: int


class JobUpdate(JobProgress):
    """How a followed job stands: why it waits, what is wrong with it and what is proposed."""

    kind: Literal["job"] = "job"
    waits: str = ""
    trouble: str = ""
    nodes: tuple[NodeUse, ...] = ()
    unfinished: UnfinishedLine | None = None


LogUpdate = Annotated[LogLines | LogsEnd, Field(discriminator="kind")]
FollowUpdate = Annotated[LogLines | LogsEnd | JobUpdate, Field(discriminator="kind")]


class ReadLogs(Stream[LogUpdate]):
    """Read what the ranks of a job have printed: `rank` alone, the last `tail` lines, of an earlier `attempt`."""

    function: ClassVar[str] = "logs.read"
    job: str
    rank: int | None = None
    tail: int | None = None
    torchrun: bool = False
    attempt: int | None = None


class Follow(Stream[FollowUpdate]):
    """Read what the ranks of a job print until it has ended. The last item is the job as it ended.

    A `LogsEnd` comes between the last `tail` lines and what is new, where `tail` is given.
    """

    function: ClassVar[str] = "logs.follow"
    job: str
    rank: int | None = None
    tail: int | None = None
    torchrun: bool = False
    attempt: int | None = None
