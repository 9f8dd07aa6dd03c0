"""Requests about nodes and what runs on them, and their answers."""

from __future__ import annotations

from typing import ClassVar

from ugro.service.schemas.base import Document, ErrorDocument, Request, Stream
from ugro.service.schemas.codec import Bytes
from ugro.service.schemas.jobs import EventDocument


class Drained(Document):
    """A node that gets no new jobs."""

    node: str
    drained: bool = True
    """Always true."""
    reason: str
    """Why."""
    running: tuple[str, ...]
    """Ids of the jobs that continue there."""


class DrainNode(Request[Drained]):
    """Give a node no new jobs."""

    function: ClassVar[str] = "nodes.drain"
    node: str
    reason: str


class UndrainedDocument(Document):
    """A node that gets jobs again."""

    node: str
    drained: bool = False
    """Always false."""


class Undrained(Document):
    """The same, and whether it was drained."""

    answer: UndrainedDocument
    was_drained: bool


class UndrainNode(Request[Undrained]):
    """Give a node jobs again."""

    function: ClassVar[str] = "nodes.undrain"
    node: str


class SpeedDocument(Document):
    """How fast a GPU trains, or the CPU of a node without GPUs."""

    node: str
    index: int
    """The driver's index."""
    uuid: str | None
    """UUID of the GPU; `null`: it is the CPU."""
    name: str
    """Model."""
    steps_per_second: float
    """Training steps a second."""


class Measured(Document):
    """The speeds that were measured, and why nodes could not be."""

    answer: tuple[SpeedDocument, ...]
    errors: tuple[ErrorDocument, ...]
    exit_code: int


class Measure(Request[Measured]):
    """Measure how fast each idle GPU of these nodes trains; null: of all nodes."""

    function: ClassVar[str] = "nodes.measure"
    nodes: str | None = None


class CommandOutput(Document):
    """Bytes that a command printed on a node, on `stdout` or `stderr`."""

    node: str
    stream: str
    data: Bytes


class CommandDocument(Document):
    """A command that ended on a node."""

    node: str
    exit_code: int
    """Its exit code; for a signal 128 and its number."""
    stdout: str
    """What it printed there, at most the first 4 MiB."""
    stderr: str
    """What it printed there, at most the first 4 MiB."""
    truncated: bool
    """Whether it printed more than that."""
    error: None = None
    """Always `null`."""


class NotRunDocument(Document):
    """A node that did not run a command, or did not say how that ended, and why."""

    node: str
    exit_code: None = None
    """Always `null`."""
    stdout: str = ""
    """Empty."""
    stderr: str = ""
    """Empty."""
    error: ErrorDocument
    """Why."""


class CommandEnd(Document):
    """The same, and the exit code that it stands for in the whole: its own, or that of the error."""

    answer: CommandDocument | NotRunDocument
    worst: int


class RunCommand(Stream[CommandOutput | CommandEnd]):
    """Run the same command on nodes (null: on all). One word is a line for /bin/sh; more are passed literally.

    With `live` what it prints comes as it is printed; else it comes with the end.
    """

    function: ClassVar[str] = "nodes.run_command"
    nodes: str | None = None
    words: tuple[str, ...]
    live: bool


class NodeNames(Document):
    """Names of nodes, in the inventory's order."""

    names: tuple[str, ...]


class SelectNodes(Request[NodeNames]):
    """Ask which nodes a comma-separated list stands for; null: all."""

    function: ClassVar[str] = "nodes.select"
    nodes: str | None = None


class ChangesDocument(Document):
    """What a scheduling pass changed."""

    schema_version: int = 1
    changes: tuple[EventDocument, ...]
    """In the order in which they happened."""


class Swept(Document):
    """What a scheduling pass changed, and what is wrong; `busy` says who did the same at that time."""

    answer: ChangesDocument
    problems: tuple[ErrorDocument, ...]
    busy: str | None
    untold: ErrorDocument | None = None
    """Why the file for Prometheus was not written."""


class Sweep(Request[Swept]):
    """Make one scheduling pass. `textfile`: a folder, in which it leaves what it saw for Prometheus's node_exporter."""

    function: ClassVar[str] = "nodes.sweep"
    textfile: str | None = None
