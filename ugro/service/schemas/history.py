"""Requests about what GPUs did over time, and their answers."""

from typing import ClassVar

from ugro.common.models.metrics import EVERY_SECONDS, GpuRange
from ugro.service.schemas.base import Document, Request
from ugro.service.schemas.codec import Moment


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
