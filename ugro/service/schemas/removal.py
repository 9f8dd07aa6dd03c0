"""Requests that remove what ended jobs left, and their answers."""

from __future__ import annotations

from typing import ClassVar

from ugro.common.models.job_state import JobState
from ugro.service.plan import Plan
from ugro.service.schemas.base import Document, ErrorDocument, Request
from ugro.service.schemas.checkpoints import HeldCheckpoint
from ugro.service.schemas.codec import Moment

# --- whole jobs ------------------------------------------------------------------------------------------------------


class NodeFolderDocument(Document):
    """The folder of a job on one node. Nodes that share a home have one."""

    node: str
    files: int
    bytes: int


class UseDocument(Document):
    """What an ended job takes up: `bytes` on the master, `outputs` of them its outputs, and its folders on nodes.

    `unseen` says what was not searched for checkpoints; `silent` are the nodes it ran on that are unreachable.
    """

    id: str
    title: str
    state: JobState
    bytes: int
    outputs: int
    parts: tuple[NodeFolderDocument, ...]
    silent: tuple[str, ...]
    checkpoints: tuple[HeldCheckpoint, ...]
    unseen: tuple[str, ...]


class RefusedDocument(Document):
    """A job that cannot be removed."""

    name: str
    """The job as it was named."""
    error: ErrorDocument
    """Why."""


class RemovePlan(Plan):
    """What ended jobs take up, all of which goes; `refused` are the others, `exit_code` is that of their errors."""

    jobs: tuple[UseDocument, ...]
    refused: tuple[RefusedDocument, ...]
    exit_code: int


class PlanRemove(Request[RemovePlan]):
    """Plan to remove ended jobs entirely. With `with_checkpoints`, jobs with checkpoints need no separate consent."""

    function: ClassVar[str] = "removal.plan_remove"
    jobs: tuple[str, ...]
    with_checkpoints: bool = False


class RemovedFromNode(Document):
    """What became of a job's folder on a node."""

    node: str
    state: str
    """`gone`: removed; `absent`: there was none; `rest`: only what UGRO did not make stays; `left`: something could not
    be removed; `other`: that of another job; `running`: a run of it is not over; `link`: a link is in its place;
    `unreachable`: it goes later.
    """
    error: ErrorDocument | None
    """Why the node is unreachable."""


class RemovedJob(Document):
    """A job that was removed."""

    id: str
    name: str
    """Its name."""
    bytes: int
    """What it took up on the master."""
    node_bytes: int
    """What it took up on nodes."""
    nodes: tuple[RemovedFromNode, ...]
    """What became of its folders on nodes."""
    checkpoints: tuple[HeldCheckpoint, ...]
    """Checkpoints that went with it."""


class RemovedDocument(Document):
    """The jobs that were removed, and those that could not be."""

    schema_version: int = 1
    removed: tuple[RemovedJob, ...]
    """Jobs that were removed."""
    failed: tuple[RefusedDocument, ...]
    """Jobs that could not be removed."""


class Remove(Request[RemovedDocument]):
    """Carry out such a plan."""

    function: ClassVar[str] = "removal.remove"
    plan: RemovePlan
    answers: dict[str, bool]


# --- what old jobs left ----------------------------------------------------------------------------------------------


class BytesOnNode(Document):
    """How much goes from a node."""

    node: str
    bytes: int


class CollectedJob(Document):
    """What goes of an old job."""

    id: str
    bytes: int
    """Size of its logs on the master."""
    code_bytes: int
    nodes: tuple[BytesOnNode, ...]
    """What goes from each node."""
    kept: str | None
    """Why its code and its folders on nodes stay: `checkpoints`, `unseen`, `outputs`, `silent`, `undecided`, `owed`,
    `running`, `linked`, `changed`; `null`: they go.
    """
    checkpoints: tuple[HeldCheckpoint, ...]
    """Its checkpoints."""
    unseen: tuple[str, ...]
    """Places that were not searched for checkpoints."""


class UnreachableNode(Document):
    """A node that could not be asked."""

    node: str
    error: ErrorDocument
    """Why."""


class CollectedEnvironment(Document):
    """An environment of a setup command that no job used for so long."""

    node: str
    """Node that has it; of those that share it, one."""
    name: str
    """Its folder below the base directory."""
    bytes: int
    used_at: Moment | None
    """When a job started last with it; `null`: its setup did not end well."""
    kept: str | None
    """Why it stays: `running` (it is used by now), `left` (something could not be removed), `unreachable`; `null`: it
    goes.
    """


class CollectedDocument(Document):
    """What goes, or went, of old jobs."""

    deleted: bool
    """Whether it went."""
    bytes: int
    """Size of their logs on the master."""
    code_bytes: int
    nodes: tuple[BytesOnNode, ...]
    """What goes from each node."""
    jobs: tuple[CollectedJob, ...]
    """What goes of each job."""
    environments: tuple[CollectedEnvironment, ...]
    """Environments of setup commands, whose size is in no other number."""
    temporary: tuple[str, ...]
    """Paths of temporary files that were left behind."""
    unreachable: tuple[UnreachableNode, ...]
    """Nodes of old jobs that could not be asked."""
    unsearched: tuple[UnreachableNode, ...]
    """Nodes that could not be asked for environments."""


class JobInWords(Document):
    """For people: whether code on the master goes (it may free 0 bytes), and why the rest of a job stays.

    `resumable`: it stays because the job can be resumed, so it goes with `with_checkpoints`.
    """

    code: bool
    kept: str | None
    resumable: bool


class Collected(Document):
    """The same, with what is said of each job; `jobs` is in the order of `answer.jobs`."""

    answer: CollectedDocument
    jobs: tuple[JobInWords, ...]


class CollectPlan(Plan):
    """What would go of old jobs. Nothing is asked: carrying it out is the consent."""

    found: Collected
    with_checkpoints: bool
    idle: int
    """Seconds for which nothing may have used an environment that goes."""


class PlanCollect(Request[CollectPlan]):
    """Plan to remove what jobs left that ended more than `older_than` seconds ago, but for the `keep` last of all.

    Also environments of setup commands that no other job used since then.
    """

    function: ClassVar[str] = "removal.plan_collect"
    older_than: float
    keep: int = 0
    with_checkpoints: bool = False


class Collect(Request[Collected]):
    """Carry out such a plan."""

    function: ClassVar[str] = "removal.collect"
    plan: CollectPlan
