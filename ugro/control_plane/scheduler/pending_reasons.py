"""Pending reasons: why a job waits, as types that decisions compare. `pending_words` has their texts. No I/O."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from pathlib import Path

from ugro.common.models.job_state import JobState
from ugro.common.text import SHOWN


class EndsAs(StrEnum):
    """The end that a job has to reach, for one that waits for it."""

    SUCCESS = "success"
    FAILURE = "failure"
    ANY = "any"


# Blockers: reasons that are no lack of resources. They hold on an idle cluster too.


@dataclass(frozen=True)
class OnHold:
    """The user holds the job."""


@dataclass(frozen=True)
class NotBefore:
    """The user asked for a start at `until` or later."""

    until: float


@dataclass(frozen=True)
class LaunchCutOff:
    """Its launch was cut off, so many `times` in a row; the next one is at `until`."""

    until: float
    times: int
    reason: str


@dataclass(frozen=True)
class AwaitsJob:
    """It waits for another job to end."""

    job: str
    ending: EndsAs


@dataclass(frozen=True)
class UnmetDependency:
    """It waits for an end that never comes: the other job ended otherwise, or is unknown (None)."""

    job: str
    ending: EndsAs
    state: JobState | None


@dataclass(frozen=True)
class DependencyUnreadable:
    """The record of a job that it waits for cannot be read."""

    path: Path


@dataclass(frozen=True)
class HolderUnreadable:
    """A live job that may hold any slot cannot be read, so no job starts."""

    path: Path


@dataclass(frozen=True)
class SweepFull:
    """As many jobs of its sweep as may run at a time are running, or go first: `running` of `limit`."""

    sweep: str
    running: int
    limit: int


@dataclass(frozen=True)
class SecretNotSet:
    """A secret that it needs was removed since its submission. It starts once the secret is set again."""

    secret: str


Blocker = (
    SweepFull
    | OnHold
    | NotBefore
    | LaunchCutOff
    | AwaitsJob
    | UnmetDependency
    | DependencyUnreadable
    | HolderUnreadable
    | SecretNotSet
)


# Reasons of one node.


@dataclass(frozen=True, order=True)
class Holder:
    """A job that holds slots; `ends` is when it will probably give them back, infinity if that is unknown.

    `shared_mib` is what it declared of a GPU that it shares.
    """

    ends: float
    job: str
    stopping: bool = False
    shared_mib: int | None = None

    @property
    def shared(self) -> bool:
        """Whether it shares the slot."""
        return self.shared_mib is not None


@dataclass(frozen=True)
class NodeHeld:
    """Jobs hold slots of the node, the soonest to end first; `cpu`: its CPU alone is wanted, of a node with GPUs."""

    node: str
    holders: tuple[Holder, ...]
    cpu: bool = False


@dataclass(frozen=True)
class GpuBusy:
    """A GPU that no job holds is in use or too hot: `problem` names it."""

    node: str
    problem: str


@dataclass(frozen=True)
class GpuFull:
    """Jobs share a GPU (`gpu` names it), and of its `usable_mib` too few MiB are left, or they are the `most` that may
    share one.
    """

    node: str
    gpu: str
    left_mib: int
    usable_mib: int
    holders: tuple[Holder, ...]
    most: bool = False


@dataclass(frozen=True)
class NodeRefuses:
    """The node takes no new job: it is drained, unreachable, another master's or short of disk. `refusal` names it."""

    node: str
    refusal: str


@dataclass(frozen=True)
class NotInInventory:
    """The inventory does not have the node any more."""

    node: str


@dataclass(frozen=True)
class TooFewGpus:
    """The node has fewer suitable GPUs than requested. `too_small`: others have too little memory.

    `gpus` are all usable ones, `memory_mib` their sizes, `left_out` what is wrong with the unusable.
    """

    node: str
    gpus: int
    memory_mib: tuple[int, ...]
    left_out: tuple[str, ...]
    too_small: bool = False


@dataclass(frozen=True)
class GpuLeftOut:
    """A GPU of the node is not used: `problem` names it."""

    node: str
    problem: str


NodeReason = NodeHeld | GpuBusy | GpuFull | NodeRefuses | NotInInventory | TooFewGpus | GpuLeftOut


def nearness(reason: NodeReason) -> tuple[int, float]:
    """Return a sorting key: what is probably over first comes first."""
    match reason:
        case NodeHeld(holders=holders):
            return 0, holders[-1].ends
        case GpuFull(holders=holders):
            return 0, holders[0].ends
        case GpuBusy():
            return 1, math.inf
        case NodeRefuses() | NotInInventory():
            return 2, math.inf
        case TooFewGpus(too_small=True):
            return 3, math.inf
        case TooFewGpus() | GpuLeftOut():
            return 4, math.inf


@dataclass(frozen=True)
class NodesShort:
    """Nodes do not take the job: one reason of each."""

    reasons: tuple[NodeReason, ...]

    @classmethod
    def nearest(cls, found: Iterable[NodeReason]) -> NodesShort:
        """Return the first reason of each node."""
        first: dict[str, NodeReason] = {}
        for reason in found:
            first.setdefault(reason.node, reason)
        return cls(tuple(first.values()))


# Reasons of the queue.


@dataclass(frozen=True)
class Starts:
    """It does not wait: it starts at the next scheduling pass."""


@dataclass(frozen=True)
class Behind:
    """Jobs that want the same slots go first."""

    jobs: tuple[str, ...]


@dataclass(frozen=True)
class Overtaken:
    """It would not fit if every job ended now, so others go first."""

    short: NodesShort


# Why a job is unschedulable, and what would help.


class Act(Enum):
    """Action of the user that lets an unschedulable job start."""

    ADD_NODES = auto()
    ADD_NODE_AGAIN = auto()
    MEND_NODE = auto()
    CHECK_NODE = auto()
    ASK_FOR_LESS = auto()
    CHANGE_AFTER = auto()
    SEE_JOB = auto()
    SET_SECRET = auto()
    CANCEL_JOB = auto()


@dataclass(frozen=True)
class Remedy:
    """An act on a target: a node, a job, or for MEND_NODE what the governor advises."""

    act: Act
    target: str = ""


@dataclass(frozen=True)
class TooFewNodes:
    """More nodes are requested than the inventory has."""

    wanted: int
    known: int


@dataclass(frozen=True)
class TooFewInAll:
    """More GPUs in all are requested than the nodes have that would do; `reasons` say what keeps nodes from giving
    theirs.
    """

    wanted: int
    usable: int
    reasons: tuple[NodeReason, ...]


@dataclass(frozen=True)
class AwaitsUnschedulable:
    """It waits for a job that is unschedulable itself."""

    dependency: AwaitsJob


@dataclass(frozen=True)
class AwaitsCircle:
    """It waits for a job that waits for it in turn, or for others that wait for each other."""

    dependency: AwaitsJob
    itself: bool


@dataclass(frozen=True)
class Unschedulable:
    """The job cannot start until something changes: one of the remedies helps, or only giving the job up does."""

    job: str
    cause: UnmetDependency | AwaitsUnschedulable | AwaitsCircle | TooFewNodes | TooFewInAll | NodesShort | SecretNotSet
    remedies: tuple[Remedy, ...]

    @property
    def named(self) -> tuple[Blocker | NodeReason, ...]:
        """The pending reasons that its text names already."""
        match self.cause:
            case NodesShort(reasons=reasons) | TooFewInAll(reasons=reasons):
                return reasons[:SHOWN]
            case AwaitsUnschedulable(dependency=one) | AwaitsCircle(dependency=one):
                return (one,)
            case UnmetDependency() | SecretNotSet() as one:
                return (one,)
            case TooFewNodes():
                return ()


PendingReason = Blocker | NodeReason | NodesShort | Starts | Behind | Overtaken | Unschedulable


# What else a forecast depends on.


@dataclass(frozen=True)
class Freed:
    """It starts when a job frees these nodes."""

    job: str
    nodes: tuple[str, ...]
    stopping: bool = False


@dataclass(frozen=True)
class EndUnknown:
    """It waits for the end of a job that has no time limit and no history."""

    job: str


@dataclass(frozen=True)
class LongChain:
    """It waits, directly or through others, for more jobs than a forecast follows."""

    limit: int


@dataclass(frozen=True)
class LongQueue:
    """More jobs are ahead of it than a forecast lets go first."""

    limit: int


@dataclass(frozen=True)
class AwaitsNodes:
    """Only unreachable nodes keep it from starting: `missing` of those of the `refusals`; `ready` ones could start."""

    refusals: tuple[str, ...]
    missing: int
    ready: tuple[str, ...]


Prospect = PendingReason | Freed | EndUnknown | LongChain | LongQueue | AwaitsNodes
