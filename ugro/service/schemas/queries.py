"""Requests that change nothing, and their answers."""

from typing import ClassVar

from ugro.common.models.job_state import JobState
from ugro.common.models.metrics import EVERY_SECONDS, GpuRange
from ugro.service.schemas.base import Document, ErrorDocument, Moment, Request
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


class GpuSampleDocument(Document):
    """What a GPU showed at one time, and what used it."""

    at: Moment
    """When."""
    utilization_percent: int | None
    memory_used_mib: int | None
    memory_total_mib: int | None
    temperature_c: int | None
    power_w: float | None
    sm_clock_mhz: int | None = None
    """Clock of its multiprocessors."""
    memory_clock_mhz: int | None = None
    """Clock of its memory."""
    throttled: tuple[str, ...] | None = None
    """Why its clocks were lower than they could be; `null`: the driver does not say."""
    range: GpuRange | None = None
    """Lowest and highest values, where the sample is a mean of several."""
    job: str | None
    """Id of the job that used it; `null`: none of UGRO's."""
    jobs: tuple[str, ...] | None = None
    """Ids of all of them, where several shared it."""
    program: str | None
    """Another program that used it."""


class GpuHistoryDocument(Document):
    """What one GPU showed over time."""

    node: str
    uuid: str
    """UUID of the GPU."""
    index: int | None
    """The driver's index; `null`: it is no longer in the node."""
    name: str
    """Its model."""
    samples: tuple[GpuSampleDocument, ...]
    """What it showed, in order."""


class HistoryAnswer(Document):
    """The history of GPUs, node by node."""

    answer: tuple[GpuHistoryDocument, ...]


class History(Request[HistoryAnswer]):
    """Show what each GPU did since a time, on these nodes (all by default).

    `every`: seconds between two samples: 2 for the last two hours, 60 for 30 days, 900 for a year. Where nothing so
    fine is kept, what is coarser is given.
    """

    function: ClassVar[str] = "queries.history"
    nodes: tuple[str, ...] = ()
    since: float
    every: float = EVERY_SECONDS
