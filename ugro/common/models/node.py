"""A node and its GPUs as observed."""

from ugro.common.models.record import Record


class GpuProcess(Record):
    """A compute process on a GPU, from `nvidia-smi --query-compute-apps` and /proc."""

    pid: int
    name: str
    """Its executable."""
    user: str | None = None
    """Who runs it."""
    memory_mib: int | None = None
    """GPU memory that it uses."""
    run: str | None = None
    """Token of the run that it belongs to (UGRO_RUN); `null`: none of UGRO's, or the node does not say."""


class Gpu(Record):
    """One GPU row of nvidia-smi. What the driver does not say is `null`."""

    index: int | None
    """The driver's index."""
    uuid: str
    """UUID. Empty where only the index of a lost GPU is known; such a GPU is never placed on."""
    name: str
    """Model."""
    memory_total_mib: int | None = None
    memory_used_mib: int | None = None
    memory_free_mib: int | None = None
    utilization_percent: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    sm_clock_mhz: int | None = None
    """Clock of its multiprocessors."""
    memory_clock_mhz: int | None = None
    """Clock of its memory."""
    throttled: tuple[str, ...] | None = None
    """Why its clocks are lower than they could be, such as `power_cap`."""
    driver: str | None = None
    """Version of the driver."""
    mig: bool = False
    """Whether MIG divides it."""
    problem: str | None = None
    """Why it cannot be used."""
    processes: tuple[GpuProcess, ...] = ()
    """What computes on it."""


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
