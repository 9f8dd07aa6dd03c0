"""Documents of nodes and their GPUs."""

from ugro.common.models.gpu import Gpu
from ugro.service.schemas.base import Document, ErrorDocument
from ugro.service.schemas.codec import Moment


class DrainDocument(Document):
    """Why a node gets no new jobs."""

    reason: str
    """The reason as the user typed it."""
    since: Moment
    """When it was drained."""


class GpuDocument(Gpu):
    """A GPU as its node shows it, and who holds it."""

    jobs: tuple[str, ...] = ()
    """Ids of the jobs that hold it: several, where they share it."""


class NodeDocument(Document):
    """A node as it is, or as it was last observed with the reason why it is unreachable.

    What only the node can say is `null` before its first observation.
    """

    name: str
    """Its name."""
    address: str
    """Its address in the inventory."""
    reachable: bool
    """Whether it answered now."""
    error: ErrorDocument | None
    """Why it is unreachable."""
    seen_at: Moment | None
    age_seconds: float | None
    """Age of that observation."""
    drained: DrainDocument | None
    """Why it gets no new jobs."""
    departed: bool
    """Whether it left the inventory while a job runs there."""
    boot_id: str | None = None
    clock_offset: float | None = None
    cpu_count: int | None = None
    load_1m: float | None = None
    memory_total_mib: int | None = None
    memory_available_mib: int | None = None
    disk_free_mib: int | None = None
    gpus: tuple[GpuDocument, ...] = ()
    """Its GPUs."""
    gpu_problem: str | None = None
    owner: str | None = None
    same_as: str | None
    """Earlier name of the same machine."""
