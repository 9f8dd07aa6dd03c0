"""A job: its states, its ranks, where it runs, its attempts."""

from __future__ import annotations

from enum import StrEnum
from typing import TypedDict, Unpack

from ugro.common.config import NodeConfig
from ugro.common.models.checkpoint import Checkpoint
from ugro.common.models.event import Event
from ugro.common.models.record import Record

SCHEMA_VERSION = 3
"""Of `job.json`. `metadata_store.MIGRATIONS` brings older records up to it."""


class JobState(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    HELD = "held"
    STARTING = "starting"
    RUNNING = "running"
    UNKNOWN = "unknown"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether the job will not change any more."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)

    @property
    def on_nodes(self) -> bool:
        """Whether something of the job may be on nodes, so that its GPUs are taken."""
        return self in (JobState.STARTING, JobState.RUNNING, JobState.UNKNOWN)


class RankState(StrEnum):
    """Where one rank is in its life. `lost` is a rank that is gone without having left its exit code."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"


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


class FirstFailure(Record):
    """The rank that failed first, not those it took down. `rank` is None when a node failed before it had ranks."""

    rank: int | None
    node: str
    exit_code: int | None = None
    signal: str | None = None
    cause: str = "unknown"
    message: str = ""


class NodeShare(Record):
    """One node's part of a placement: its torchrun node rank, its ranks and their GPUs (none on a CPU node).

    `batch_shares` has each rank's fraction of the global batch, where the speeds of all GPUs are known and differ.
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


class Placement(Record):
    """Where an attempt runs, with what torchrun needs to meet; the port is chosen just before the launch.

    `why` says what decided for these nodes where others would have done as well; empty: their order in the inventory.
    """

    shares: tuple[NodeShare, ...]
    master_addr: str | None = None
    master_port: int | None = None
    why: str = ""

    @property
    def world_size(self) -> int:
        """Number of ranks over all nodes."""
        return sum(share.nproc for share in self.shares)


class CodeVersion(Record):
    """The snapshot of the working directory a job runs: where it came from and its state in git (None outside git).

    `attempt` is the first one that ran it. `digest` is that of the list of its files, as `code.sha256` on the nodes has
    it; None: an earlier UGRO took the snapshot.
    """

    directory: str
    files: int
    size_bytes: int
    git_commit: str | None = None
    git_dirty: bool | None = None
    attempt: int = 1
    digest: str | None = None


class Wish(StrEnum):
    """What a person asked of a job; the next tick carries it out."""

    CANCEL = "cancel"
    ABANDON = "cancel without the word of silent nodes"


class TakenBack(Record):
    """A launch that a broken link cut off before anything was started: why, how many `times` in a row by now, and
    until when (seconds since the epoch) it is not tried again.
    """

    reason: str
    times: int
    until: float


class Attempt(Record):
    """An attempt of a job that is over, as it stands in the record of the next one.

    `code` is what it ran, `step` (or `epoch`) what it went on from, and `source` the attempt that had saved that.
    `first_failure` has what `cause` and `reason` say, and `followed` counts the other ranks that ended badly: earlier
    versions of UGRO wrote down neither.
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
        """Names of the nodes it was placed on, in the order of their node ranks."""
        return tuple(share.node for share in self.placement.shares) if self.placement else ()

    @property
    def in_short(self) -> FirstFailure | None:
        """Its first failure, where only the cause of that was written down."""
        return FirstFailure(rank=None, node="", cause=self.cause, message=self.reason) if self.cause else None


class JobFields(TypedDict, total=False):
    """The fields of a job's record that change after its submission."""

    state: JobState
    reason: str
    attempt: int
    priority: int
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

    `abandoned` names nodes that a person gave up, so that the job could end without their word, and `gone_from` those
    that proved that no process of it remains; on the others none was found. `predicted_mib` is what was expected of
    each GPU's memory at the launch, `peak_mib` the most that was seen of it. `last_event` is what the timeline ends
    with once the change that wrote this record is whole. `past` has the attempts before this one, and `resume_from`
    the checkpoint that this one goes on from. `alert` says that it hangs, while it does. `launched_at` is when its
    nodes were first told to start: before its first checkpoint, while `started_at` is when it was seen to run.
    `taken_back` is how its launches were cut off, until one of them comes about.
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
    command: tuple[str, ...]
    code: CodeVersion
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

    def changed(self, **fields: Unpack[JobFields]) -> Job:
        """Return a copy with other values in these fields. What is recorded is an edge of `transitions`."""
        return self.model_copy(update=dict(fields))

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes it is placed on, in the order of their node ranks."""
        return tuple(share.node for share in self.placement.shares) if self.placement else ()

    @property
    def hang(self) -> str | None:
        """Why it seems to hang, while it does."""
        return None if self.alert is None else self.alert.removeprefix(_HANGS)

    @property
    def node_configs(self) -> dict[str, NodeConfig]:
        """The nodes it is placed on as they were described when it was; without those of which that is not known."""
        shares = self.placement.shares if self.placement else ()
        return {share.node: share.config for share in shares if share.config}

    @property
    def earlier_code(self) -> tuple[CodeVersion, ...]:
        """What attempts before this one ran and this one does not, the latest first."""
        found = {past.code.attempt: past.code for past in self.past if past.code.attempt != self.code.attempt}
        return tuple(found[attempt] for attempt in sorted(found, reverse=True))

    @property
    def stopping(self) -> bool:
        """Whether its ranks are being ended: that is asked for, or one of them failed. No state of its own."""
        return self.state in (JobState.STARTING, JobState.RUNNING) and bool(self.wish or self.first_failure)

    @property
    def followed(self) -> int:
        """How many ranks ended badly besides the one that failed first."""
        first = self.first_failure.rank if self.first_failure else None
        return sum(bool(rank.exit_code or rank.signal) for rank in self.ranks if rank.rank != first)

    def began_on(self, node: str) -> bool:
        """Whether this attempt is known to have started there: all its nodes said so, or a rank was seen."""
        return self.started_at is not None or any(rank.node == node and rank.pid is not None for rank in self.ranks)

    @property
    def latest(self) -> Attempt:
        """Its latest attempt, as the record of the next one would have it."""
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

    def as_of(self, attempt: int) -> Job:
        """The job as it stood at the end of one of its attempts, as far as its record still tells."""
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

    `run` names equal runs: the same script with the same arguments on as many GPUs a node.
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
