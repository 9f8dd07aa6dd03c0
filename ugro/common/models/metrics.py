"""Measurements: links between nodes, and samples of GPUs."""


from ugro.common.models.record import Record

EVERY_SECONDS = 60.0
"""Between two samples of a GPU that are kept in its history."""


class MeasuredLink(Record):
    """A link from one node to another as last measured by `ugro check --network`; the latency is half a round trip."""

    source: str
    target: str
    backend: str
    latency_ms: float
    gbit_per_s: float
    measured_at: float


class GpuLook(Record):
    """One line of a node's history: a sample of one GPU. Memory in MiB.

    `job` is the one that held it; `program` names what else used it, and whose that is, where no job did.
    """

    at: float
    uuid: str
    utilization_percent: int | None = None
    memory_used_mib: int | None = None
    memory_total_mib: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    job: str | None = None
    program: str | None = None


class GpuSample(Record):
    """One line of `metrics.jsonl`: a sample of a rank's GPU. Memory in MiB."""

    at: float
    rank: int
    memory_mib: int | None = None
    utilization_percent: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
