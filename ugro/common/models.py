"""The records UGRO keeps and shows. Frozen: a change is a new record (`job.model_copy(update=…)`).

Memory is in MiB, time in seconds since the epoch (float, master's clock unless a field says otherwise).
`None` means that the driver, the node or the file does not say; it is never counted as zero.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import PurePosixPath

from pydantic import BaseModel, ConfigDict

from ugro.common.config import NodeConfig

SCHEMA_VERSION = 3
"""Of `job.json`. `metadata_store.MIGRATIONS` brings older records up to it."""


class Record(BaseModel):
    """Base of all records: immutable, and strict about unknown fields so that a hand-broken file is noticed."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False)


class GpuProcess(Record):
    """A compute process on a GPU, as `nvidia-smi --query-compute-apps` and /proc tell."""

    pid: int
    name: str
    user: str | None = None
    memory_mib: int | None = None


class Gpu(Record):
    """One GPU row of nvidia-smi. `problem` names what is wrong with a GPU that cannot be used (lost …).

    `uuid` is empty where only the index of a lost GPU is known; such a GPU is never placed on.
    """

    index: int | None
    uuid: str
    name: str
    memory_total_mib: int | None = None
    memory_used_mib: int | None = None
    memory_free_mib: int | None = None
    utilization_percent: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    driver: str | None = None
    mig: bool = False
    problem: str | None = None
    processes: tuple[GpuProcess, ...] = ()


class NodeView(Record):
    """What one node said of itself in one round trip.

    `clock_offset` is the node's clock minus the master's, in seconds, good to about half of the round trip.
    `gpu_problem` is nvidia-smi's complaint in words; a node without GPUs has neither GPUs nor a problem.
    `owner` is what the node's owner file says of the master that runs it. `pid_namespace` names its process table, and
    `folder` the place of its `base_dir` there: they tell nodes apart that have one boot id.
    """

    node: str
    seen_at: float
    boot_id: str
    pid_namespace: str | None = None
    folder: str | None = None
    clock_offset: float
    cpu_count: int
    load_1m: float | None = None
    memory_total_mib: int | None = None
    memory_available_mib: int | None = None
    disk_free_mib: int | None = None
    gpus: tuple[Gpu, ...] = ()
    gpu_problem: str | None = None
    owner: str | None = None


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


class Rank(Record):
    """One rank of an attempt: the script's own process, exit code or signal, not torchrun's.

    `pid` and `ended_at` are the node's (its clock). `limit` says what its time limit did to it: `warned` (SIGUSR2),
    `unheard` (the script catches no SIGUSR2, so none was sent) or `ended`. `oom`: what shows a kill for lack of memory.
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
    limit: str | None = None
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


class Event(Record):
    """One line of `events.jsonl`. About a job or a node (the other is empty), a job on a node, or neither (`alert`).

    One that is `noted` is no change of the job's record.
    """

    at: float
    job: str = ""
    node: str = ""
    kind: str
    message: str
    noted: bool = False


class FoundCheckpoint(Record):
    """A checkpoint as one node has it. `path` is absolute there, `name` below the directory that was searched.

    `saved_at` is in the node's clock; `problem` says what is torn.

    `kind` is transformers, lightning, torch, distributed, deepspeed, folder or ranks. Of a checkpoint whose parts lie
    on the nodes of their ranks, `shards` names those that are here, and `needs` all there are where that is known. Of
    kind `ranks` each rank has a file or folder of its own: `name` has `{rank}` where they differ, and `path` is the
    folder that the first such part of `name` is in.

    `step` and `epoch` are told by its name or its content. `begun_at` is when the oldest of its files was written.
    `model_parallel` is the number of model-parallel ranks that it says it was saved by, `finished` whether the tool
    that saved it noted its end, `weights_only` that nothing in it belongs to an optimizer.
    """

    path: str
    name: str
    kind: str
    step: int | None
    bytes: int
    files: int
    saved_at: float
    problem: str | None = None
    shards: tuple[str, ...] = ()
    needs: tuple[str, ...] | None = None
    epoch: int | None = None
    begun_at: float | None = None
    model_parallel: int | None = None
    finished: bool = False
    weights_only: bool = False


class Place(Record):
    """Where a checkpoint lies: an absolute path on a node; of kind `ranks` a folder, and the `files` of it below."""

    node: str
    path: str
    files: tuple[str, ...] = ()


class Checkpoint(Record):
    """A checkpoint of a job, over all nodes. `saved_at` is in the master's clock.

    Each of the `places` has the whole of it, or, where it is `split`, only a part; none: only the master has it (kind
    `copy`). One with a `problem` is torn, or cannot be shown to be whole, and is never offered.

    `attempt` is the one that saved it (None: an earlier UGRO did not say); with `other_branch` it is none that the
    job's latest attempt goes back to. `ranks` is how many ranks have a part of their own in it, so that only as many
    can go on from it. `weights_only`: nothing in it belongs to an optimizer.
    """

    step: int | None
    kind: str
    name: str
    bytes: int
    saved_at: float
    places: tuple[Place, ...]
    split: bool = False
    problem: str | None = None
    epoch: int | None = None
    attempt: int | None = None
    other_branch: bool = False
    ranks: int | None = None
    weights_only: bool = False

    @property
    def position(self) -> int | None:
        """How far it is: its step, else its epoch."""
        return self.epoch if self.step is None else self.step

    @property
    def where(self) -> str:
        """For people: `step 20`, or `epoch 3` where nothing tells of a step."""
        return f"epoch {self.epoch}" if self.step is None and self.epoch is not None else f"step {self.step}"

    @property
    def label(self) -> str:
        """The name of the folder that a copy of it has on the master: `20-attempt-2`."""
        told = {"epoch": self.epoch, "attempt": self.attempt}
        step = () if self.step is None else (str(self.step),)
        return "-".join([*step, *(f"{name}-{number}" for name, number in told.items() if number is not None)])

    @property
    def own_name(self) -> str:
        """Its name alone, whatever it lies in; of kind `ranks` it begins where the ranks differ."""
        parts = PurePosixPath(self.name).parts
        first = next((index for index, part in enumerate(parts) if "{" in part), -1) if self.of_each_rank else -1
        return "/".join(parts[first:])

    @property
    def of_each_rank(self) -> bool:
        """Whether its name has `{rank}` in the place of each rank's number."""
        return self.kind == "ranks"

    @property
    def whole_at(self) -> dict[str, str]:
        """The path of it on each node that has all of it."""
        tail = f"/{self.own_name}" if self.of_each_rank else ""
        return {} if self.split else {place.node: place.path + tail for place in self.places}


class Change(Record):
    """One argument of a job's next attempt, as it was and as it will be; None: it was not given."""

    name: str
    before: str | None
    after: str

    @property
    def text(self) -> str:
        """For people: `--batch-size 8 → 4`."""
        return f"{self.name} {self.before if self.before is not None else '(not given)'} → {self.after}"


class Proposal(Record):
    """What UGRO would do about a job that failed, and waits to be told to. `checkpoint` None: from the beginning.

    `nodes` are those that it would go on with, where that are not the ones it was asked for. `ends`: it has not ended
    (it hangs, or waits for a node that is silent), and would be ended first; `approved` it is carried out once it has.
    """

    job: str
    attempt: int
    at: float
    cause: str
    text: str
    checkpoint: Checkpoint | None = None
    changes: tuple[Change, ...] = ()
    nodes: tuple[str, ...] = ()
    ends: bool = False
    approved: bool = False


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


class Job(Record):
    """A job's record, `job.json`. `uid` tells two jobs apart that were both called job-001 by different masters.

    `abandoned` names nodes that a person gave up, so that the job could end without their word, and `gone_from` those
    that proved that no process of it remains; on the others none was found. `predicted_mib` is what was expected of
    each GPU's memory at the launch, `peak_mib` the most that was seen of it. `last_event` is what the timeline ends
    with once the change that wrote this record is whole. `past` has the attempts before this one, and `resume_from`
    the checkpoint that this one goes on from. `alert` says that it hangs, while it does. `launched_at` is when its
    nodes were first told to start: before its first checkpoint, while `started_at` is when it was seen to run.
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
    last_event: Event | None = None

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes it is placed on, in the order of their node ranks."""
        return tuple(share.node for share in self.placement.shares) if self.placement else ()

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


class Drain(Record):
    """A node that gets no new jobs, why, and since when. What runs there goes on."""

    node: str
    reason: str
    since: float


class Owed(Record):
    """A job's folder on a node that is to be removed once the node answers, as the node was reached then."""

    job: str
    uid: str
    config: NodeConfig


class Silence(Record):
    """A node that does not answer. `watched` counts only seconds in which somebody looked again and again.

    The rest is what the last look ended with, as a `NodeError` has it.
    """

    since: float
    seen_at: float
    watched: float = 0.0
    code: str = ""
    problem: str = ""
    hint: str = ""


class MeasuredLink(Record):
    """The way from one node to another as `ugro check --network` last measured it; the latency is half a round trip."""

    source: str
    target: str
    backend: str
    latency_ms: float
    gbit_per_s: float
    measured_at: float


class GpuLook(Record):
    """One line of a node's history: what a GPU showed at one look. Memory in MiB.

    `job` is the one that held it; `program` names what else used it, and whose that is, where no job did.
    """

    at: float
    uuid: str
    utilization_percent: int | None = None
    memory_used_mib: int | None = None
    memory_total_mib: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    job: str | None = None
    program: str | None = None


class GpuSample(Record):
    """One line of `metrics.jsonl`: what the GPU of a rank showed at one look. Memory in MiB."""

    at: float
    rank: int
    memory_mib: int | None = None
    utilization_percent: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
