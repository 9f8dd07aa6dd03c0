"""Requests about the files of jobs and of people, and their answers."""

from __future__ import annotations

from typing import ClassVar, Literal

from ugro.service.schemas.base import Document, ErrorDocument, Request
from ugro.service.schemas.codec import Moment

# --- what there is ---------------------------------------------------------------------------------------------------


class FileDocument(Document):
    """A name in a job's folder on a node."""

    path: str
    """Path below the folder in which the script runs."""
    kind: Literal["file", "folder", "link", "other"]
    """`link`: it is not followed; `other`: a FIFO, a socket or a device."""
    bytes: int
    """Size of a file."""
    modified_at: Moment | None
    """When it was changed last, by the node's clock; `null`: no calendar has that."""
    executable: bool
    """Whether its owner may run it."""


class NodeFilesDocument(Document):
    """What a job's folder on a node holds. Nodes that share a disk are one."""

    node: str
    same_as: tuple[str, ...]
    """Other nodes that see the same disk."""
    folder: str
    """The folder there in which the script runs."""
    exists: bool
    """Whether there is such a path."""
    files: tuple[FileDocument, ...]
    """Its names, by path."""
    more: bool
    """Whether there are more than are listed."""
    beyond: int
    """Names beyond the `limit` that was asked for, as far as the node listed them."""
    unnamed: int
    """Names that are no UTF-8 and left out."""
    unreadable: tuple[str, ...]
    """Folders that the account may not read."""


class FilesDocument(Document):
    """The files of a job on its nodes."""

    id: str
    attempt: int
    """Attempt whose nodes were asked."""
    path: str
    """Path that was listed; empty: the folder in which the script runs."""
    nodes: tuple[NodeFilesDocument, ...]
    """What each node has."""
    silent: tuple[ErrorDocument, ...]
    """Why other nodes could not be asked."""


class ListFiles(Request[FilesDocument]):
    """List what a job's folder holds on each node, `depth` levels deep, from a path below it.

    Of each node so many names at most as `limit` (null: all that the node lists) says.
    """

    function: ClassVar[str] = "files.listing"
    job: str
    path: str = ""
    attempt: int | None = None
    node: str | None = None
    depth: int = 1
    limit: int | None = None


class OutputFilesDocument(Document):
    """The files of a job's outputs that are on the master."""

    id: str
    folder: str
    """Folder on the master that has them."""
    files: tuple[FileDocument, ...]
    """Its files, by path below that folder."""
    beyond: int
    """Files beyond the `limit` that was asked for."""


class ListOutputs(Request[OutputFilesDocument]):
    """List the files of a job's outputs that are on the master, so many at most as `limit` (null: all) says."""

    function: ClassVar[str] = "files.on_master"
    job: str
    limit: int | None = None


# --- to this machine -------------------------------------------------------------------------------------------------


class PulledFile(Document):
    """A file that is here, with the SHA-256 sum that it has on the node."""

    path: str
    """Path below the folder on this machine."""
    node: str
    """Node that it came from."""
    same_on: tuple[str, ...]
    """Other nodes that have the same content."""
    bytes: int
    """Its size."""
    received: int
    """Bytes that came now: less for a file that was here in part, none for one that was here."""
    sha256: str
    """Its SHA-256 sum, here and on the node."""
    how: Literal["copied", "same", "grown"]
    """`same`: it was here already; `grown`: it grew on the node meanwhile, and this is what it was before."""


class MissingFile(Document):
    """A file that is not here."""

    path: str
    """Path below the job's folder."""
    node: str
    reason: str
    """Why it did not come."""


class PullDocument(Document):
    """What came of a pull."""

    id: str
    attempt: int
    """Attempt whose nodes were asked."""
    folder: str
    """Folder on this machine."""
    files: tuple[PulledFile, ...]
    """Files that are here."""
    missing: tuple[MissingFile, ...]
    """Files that are not here."""
    left_out: tuple[str, ...]
    """Links, which are not followed, and other names that are no files."""
    unmatched: tuple[str, ...]
    """What was asked for and no node has."""
    errors: tuple[ErrorDocument, ...]
    """What ended it on nodes, or here."""

    @property
    def bytes(self) -> int:
        """Size of all files that are here."""
        return sum(one.bytes for one in self.files)


class PullAnswer(Document):
    """What came of a pull; `exit_code` is that of its errors."""

    answer: PullDocument
    exit_code: int


class Pull(Request[PullAnswer]):
    """Copy files of a job from its nodes to a folder of this machine: paths and globs, else its declared outputs.

    Nodes whose files differ get a folder each. What is here already, or in part, is compared and continued.
    """

    function: ClassVar[str] = "files.pull"
    here: ClassVar[bool] = True
    job: str
    paths: tuple[str, ...] = ()
    to: str | None = None
    node: str | None = None
    attempt: int | None = None


# --- to nodes --------------------------------------------------------------------------------------------------------


class PushedNode(Document):
    """What came of a push to a node. Nodes that share the disk get it once."""

    node: str
    same_as: tuple[str, ...]
    """Other nodes that see the same disk."""
    folder: str
    """Where it is there; empty: that is not known."""
    sent: int
    """Bytes that were sent now."""
    same: int
    """Files that were there already."""
    missing: tuple[MissingFile, ...]
    """Files that are not there."""
    error: ErrorDocument | None
    """What ended it."""


class PushDocument(Document):
    """What came of a push."""

    path: str
    """File or folder on this machine."""
    files: int
    """Number of files."""
    bytes: int
    """Size of all of them."""
    left_out: tuple[str, ...]
    """Links, which are not followed, and other names that are no files."""
    nodes: tuple[PushedNode, ...]
    """What came of it on each node."""


class PushAnswer(Document):
    """What came of a push; `exit_code` is that of its errors."""

    answer: PushDocument
    exit_code: int


class Push(Request[PushAnswer]):
    """Copy a file or folder of this machine to a node, or to `all`: into a folder, by default `data` in its base_dir.

    What a node has already, or in part, is compared and continued.
    """

    function: ClassVar[str] = "push.push"
    here: ClassVar[bool] = True
    path: str
    node: str
    to: str | None = None
