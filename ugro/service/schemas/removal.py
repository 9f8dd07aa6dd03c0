"""Requests that remove what ended jobs left, and their answers."""

from __future__ import annotations

from typing import ClassVar

from ugro.common.models.job import JobState
from ugro.service.plan import Plan
from ugro.service.schemas.base import Document, ErrorDocument, Request
from ugro.service.schemas.checkpoints import HeldCheckpoint

# --- whole jobs ------------------------------------------------------------------------------------------------------


class PartDocument(Document):
    """The folder of a job on one node. Nodes that share a home have one."""

    node: str
    files: int
    bytes: int


class UseDocument(Document):
    """What an ended job takes up: `bytes` on the master, and its folders on nodes.

    `unseen` says what was not searched for checkpoints; `silent` are the nodes it ran on that are unreachable.
    """

    id: str
    title: str
    state: JobState
    bytes: int
    parts: tuple[PartDocument, ...]
    silent: tuple[str, ...]
    checkpoints: tuple[HeldCheckpoint, ...]
    unseen: tuple[str, ...]


class RefusedDocument(Document):
    """A job that cannot be removed, as it was named, and why."""

    name: str
    error: ErrorDocument


class RemovePlan(Plan):
    """What ended jobs take up, all of which goes; `refused` are the others, `exit_code` is that of their errors."""

    jobs: tuple[UseDocument, ...]
    refused: tuple[RefusedDocument, ...]
    exit_code: int


class PlanRemove(Request[RemovePlan]):
    """Plan to remove ended jobs wholly. With `with_checkpoints` those that have some need no consent of their own."""

    function: ClassVar[str] = "removal.plan_remove"
    jobs: tuple[str, ...]
    with_checkpoints: bool = False


class RemovedFromNode(Document):
    """What became of a job's folder on a node; its error where that is unreachable: then it goes later."""

    node: str
    state: str
    error: ErrorDocument | None


class RemovedJob(Document):
    """A job that was removed: what it took up, and what became of its folders on nodes."""

    id: str
    name: str
    bytes: int
    node_bytes: int
    nodes: tuple[RemovedFromNode, ...]
    checkpoints: tuple[HeldCheckpoint, ...]


class RemovedDocument(Document):
    """The jobs that were removed, and those that could not be."""

    schema_version: int = 1
    removed: tuple[RemovedJob, ...]
    failed: tuple[RefusedDocument, ...]


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
    """What goes of an old job: `bytes` of logs, code, and folders on nodes; `kept` says why the last two stay."""

    id: str
    bytes: int
    code_bytes: int
    nodes: tuple[BytesOnNode, ...]
    kept: str | None
    checkpoints: tuple[HeldCheckpoint, ...]
    unseen: tuple[str, ...]


class SilentNode(Document):
    """A node that could not be asked, and why."""

    node: str
    error: ErrorDocument


class CollectedDocument(Document):
    """What goes, or went (`deleted`), of old jobs. `bytes` are those of logs."""

    deleted: bool
    bytes: int
    code_bytes: int
    nodes: tuple[BytesOnNode, ...]
    jobs: tuple[CollectedJob, ...]
    temporary: tuple[str, ...]
    unreachable: tuple[SilentNode, ...]


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


class PlanCollect(Request[CollectPlan]):
    """Plan to remove what jobs left that ended more than `older_than` seconds ago, but for the `keep` last of all."""

    function: ClassVar[str] = "removal.plan_collect"
    older_than: float
    keep: int = 0
    with_checkpoints: bool = False


class Collect(Request[Collected]):
    """Carry out such a plan."""

    function: ClassVar[str] = "removal.collect"
    plan: CollectPlan
