"""Requests about what UGRO has on nodes, and their answers."""

from __future__ import annotations

from typing import ClassVar

from ugro.service.plan import Plan
from ugro.service.schemas.base import Document, ErrorDocument, Request
from ugro.service.schemas.codec import Moment


class ProcessDocument(Document):
    """A process on a node."""

    pid: int
    command: str
    """Its command line."""


class JobFootprintDocument(Document):
    """What a node has of one job."""

    id: str
    uid: str
    """The job's own id."""
    bytes: int
    files: int
    """Number of files."""
    running: bool
    """Whether a run of it is not over."""
    processes: tuple[ProcessDocument, ...]
    """Its processes."""
    links: tuple[str, ...]
    """Links in it; they are not followed."""


class OtherDocument(Document):
    """A file or folder of UGRO's that belongs to no job."""

    name: str
    """Its name."""
    bytes: int


class EnvironmentDocument(Document):
    """An environment that the setup command of a job made."""

    name: str
    """Its folder."""
    bytes: int
    used_at: Moment | None
    """When a job started last with it; `null`: its setup did not end well."""


class FootprintDocument(Document):
    """What UGRO has in a node's base directory."""

    node: str
    base_dir: str
    """Absolute path of the directory."""
    exists: bool
    """Whether it exists."""
    jobs: tuple[JobFootprintDocument, ...]
    """What it has of each job."""
    other: tuple[OtherDocument, ...]
    """Files and folders of UGRO's that belong to no job."""
    environments: tuple[EnvironmentDocument, ...]
    """Environments that setup commands made."""
    foreign: tuple[str, ...]
    """Names that UGRO did not make; they stay."""
    bytes: int
    """Size of all of UGRO's files."""
    processes: tuple[ProcessDocument, ...]
    """Processes that UGRO started."""
    storage_id: str
    """One id on all nodes that share the directory."""
    owner: str
    """Line that names the master that runs the node."""
    links: tuple[str, ...]
    """Links in it; they are not followed."""
    error: None = None
    """Always `null`."""


class UnreadDocument(Document):
    """A node whose footprint could not be read."""

    node: str
    error: ErrorDocument
    """Why."""


class FootprintAnswer(Document):
    """The footprint of nodes."""

    schema_version: int = 1
    nodes: tuple[FootprintDocument | UnreadDocument, ...]
    """One for each node, in the inventory's order."""


class ShowFootprint(Request[FootprintAnswer]):
    """Show everything UGRO has on these nodes; null: on all."""

    function: ClassVar[str] = "footprint.footprint"
    nodes: str | None = None


class CleanPlan(Plan):
    """What goes from a node: everything UGRO's node side made there. Empty `own`: nothing is there."""

    node: str
    found: FootprintDocument
    own: tuple[str, ...]


class PlanClean(Request[CleanPlan]):
    """Plan to remove everything UGRO made on a node where no job runs."""

    function: ClassVar[str] = "footprint.plan_clean"
    node: str


class CleanedDocument(Document):
    """What was removed from a node. Names are relative to its base directory."""

    schema_version: int = 1
    node: str
    removed: tuple[str, ...]
    """What is gone."""
    left: tuple[str, ...]
    """What could not be removed."""
    foreign: tuple[str, ...]
    """What UGRO did not make; it stays."""
    processes: tuple[ProcessDocument, ...]
    """Processes that remain."""


class Cleaned(Document):
    """The same, and the directory it is about."""

    answer: CleanedDocument
    base_dir: str


class Clean(Request[Cleaned]):
    """Carry out such a plan."""

    function: ClassVar[str] = "footprint.clean"
    plan: CleanPlan
    answers: dict[str, bool]
