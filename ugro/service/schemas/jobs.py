"""Documents of jobs, their attempts, ranks, checkpoints and events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from ugro.common.models.code_version import CodeVersion
from ugro.common.models.first_failure import FirstFailure
from ugro.common.models.job_state import JobState, RankState
from ugro.common.models.outputs_state import OutputsState
from ugro.common.models.place import Place
from ugro.common.text import position_in_words
from ugro.service.schemas.base import Document, ErrorDocument
from ugro.service.schemas.codec import Moment

if TYPE_CHECKING:
    from ugro.common.models.checkpoint import Checkpoint
    from ugro.common.models.event import Event


class RankDocument(Document):
    """A rank: the script's own process, exit code or signal, not torchrun's."""

    rank: int
    local_rank: int
    """Rank on its node."""
    node: str
    gpu: str | None
    """UUID of its GPU."""
    pid: int | None
    state: RankState
    exit_code: int | None
    signal: str | None
    ended_at: Moment | None
    limit: str | None
    """What its time limit did to it last: `warned`, `unheard` (SIGUSR2 is not caught, so none was sent) or `ended`."""
    oom: str | None
    """What shows that it was killed for lack of memory."""


class SweepPartDocument(Document):
    """A job's part in a sweep."""

    sweep: str
    """Id of the sweep."""
    name: str
    """Name of the sweep."""
    index: int
    """Its number in the sweep, from 1."""
    of: int
    """Number of jobs of the sweep."""
    values: dict[str, str]
    """What it runs with, by argument."""
    max_parallel: int | None
    """How many jobs of the sweep run at a time; `null`: as many as there is room for."""


class PartDocument(Document):
    """Part of a GPU that a job declared, which shares it with others."""

    memory_mib: int
    """Memory that it may use."""
    fraction: float
    """The same for PyTorch's allocator, as a fraction of the GPU's memory (`UGRO_GPU_FRACTION`)."""


class ShareDocument(Document):
    """The part of a job on one node."""

    node: str
    node_rank: int
    """torchrun's node rank."""
    first_rank: int
    """Its lowest global rank."""
    nproc: int
    """Number of its ranks."""
    gpus: tuple[str, ...]
    """UUIDs of its GPUs, by local rank; of a launcher that starts one process they are all that one's."""
    batch_shares: tuple[float, ...]
    """Fraction of the global batch of each rank; empty: they are equal."""
    part: PartDocument | None = None
    """What it declared of its GPU, where it shares that; `null`: its GPUs are its own."""


class PlacementDocument(Document):
    """Where an attempt runs. How the nodes are reached stays in the record: their `env` may be private."""

    shares: tuple[ShareDocument, ...]
    """Its part on each node."""
    master_addr: str | None
    """Address where the ranks meet."""
    master_port: int | None
    """Port where they meet."""
    why: str
    """What decided for these nodes; empty: their order in the inventory."""

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
    """Why it ended so."""
    cause: str | None
    step: int | None
    """Step that it began from."""
    epoch: int | None
    """Epoch that it began from."""
    source: int | None
    launched_at: Moment | None
    first_failure: FirstFailure | None
    followed: int
    """How many other ranks failed."""


class AttemptSummary(Document):
    """An attempt, past or present, without what it ran."""

    attempt: int
    state: JobState
    reason: str
    """Why it is in this state."""
    step: int | None
    """Step that it began from."""
    epoch: int | None
    """Epoch that it began from."""
    source: int | None
    first_failure: FirstFailure | None
    launched_at: Moment | None
    started_at: Moment | None
    ended_at: Moment | None
    nodes: tuple[str, ...]
    """Names of its nodes, by node rank."""


class CheckpointDocument(Document):
    """A checkpoint of a job, over all nodes."""

    step: int | None
    kind: str
    """What saved it: `transformers`, `lightning`, `torch`, `distributed`, `deepspeed`, `folder`, `ranks` (each rank
    has a file of its own), or `copy` (only the master has it).
    """
    name: str
    """Path below the directory of checkpoints."""
    bytes: int
    """Size of all its files."""
    saved_at: Moment
    """When it was saved."""
    places: tuple[Place, ...]
    """Where it is."""
    split: bool
    """Whether each place has only a part of it."""
    problem: str | None
    """Why it is incomplete, or cannot be proven complete."""
    epoch: int | None
    attempt: int | None
    """Attempt that saved it; `null`: an earlier UGRO did not record that."""
    other_branch: bool
    """Whether the latest attempt does not descend from the one that saved it."""
    ranks: int | None
    """How many ranks have a part of their own in it; only as many can resume from it."""
    weights_only: bool
    """Whether it has no optimizer state."""
    whole: bool
    """Whether it is complete, so that a job can resume from it."""

    @classmethod
    def of(cls, checkpoint: Checkpoint, **more: Any) -> Self:
        """Return the document of a checkpoint; `more` are the fields that a subclass adds."""
        known = {name: getattr(checkpoint, name) for name in type(checkpoint).model_fields}
        return cls(**known, whole=checkpoint.problem is None, **more)

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
    """When it happened."""
    job: str
    """Id of the job; empty: it is about no job."""
    node: str
    """Name of the node; empty: it is about no node."""
    kind: str
    """Kind of the event ([list](events.md))."""
    message: str
    """What happened, in a sentence."""

    @classmethod
    def of(cls, event: Event) -> Self:
        """Return the document of an event."""
        return cls(at=event.at, job=event.job, node=event.node, kind=event.kind, message=event.message)


class UnreadableDocument(Document):
    """A job whose record cannot be read."""

    id: str
    """Id of the job."""
    file: str
    """Path of the record."""
    error: ErrorDocument
    """What is wrong; the hint restores the last good copy."""


class ProgressDocument(Document):
    """How far a run is, as far as its logs or files tell."""

    at: Moment
    """When it was there."""
    step: int | None
    """Steps that are done."""
    steps: int | None
    """Steps of the whole run."""
    percent: float | None
    """Part that is done."""
    epoch: float | None
    """Epochs that are done."""
    epochs: int | None
    """Epochs of the whole run."""
    rate: float | None
    """Steps a second."""
    left: float | None
    """Seconds that the rest takes at this rate, from `at`."""
    eta: Moment | None
    """When it will be done."""


class OutputsDocument(Document):
    """The outputs that a job declares, and the master's copy of them."""

    globs: tuple[str, ...]
    """What it declares, relative to the folder in which the script runs."""
    state: OutputsState | None
    """`owed`: they are still to come; `here`; `none`: no file has such a name; `partial`: some could not be copied;
    `too_large`: they stay on the nodes until `ugro pull`; `null`: the job has not succeeded.
    """
    folder: str | None
    """Where the copy is."""
    files: int
    """Number of files."""
    bytes: int
    """Size of all of them."""
    problem: str
    """What is in the way; empty: nothing."""


class JobDocument(Document):
    """A job, and what was requested of it."""

    id: str
    name: str
    """Its name."""
    state: JobState
    reason: str
    """Why it is in this state."""
    attempt: int
    """Number of the current attempt, from 1."""
    priority: int
    """A higher one starts sooner."""
    submitted_at: Moment
    """When it was submitted."""
    launched_at: Moment | None
    started_at: Moment | None
    ended_at: Moment | None
    unknown_since: Moment | None
    """Since when its nodes cannot be read."""
    launcher: str
    """What starts it on each node: `torchrun`, `accelerate`, `deepspeed`, `python` or `none`."""
    command: tuple[str, ...]
    """torchrun's words: `train.py …`, `-m pkg.train …` or `--no-python ./train.sh …`, one list entry each; with the
    launcher `none` the command as it was typed.
    """
    code: CodeVersion
    sweep: SweepPartDocument | None
    """Its part in a sweep; `null`: it is a job by itself."""
    placement: PlacementDocument | None
    """Where the attempt runs."""
    ranks: tuple[RankDocument, ...]
    """One entry for each global rank."""
    first_failure: FirstFailure | None
    abandoned: tuple[str, ...]
    """Nodes that the user gave up, so that it could end without them."""
    gone_from: tuple[str, ...]
    """Nodes that proved that no process of it remains."""
    predicted_mib: int | None
    """Expected memory of each GPU, as of the launch."""
    peak_mib: int | None
    """Largest memory of a GPU that was observed."""
    alert: str | None
    """Why it seems to hang, while it does."""
    past: tuple[AttemptDocument, ...]
    """Earlier attempts."""
    resume_from: CheckpointDocument | None
    """The checkpoint that this attempt resumed from."""
    attempts: tuple[AttemptSummary, ...]
    """All attempts with the current one."""
    stopping: bool
    """Whether its ranks are being ended, while its state is still `running` or `starting`."""
    nodes: tuple[str, ...]
    """Names of its nodes, by node rank."""
    cancel_requested: bool
    """Whether its end was requested."""
    time_limit: float | None
    """Its time limit, in seconds."""
    time_warning: float | None
    """Seconds before the limit at which the ranks get SIGUSR2; `null`: a tenth of it, at most 300."""
    grace: float | None
    """Seconds for which processes that a succeeded job left may continue; `null`: they are ended at once."""
    vram: int | None
    """Memory that it needs of each GPU, in MiB."""
    gpus: int | None
    """GPUs that it asked for in all; `null`: it counts them by node."""
    share: float | str | None
    """Part of one GPU that it shares with others: a fraction, or `vram` for as much as `vram` says; `null`: none."""
    python: str | None
    """Python that it asks for: a path, a conda environment or `uv`; `null`: that of the inventory."""
    setup: str | None
    """Command that sets its environment up before the start."""
    after: tuple[str, ...]
    """Ids of the jobs that it waits for."""
    not_before: Moment | None
    """It does not start before this."""
    progress: ProgressDocument | None
    """How far it is while it runs; `null`: not known."""
    outputs: OutputsDocument | None
    """The files that it declares as its results; `null`: it declares none."""
