"""The code that goes with a job: what is sent of a working directory, and what is not."""

from typing import Annotated

from ugro.service.schemas.base import Document
from ugro.service.schemas.codec import AnyText

SEND = "send"
"""The question whether much code is sent to every node."""

FileName = Annotated[str, AnyText()]
"""A name of a file, as the disk has it, or a text with one: bytes that are no UTF-8 are surrogates there."""


class LeftOut(Document):
    """What the built-in list alone leaves out."""

    path: FileName
    """Relative path; a folder ends with a slash."""
    files: int
    """Number of files."""
    bytes: int
    more: bool
    """Whether there are more than these `files` and `bytes`."""


class NotSent(Document):
    """What cannot be sent, and why."""

    path: FileName
    """Relative path."""
    reason: FileName
    """Why."""


class LargeFile(Document):
    """A file, with its bytes."""

    path: FileName
    bytes: int


class CodeDocument(Document):
    """What goes with a job of the working directory of its client. `digest` changes with the files and their sizes.

    The files themselves do not travel in requests: a backend brings them (`Backend.bring`).
    """

    directory: FileName
    digest: str
    size_bytes: int
    largest: tuple[LargeFile, ...]
    left_out: tuple[LeftOut, ...]
    not_sent: tuple[NotSent, ...]
    lfs_pointers: tuple[FileName, ...]
