"""What a job waits for between its submission, or its resume, and its start."""

from typing import ClassVar

from ugro.service.schemas.base import Document, Request
from ugro.service.schemas.codec import Moment
from ugro.service.schemas.jobs import JobDocument


class Expected(Document):
    """When a waiting job will probably start, null if that is not known, and that in words.

    `never`: it is unschedulable.
    """

    at: Moment | None
    never: bool
    text: str


class Started(Document):
    """A job that has started, or waits: then with what is expected of its start."""

    job: JobDocument
    expected: Expected | None


class AwaitStart(Request[Started]):
    """Wait until a job has started or was left waiting, but not for a slow start."""

    function: ClassVar[str] = "starting.await_start"
    job: str
