"""Requests about checkpoints, and their answers."""

from __future__ import annotations

from typing import ClassVar, Literal

from ugro.common.models.job_state import JobState
from ugro.service.schemas.base import Document, ErrorDocument, Request
from ugro.service.schemas.codec import Moment
from ugro.service.schemas.jobs import CheckpointDocument, JobDocument


class HeldCheckpoint(CheckpointDocument):
    """A checkpoint, and whether the master has a copy. An incomplete one has none."""

    on_master: bool


class ListedCheckpoint(HeldCheckpoint):
    """A checkpoint in a list."""

    kept_at: str | None
    """Path of the master's copy."""


class CheckpointsAnswer(Document):
    """The checkpoints of a job by step.

    `brought` is the path of the one that was copied to the master. `silent` are the errors of nodes that could not be
    searched, `passed` the places that others did not search, by node.
    """

    checkpoints: tuple[ListedCheckpoint, ...]
    brought: str | None
    silent: tuple[ErrorDocument, ...]
    passed: dict[str, tuple[str, ...]]


class Checkpoints(Request[CheckpointsAnswer]):
    """List the checkpoints of a job. `directory` is where they are; None: where the job said. `pull` the last one."""

    function: ClassVar[str] = "checkpoints.checkpoints"
    job: str
    directory: str | None = None
    pull: bool = False


class AskedRankDocument(Document):
    """What came of asking one rank to save."""

    rank: int
    node: str
    pid: int | None
    answer: Literal["signalled", "not caught", "gone"]
    """`not caught`: its script has no handler, so it got no signal; `gone`: its process has ended."""


class SaveDocument(Document):
    """What came of asking a job to save."""

    id: str
    asked_at: Moment
    """When it was asked."""
    seconds: float
    """How long that took."""
    checkpoint: HeldCheckpoint | None
    """The new complete checkpoint; `null`: there is none."""
    ranks: tuple[AskedRankDocument, ...]
    """What each rank made of the request."""
    request_taken: bool
    """Whether a script removed the request file."""
    errors: tuple[ErrorDocument, ...]

    @property
    def heard(self) -> bool:
        """Whether a script got the request, by the signal or by the file."""
        return self.request_taken or any(rank.answer == "signalled" for rank in self.ranks)


class SaveAnswer(Document):
    """The result of asking a job to save, with the job as it is then. `ended`: it ended first."""

    answer: SaveDocument
    job: JobDocument
    ended: JobState | None


class SaveCheckpoint(Request[SaveAnswer]):
    """Ask a running job to save now, and wait `patience` seconds for a new complete checkpoint."""

    function: ClassVar[str] = "checkpoints.save"
    job: str
    patience: float
    directory: str | None = None
