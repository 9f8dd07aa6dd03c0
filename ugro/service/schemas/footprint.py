"""Requests about what UGRO has on nodes, and their answers."""

from __future__ import annotations

from typing import ClassVar

from ugro.service.plan import Plan
from ugro.service.schemas.base import Document, ErrorDocument, Request


class ProcessDocument(Document):
    """A process on a node."""

    pid: int
    command: str


class JobFootprintDocument(Document):
    """What a node has of one job. `files` counts everything but folders."""

    id: str
    uid: str
    bytes: int
    files: int
    running: bool
    processes: tuple[ProcessDocument, ...]
    links: tuple[str, ...]


class OtherDocument(Document):
    """A file or folder of UGRO's that belongs to no job."""

    name: str
    bytes: int


class FootprintDocument(Document):
    """What UGRO has in a node's base directory. `foreign` was not made by UGRO there, and stays."""

    node: str
    base_dir: str
    exists: bool
    jobs: tuple[JobFootprintDocument, ...]
    other: tuple[OtherDocument, ...]
    foreign: tuple[str, ...]
    bytes: int
    processes: tuple[ProcessDocument, ...]
    storage_id: str
    owner: str
    links: tuple[str, ...]
    error: None = None


class UnreadDocument(Document):
    """A node whose footprint could not be read, and why."""

    node: str
    error: ErrorDocument


class FootprintAnswer(Document):
    """The footprint of nodes, in the inventory's order."""

    schema_version: int = 1
    nodes: tuple[FootprintDocument | UnreadDocument, ...]


class Footprint(Request[FootprintAnswer]):
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
    """What was removed from a node, in names relative to its base directory, and what remains there."""

    schema_version: int = 1
    node: str
    removed: tuple[str, ...]
    left: tuple[str, ...]
    foreign: tuple[str, ...]
    processes: tuple[ProcessDocument, ...]


class Cleaned(Document):
    """The same, and the directory it is about."""

    answer: CleanedDocument
    base_dir: str


class Clean(Request[Cleaned]):
    """Carry out such a plan."""

    function: ClassVar[str] = "footprint.clean"
    plan: CleanPlan
    answers: dict[str, bool]
