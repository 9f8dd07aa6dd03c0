"""A node as observed."""

from ugro.common.models.gpu import Gpu
from ugro.common.models.record import Record


class NodeView(Record):
    """Observation of one node, from one round trip.

    `pid_namespace` and `folder` distinguish nodes with the same boot id.
    """

    node: str
    seen_at: float
    """When it was observed, in seconds since the epoch."""
    boot_id: str
    pid_namespace: str | None = None
    """Name of its process table."""
    folder: str | None = None
    """Place of its `base_dir` in the file system."""
    clock_offset: float
    """The node's clock minus the master's, in seconds, good to half of the round trip."""
    cpu_count: int
    load_1m: float | None = None
    memory_total_mib: int | None = None
    memory_available_mib: int | None = None
    disk_free_mib: int | None = None
    gpus: tuple[Gpu, ...] = ()
    """Its GPUs."""
    gpu_problem: str | None = None
    """nvidia-smi's error message; a node without GPUs has neither GPUs nor a problem."""
    owner: str | None = None
    """Content of the node's owner file: the master that runs it."""


class Silence(Record):
    """An unreachable node. `watched` counts only seconds with repeated observations.

    `gap` is the seconds between the last two observations. The rest is the error of the last one, as a `NodeError` has
    it.
    """

    since: float
    seen_at: float
    watched: float = 0.0
    gap: float = 0.0
    code: str = ""
    problem: str = ""
    hint: str = ""
