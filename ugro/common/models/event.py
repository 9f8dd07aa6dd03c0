"""Events of the timeline."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from ugro.common.models.drain import DrainOrigin
from ugro.common.models.record import Record


class EventKind(StrEnum):
    """What an event says. First the kinds that have a job, in the order of its life, then those of nodes, then others.

    The text below each kind is its line in `docs/reference/events.md`.
    """

    SUBMITTED = "submitted"
    """The job was taken in. The message is its command."""
    QUEUED = "queued"
    """A launch was broken off before any rank started: the job waits for its turn again."""
    HELD = "held"
    """`ugro hold` keeps the job from starting."""
    RELEASED = "released"
    """`ugro release` lets a held job take its turn again."""
    PRIORITY = "priority"
    """The job has another priority."""
    EDITED = "edited"
    """`ugro edit` changed a waiting job. The message has each field with its value before and after."""
    STARTING = "starting"
    """The job got its nodes and GPUs, or its launch is tried again. The message says why these."""
    SETUP = "setup"
    """The setup command of the job runs on these nodes, or is done. The message names the nodes and the command."""
    PLACED = "placed"
    """The address where its ranks meet is known. The message names it and the interfaces."""
    RUNNING = "running"
    """All ranks were started, the nodes of an unknown job answer again, or a hang is over."""
    RANKS = "ranks"
    """The state of single ranks changed."""
    UNMET = "unmet"
    """No rank has begun for a minute: the meeting point is not reached. The message names the nodes."""
    MOVED = "moved"
    """A node of the job is reached at another address now."""
    UNKNOWN = "unknown"
    """A node of the job cannot be read, so its state is not known."""
    EXTENDED = "extended"
    """The job has a longer time limit, or, with a node, that node keeps it now."""
    CHECKPOINT = "checkpoint"
    """A checkpoint was saved because `ugro checkpoint` asked for one."""
    HANG = "hang"
    """The job seems to hang. The message names the rank that takes no part, if one differs."""
    IDLE = "idle"
    """All GPUs of the job did nothing for an hour of watching. Once an attempt."""
    OVER_SHARE = "over_share"
    """A job that shares a GPU uses more of its memory than it declared. Once an attempt; nothing is ended."""
    CANCEL = "cancel"
    """The end of the job was requested. It takes until its nodes confirm."""
    FAILING = "failing"
    """The job failed and its other ranks are being ended. The message names what failed first."""
    LEFTOVERS = "leftovers"
    """A job that succeeded left processes running: they are waited for, or were ended."""
    CLEARED = "cleared"
    """No process of an ended job remains on a node that was unreachable, or its folder there was removed."""
    SUCCEEDED = "succeeded"
    """All ranks ended with 0."""
    OUTPUTS = "outputs"
    """The outputs that the job declares were copied to the master, or cannot be. The message says where, or why."""
    FAILED = "failed"
    """The job failed; all of its ranks have ended."""
    CANCELLED = "cancelled"
    """The job was cancelled; all of its ranks have ended."""
    PROPOSAL = "proposal"
    """UGRO proposes something about the job, or about an unreachable node (`ugro proposals`)."""
    WITHDRAWN = "withdrawn"
    """What was proposed is no longer proposed, since the job changed."""
    DENIED = "denied"
    """`ugro deny` left the job as it is."""
    RECOVERY = "recovery"
    """The job is not tried again, or cannot be resumed. The message says why."""
    RESUMED = "resumed"
    """A new attempt was queued. The message names its checkpoint and its code."""
    RESTORED = "restored"
    """An older copy of the job's record was put back."""
    REMOVED = "removed"
    """`ugro rm` removed the job."""

    JOINED = "joined"
    """The node answered for the first time. The message names its GPUs."""
    SILENT = "silent"
    """The node is unreachable. The message says why."""
    ANSWERS = "answers"
    """The node is reachable again."""
    REBOOTED = "rebooted"
    """The node has another boot id."""
    OTHER_MASTER = "other_master"
    """The node belongs to another master and gets no jobs of this one."""
    GPU_GONE = "gpu_gone"
    """A GPU has disappeared."""
    GPU_NEW = "gpu_new"
    """A GPU was added."""
    GPU_PROBLEM = "gpu_problem"
    """A GPU or its driver reports a problem."""
    GPU_WELL = "gpu_well"
    """A GPU with a problem works again."""
    DRIVER = "driver"
    """The node has another driver version."""
    DRAINED = "drained"
    """The node gets no new jobs. The message is the reason."""
    UNDRAINED = "undrained"
    """The node gets jobs again."""

    ASKED = "asked"
    """A change was asked for over HTTP. The message says which, by whom and from where."""
    ALERT = "alert"
    """A channel of alerts fails or works again, or no alerts can be sent."""
    DAMAGED = "damaged"
    """A file in the state directory is damaged. The message says where its content was put."""


class Event(Record):
    """One line of `events.jsonl`. About a job or a node (the other is empty), a job on a node, or neither (`alert`).

    One that is `noted` is no change of the job's record. `origin` says of a drain where it came from. A newer UGRO may
    know more kinds and origins: they stay text. An earlier one wrote no origins.
    """

    at: float
    job: str = ""
    node: str = ""
    kind: Annotated[EventKind | str, Field(union_mode="left_to_right")]
    message: str
    noted: bool = False
    origin: Annotated[DrainOrigin | str | None, Field(union_mode="left_to_right")] = None

    @model_serializer(mode="wrap")
    def _without_empty_origin(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A job's record holds its last event, and an earlier UGRO refuses a record with keys that it does not know."""
        return {key: value for key, value in written(self).items() if key != "origin" or value is not None}
