"""Documents of nodes and their GPUs."""

from __future__ import annotations

from ugro.common.models.node import Gpu
from ugro.service.schemas.base import Document, ErrorDocument, Moment


class DrainDocument(Document):
    """Why a node gets no new jobs, and since when."""

    reason: str
    since: Moment


class NodeDocument(Document):
    """A node as it is, or as it was last seen with the reason why it is unreachable.

    What is known only from the node itself is null until it was seen once. `age_seconds` is the age of that sample.
    """

    name: str
    address: str
    reachable: bool
    error: ErrorDocument | None
    seen_at: Moment | None
    age_seconds: float | None
    drained: DrainDocument | None
    departed: bool
    boot_id: str | None = None
    clock_offset: float | None = None
    cpu_count: int | None = None
    load_1m: float | None = None
    memory_total_mib: int | None = None
    memory_available_mib: int | None = None
    disk_free_mib: int | None = None
    gpus: tuple[Gpu, ...] = ()
    gpu_problem: str | None = None
    owner: str | None = None
    same_as: str | None
