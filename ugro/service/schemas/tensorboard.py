"""Requests about the TensorBoard event files of jobs."""

from __future__ import annotations

from typing import ClassVar

from ugro.service.schemas.base import Document, ErrorDocument, Request


class EventFiles(Document):
    """The event files of a job that are here."""

    id: str
    name: str
    """Name of the job."""
    ended: bool
    """Whether the job has ended, so that no more come."""
    folder: str
    """Folder on this machine that has them."""
    files: int
    """Number of files."""
    received: int
    """Bytes that came now."""
    errors: tuple[ErrorDocument, ...]
    """Why some did not come."""


class BringEventFiles(Request[EventFiles]):
    """Copy the event files of a job to this machine, what is new of them, and show them in the folder `shown`."""

    function: ClassVar[str] = "tensorboard.bring"
    here: ClassVar[bool] = True
    job: str
    shown: str


class TensorBoardLink(Document):
    """A TensorBoard that runs on this machine."""

    url: str
    """Its address."""
    folder: str
    """Folder that it shows."""
    jobs: tuple[EventFiles, ...]
    """What came of each job."""
