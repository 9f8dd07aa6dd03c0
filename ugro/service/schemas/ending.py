"""Requests about the end of jobs, and their answers."""

from __future__ import annotations

from typing import ClassVar

from ugro.service.schemas.base import Document, Request, Stream
from ugro.service.schemas.codec import Moment
from ugro.service.schemas.jobs import JobDocument


class JobProgress(Document):
    """A job that is waited for, and since when it runs, waits, or is being ended.

    `grace`: seconds between SIGTERM and SIGKILL, for a job that is stopping. `proposed`: something is proposed about a
    job that ended.
    """

    job: JobDocument
    since: Moment
    grace: float
    proposed: bool


class Cancel(Request[JobDocument]):
    """Record that a job is to be ended; `abandon`: unreachable nodes are not waited for. Reaches no node."""

    function: ClassVar[str] = "ending.cancel"
    job: str
    abandon: bool = False


class CarryOutCancels(Stream[JobProgress]):
    """End jobs whose end was requested, and watch that, as far as it comes now."""

    function: ClassVar[str] = "ending.carry_out_cancels"
    jobs: tuple[str, ...]


class Cancelled(Document):
    """A job that ended after its cancel; `remains` says on which nodes no process of it is left."""

    job: JobDocument
    remains: str


class CheckCancelled(Request[Cancelled]):
    """Ask what became of the cancel of a job."""

    function: ClassVar[str] = "ending.check_cancelled"
    job: str


class Wait(Stream[JobProgress]):
    """Wait until a job has ended, or `until` a time. The last item is the job as it was then."""

    function: ClassVar[str] = "ending.wait"
    resumable: ClassVar[bool] = True
    job: str
    until: Moment | None = None
