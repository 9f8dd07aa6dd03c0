"""Documents of jobs, their attempts, ranks, checkpoints and events."""

from __future__ import annotations

from typing import Any, Self

from ugro.common.models.checkpoint import Checkpoint, Place, position_in_words
from ugro.common.models.event import Event
from ugro.common.models.job import CodeVersion, FirstFailure, JobState, RankState
from ugro.common.models.record import Record
from ugro.service.schemas.base import Document, ErrorDocument, Moment


class RankDocument(Document):
    """A rank: the script's own process, exit code or signal, not torchrun's."""

    rank: int
    local_rank: int
    node: str
    gpu: str | None
    pid: int | None
    state: RankState
    exit_code: int | None
    signal: str | None
    ended_at: Moment | None
    limit: str | None
    oom: str | None


class ShareDocument(Document):
    """The part of a job on one node."""

    node: str
    node_rank: int
    first_rank: int
    nproc: int
    gpus: tuple[str, ...]
    batch_shares: tuple[float, ...]


class PlacementDocument(Document):
    """Where an attempt runs. How the nodes are reached stays in the record: their `env` may be private."""

    shares: tuple[ShareDocument, ...]
    master_addr: str | None
    master_port: int | None
    why: str

    @property
    def world_size(self) -> int:
        """Number of ranks over all nodes."""
        return sum(share.nproc for share in self.shares)


class AttemptDocument(Document):
    """An attempt that is over, with what it ran."""

    attempt: int
    state: JobState
    started_at: Moment | None
    ended_at: Moment | None
    placement: PlacementDocument | None
    code: CodeVersion
    reason: str
    cause: str | None
    step: int | None
    epoch: int | None
    source: int | None
    launched_at: Moment | None
    first_failure: FirstFailure | None
    followed: int


class AttemptSummary(Document):
    """An attempt, past or present, without what it ran."""

    attempt: int
    state: JobState
    reason: str
    step: int | None
    epoch: int | None
    source: int | None
    first_failure: FirstFailure | None
    launched_at: Moment | None
    started_at: Moment | None
    ended_at: Moment | None
    nodes: tuple[str, ...]


class CheckpointDocument(Document):
    """A checkpoint of a job, over all nodes; `whole`: it can be resumed from."""

    step: int | None
    kind: str
    name: str
    bytes: int
    saved_at: Moment
    places: tuple[Place, ...]
    split: bool
    problem: str | None
    epoch: int | None
    attempt: int | None
    other_branch: bool
    ranks: int | None
    weights_only: bool
    whole: bool

    @classmethod
    def of(cls, checkpoint: Checkpoint, **more: Any) -> Self:
        """Return the document of a checkpoint; `more` are the fields that a subclass adds."""
        return cls.model_validate(_fields(checkpoint) | {"whole": checkpoint.problem is None} | more)

    @property
    def position(self) -> int | None:
        """How far it is: its step, else its epoch."""
        return self.epoch if self.step is None else self.step

    @property
    def where(self) -> str:
        """For people: `step 20`, or `epoch 3` where no step is known."""
        return position_in_words(self.step, self.epoch)


class EventDocument(Document):
    """An event of a job, of a node, or of the cluster."""

    at: Moment
    job: str
    node: str
    kind: str
    message: str

    @classmethod
    def of(cls, event: Event) -> EventDocument:
        """Return the document of an event."""
        return cls(at=event.at, job=event.job, node=event.node, kind=event.kind, message=event.message)


class UnreadableDocument(Document):
    """A job whose record cannot be read, with the way back in the error's hint."""

    id: str
    file: str
    error: ErrorDocument


class JobDocument(Document):
    """A job and what was asked for."""

    id: str
    name: str
    state: JobState
    reason: str
    attempt: int
    priority: int
    submitted_at: Moment
    launched_at: Moment | None
    started_at: Moment | None
    ended_at: Moment | None
    unknown_since: Moment | None
    command: tuple[str, ...]
    code: CodeVersion
    placement: PlacementDocument | None
    ranks: tuple[RankDocument, ...]
    first_failure: FirstFailure | None
    abandoned: tuple[str, ...]
    gone_from: tuple[str, ...]
    predicted_mib: int | None
    peak_mib: int | None
    alert: str | None
    past: tuple[AttemptDocument, ...]
    resume_from: CheckpointDocument | None
    attempts: tuple[AttemptSummary, ...]
    stopping: bool
    nodes: tuple[str, ...]
    cancel_requested: bool
    time_limit: float | None
    time_warning: float | None
    grace: float | None
    vram: int | None
    after: tuple[str, ...]
    not_before: Moment | None


def _fields(record: Record) -> dict[str, Any]:
    """The fields of a record as they are; those that are records themselves are read from their attributes."""
    return {name: getattr(record, name) for name in type(record).model_fields}
