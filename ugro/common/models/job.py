"""A job: its ranks, where it runs, its attempts."""

from enum import StrEnum
from typing import Any, Self, TypedDict, Unpack

from pydantic import SerializerFunctionWrapHandler, model_serializer

from ugro.common.config import NodeConfig
from ugro.common.models.checkpoint import Checkpoint
from ugro.common.models.code_version import CodeVersion
from ugro.common.models.event import Event
from ugro.common.models.first_failure import FirstFailure
from ugro.common.models.job_state import JobState, RankState
from ugro.common.models.record import Record

SCHEMA_VERSION = 3
"""Of `job.json`. `metadata_store.MIGRATIONS` brings older records up to it."""


class LimitMark(StrEnum):
    """What its time limit did to a rank: `warned` it (SIGUSR2), found no SIGUSR2 caught and sent none, or ended it."""

    WARNED = "warned"
    UNHEARD = "unheard"
    ENDED = "ended"


class Rank(Record):
    """One rank of an attempt: the script's own process, exit code or signal, not torchrun's.

    `pid` and `ended_at` are the node's (its clock). `limit` says what its time limit did to it last. `oom`: what shows
    a kill for lack of memory.
    """

    rank: int
    local_rank: int
    node: str
    gpu: str | None = None
    pid: int | None = None
    state: RankState = RankState.PENDING
    exit_code: int | None = None
    signal: str | None = None
    ended_at: float | None = None
    limit: LimitMark | None = None
    oom: str | None = None


class GpuPart(Record):
    """The part of a GPU that a job declared, which shares it with others.

    `memory_mib` is the memory that it may use. `fraction` is the same for PyTorch's allocator, as a fraction of all
    memory of the GPU: without what CUDA takes before the first tensor.
    """

    memory_mib: int
    fraction: float


class NodeShare(Record):
    """One node's part of a placement: its node rank, its ranks and their GPUs (none on a CPU node).

    A launcher that starts one process on each node has one rank there (`nproc`), which gets all GPUs.

    `batch_shares` has each rank's fraction of the global batch, where the speeds of all GPUs are known and differ.
    `part` is what it declared of its GPU, where it shares that; None: its GPUs are its own.
    `config` is the node as the inventory described it when the job was placed: a run keeps it until it has ended, so
    that an edit of the inventory counts for new runs only. None in records of an earlier UGRO, and in drafts.
    """

    node: str
    node_rank: int
    first_rank: int
    nproc: int
    gpus: tuple[str, ...] = ()
    batch_shares: tuple[float, ...] = ()
    config: NodeConfig | None = None
    part: GpuPart | None = None

    @model_serializer(mode="wrap")
    def _without_empty_part(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """An earlier UGRO refuses a record with keys that it does not know."""
        return {key: value for key, value in written(self).items() if key != "part" or value is not None}


class Placement(Record):
    """Where an attempt runs, with what torchrun needs to meet; the port is chosen just before the launch.

    `why` says what decided for these nodes where others would have done as well; empty: their order in the inventory.
    """

    shares: tuple[NodeShare, ...]
    master_addr: str | None = None
    master_port: int | None = None
    why: str = ""

    @property
    def part(self) -> GpuPart | None:
        """Return what the job declared of the one GPU that it shares; None: its GPUs are its own."""
        return self.shares[0].part if self.shares else None

    @property
    def world_size(self) -> int:
        """Return the number of ranks over all nodes."""
        return sum(share.nproc for share in self.shares)


class Wish(StrEnum):
    """A requested action on a job; the next tick carries it out."""

    CANCEL = "cancel"
    ABANDON = "cancel without the word of silent nodes"


class TakenBack(Record):
    """A launch that a broken link cut off before anything was started: why, how many `times` in a row by now, and
    until when (seconds since the epoch) it is not tried again.
    """

    reason: str
    times: int
    until: float


class SweepPart(Record):
    """A job's part in a sweep: number `index` (from 1) of the `of` jobs of it, with these `values` by argument.

    `sweep` is the sweep's id, made of that of its first job, and `name` its name. At most `max_parallel` of its jobs
    run at a time; None: as many as there is room for.
    """

    sweep: str
    name: str
    index: int
    of: int
    values: dict[str, str]
    max_parallel: int | None = None


class Attempt(Record):
    """An ended attempt of a job, as the record of the next one has it.

    `code` is what it ran. It resumed from `step` (or `epoch`), saved by the attempt `source`. `first_failure` has what
    `cause` and `reason` say, and `followed` counts the other ranks that failed. Earlier versions of UGRO recorded
    neither.
    """

    attempt: int
    state: JobState
    started_at: float | None
    ended_at: float | None
    placement: Placement | None
    code: CodeVersion
    reason: str
    cause: str | None = None
    step: int | None = None
    epoch: int | None = None
    source: int | None = None
    launched_at: float | None = None
    first_failure: FirstFailure | None = None
    followed: int = 0

    @property
    def nodes(self) -> tuple[str, ...]:
        """Return the names of the nodes it was placed on, in the order of their node ranks."""
        return tuple(share.node for share in self.placement.shares) if self.placement else ()

    @property
    def in_short(self) -> FirstFailure | None:
        """Return its first failure, of which only the cause was recorded."""
        return FirstFailure(rank=None, node="", cause=self.cause, message=self.reason) if self.cause else None


class JobFields(TypedDict, total=False):
    """The fields of a job's record that change after its submission."""

    state: JobState
    reason: str
    name: str
    attempt: int
    priority: int
    predicted_mib: int | None
    launched_at: float | None
    started_at: float | None
    ended_at: float | None
    unknown_since: float | None
    command: tuple[str, ...]
    code: CodeVersion
    placement: Placement | None
    ranks: tuple[Rank, ...]
    first_failure: FirstFailure | None
    wish: Wish | None
    abandoned: tuple[str, ...]
    gone_from: tuple[str, ...]
    peak_mib: int | None
    alert: str | None
    past: tuple[Attempt, ...]
    resume_from: Checkpoint | None
    taken_back: TakenBack | None


_HANGS = "hangs: "
"""How `Job.alert` begins in a record."""


def hang_alert(reason: str) -> str:
    """Return what `Job.alert` is for a job that hangs."""
    return _HANGS + reason


class Job(Record):
    """A job's record, `job.json`. `uid` tells two jobs apart that were both called job-001 by different masters.

    `abandoned` names nodes that the user gave up, so that the job could end without them. `gone_from` names nodes that
    proved that no process of it remains; on the others none was found. `predicted_mib` is the expected memory of each
    GPU at the launch, `peak_mib` the maximum observed. `last_event` is the last line of the timeline once the change
    that wrote this record is complete. `past` has the earlier attempts, and `resume_from` the checkpoint that this one
    resumed from. `sweep` is its part in a sweep, if it was submitted as one. `alert` says that it hangs, while it does.
    `launched_at` is the first start request to its nodes, before its first checkpoint; `started_at` is when it was
    first observed to run. `taken_back` has the interrupted launches, until one succeeds.
    """

    schema_version: int = SCHEMA_VERSION
    id: str
    uid: str
    name: str
    state: JobState = JobState.QUEUED
    reason: str = ""
    attempt: int = 1
    priority: int = 0
    submitted_at: float
    launched_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    unknown_since: float | None = None
    launcher: str = "torchrun"
    command: tuple[str, ...]
    code: CodeVersion
    sweep: SweepPart | None = None
    placement: Placement | None = None
    ranks: tuple[Rank, ...] = ()
    first_failure: FirstFailure | None = None
    wish: Wish | None = None
    abandoned: tuple[str, ...] = ()
    gone_from: tuple[str, ...] = ()
    predicted_mib: int | None = None
    peak_mib: int | None = None
    alert: str | None = None
    past: tuple[Attempt, ...] = ()
    resume_from: Checkpoint | None = None
    taken_back: TakenBack | None = None
    last_event: Event | None = None

    def changed(self, **fields: Unpack[JobFields]) -> Self:
        """Return a copy with other values in these fields. What is recorded is an edge of `transitions`."""
        return self.model_copy(update=dict(fields))

    def gpus_of(self, rank: Rank) -> tuple[str, ...]:
        """Return the GPUs of a rank. The only one on a node has all that the job has there."""
        shares = self.placement.shares if self.placement else ()
        alone = next((share for share in shares if share.node == rank.node and share.nproc == 1), None)
        return alone.gpus if alone and alone.gpus else (rank.gpu,) if rank.gpu else ()

    @property
    def nodes(self) -> tuple[str, ...]:
        """Return the names of the nodes it is placed on, in the order of their node ranks."""
        return tuple(share.node for share in self.placement.shares) if self.placement else ()

    @property
    def sweep_id(self) -> str | None:
        """Return the id of the sweep that it is part of."""
        return self.sweep.sweep if self.sweep else None

    @property
    def hang(self) -> str | None:
        """Why it seems to hang, while it does."""
        return None if self.alert is None else self.alert.removeprefix(_HANGS)

    @property
    def node_configs(self) -> dict[str, NodeConfig]:
        """Return its nodes' inventory entries at placement; unknown ones are left out."""
        shares = self.placement.shares if self.placement else ()
        return {share.node: share.config for share in shares if share.config}

    @property
    def earlier_code(self) -> tuple[CodeVersion, ...]:
        """Return the code versions of earlier attempts that this one does not run, the latest first."""
        found = {past.code.attempt: past.code for past in self.past if past.code.attempt != self.code.attempt}
        return tuple(found[attempt] for attempt in sorted(found, reverse=True))

    @property
    def stopping(self) -> bool:
        """Return whether its ranks are being ended: on request, or because one failed. Not a state."""
        return self.state in (JobState.STARTING, JobState.RUNNING) and bool(self.wish or self.first_failure)

    @property
    def followed(self) -> int:
        """Return how many ranks failed in addition to the first one."""
        first = self.first_failure.rank if self.first_failure else None
        return sum(bool(rank.exit_code or rank.signal) for rank in self.ranks if rank.rank != first)

    def began_on(self, node: str) -> bool:
        """Return whether this attempt is known to have started: all its nodes reported it, or a rank was observed."""
        return self.started_at is not None or any(rank.node == node and rank.pid is not None for rank in self.ranks)

    @property
    def latest(self) -> Attempt:
        """Return its latest attempt in the form of `past`."""
        from_where = self.resume_from
        return Attempt(
            attempt=self.attempt,
            state=self.state,
            started_at=self.started_at,
            ended_at=self.ended_at,
            placement=self.placement,
            code=self.code,
            reason=self.reason,
            cause=self.first_failure.cause if self.first_failure else None,
            step=from_where.step if from_where else None,
            epoch=from_where.epoch if from_where else None,
            source=from_where.attempt if from_where else None,
            launched_at=self.launched_at,
            first_failure=self.first_failure,
            followed=self.followed,
        )

    def as_of(self, attempt: int) -> Self:
        """Return the job at the end of one of its attempts, as far as its record still has it."""
        before = next((past for past in self.past if past.attempt == attempt), None)
        if before is None:
            return self
        same = ("attempt", "state", "reason", "placement", "code", "launched_at", "started_at", "ended_at")
        over = dict.fromkeys(("wish", "alert", "unknown_since", "resume_from", "peak_mib"))
        failure = before.first_failure or before.in_short
        changed = {"first_failure": failure, "past": self.past[: self.past.index(before)], "ranks": (), "abandoned": ()}
        return self.model_copy(update={name: getattr(before, name) for name in same} | over | changed)


class Summary(Record):
    """One line of `finished.jsonl`: what lists, estimates and forecasts need of a job that has ended.

    `run` names equal runs: the same script with the same arguments on as many GPUs a node. `sweep_id` is that of
    the sweep that it was part of.
    """

    id: str
    name: str
    state: JobState
    run: str
    submitted_at: float
    started_at: float | None
    ended_at: float
    predicted_mib: int | None = None
    peak_mib: int | None = None
    sweep_id: str | None = None
