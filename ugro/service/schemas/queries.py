"""Requests that change nothing, and their answers."""

from typing import ClassVar

from ugro.common.models.job_state import JobState
from ugro.service.schemas.base import Document, ErrorDocument, Request
from ugro.service.schemas.codec import Moment
from ugro.service.schemas.jobs import EventDocument, JobDocument, UnreadableDocument
from ugro.service.schemas.nodes import NodeDocument

RECENT = 10
"""Ended jobs that are listed when nothing more is asked for."""

LAST_EVENTS = 50
"""Events of the cluster that are shown when nothing more is asked for."""


class AttendedDocument(Document):
    """Whether a scheduler runs for this state directory: a resident controller, or sweeps from the crontab."""

    attended: bool


class Attended(Request[AttendedDocument]):
    """Ask whether a scheduler runs."""

    function: ClassVar[str] = "queries.attended"


class ListedJob(JobDocument):
    """A job in a list."""

    position: int | None
    """Its turn among the queued jobs, from 1; `null` for any other."""


class StatusDocument(Document):
    """The cluster and its jobs."""

    schema_version: int = 1
    nodes: tuple[NodeDocument, ...]
    """The nodes, in the inventory's order."""
    jobs: tuple[ListedJob, ...]
    """Those that have not ended and the last ones that did, or those that are asked for."""
    unreadable: tuple[UnreadableDocument, ...]
    """Jobs whose records cannot be read."""
    attended: bool
    problems: tuple[ErrorDocument, ...]
    """What is wrong with UGRO's records."""


class Proposed(Document):
    """What is proposed about a job, in one line; it waits for an answer."""

    job: str
    what: str


class ClusterStatus(Document):
    """The cluster, with what a page shows beside it.

    `recorded` are the states in the jobs' records, which are older where only the nodes show the new one. `twins` says
    of a node which one it is under another name. `ever`: a job was submitted once. `older`: so many jobs that ended are
    not listed, since later ones are. `no_dashboard`: why the resident controller serves none although it was to.
    """

    answer: StatusDocument
    recorded: dict[str, JobState]
    proposed: tuple[Proposed, ...]
    twins: dict[str, str]
    ever: bool
    older: int
    no_dashboard: str


class Status(Request[ClusterStatus]):
    """Show the cluster and its jobs: those that have not ended and the last that did, or those that are asked for."""

    function: ClassVar[str] = "queries.status"
    everything: bool = False
    since: float | None = None
    states: tuple[JobState, ...] = ()
    pattern: str | None = None
    ids: tuple[str, ...] = ()


class JobStatus(Document):
    """One job, with its folder on each node."""

    answer: JobDocument
    recorded: JobState
    folders: dict[str, str]
    proposed: tuple[Proposed, ...]


class ShowJob(Request[JobStatus]):
    """Show one job as its nodes show it now."""

    function: ClassVar[str] = "queries.job"
    job: str


class NodesAnswer(Document):
    """All nodes; `twins` says of a node which one it is under another name."""

    answer: tuple[NodeDocument, ...]
    twins: dict[str, str]


class Nodes(Request[NodesAnswer]):
    """Show the nodes and their GPUs."""

    function: ClassVar[str] = "queries.nodes"


class EventsAnswer(Document):
    """Events in order; `job` is the one they were asked about, if it is on nodes, as these show it."""

    answer: tuple[EventDocument, ...]
    job: JobDocument | None
    recorded: dict[str, JobState]


class Events(Request[EventsAnswer]):
    """Show the timeline of a job, or of the cluster; of that the last ones, unless `everything` is asked for."""

    function: ClassVar[str] = "queries.events"
    job: str | None = None
    since: Moment | None = None
    node: str | None = None
    everything: bool = False
