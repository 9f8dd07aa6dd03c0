"""Requests for the words that a shell offers to complete, and their answer."""

from typing import ClassVar

from ugro.service.schemas.base import Document, Request


class Words(Document):
    """Words that complete a line, in the order in which they are offered."""

    words: tuple[str, ...]


class CompleteJobs(Request[Words]):
    """Ask for the ids and names of jobs that a command accepts (null: that have not ended), but for `given` ones."""

    function: ClassVar[str] = "completion.jobs"
    command: str | None = None
    given: tuple[str, ...] = ()


class CompleteNodes(Request[Words]):
    """Ask for the names of nodes, or of drained nodes."""

    function: ClassVar[str] = "completion.nodes"
    drained: bool = False
