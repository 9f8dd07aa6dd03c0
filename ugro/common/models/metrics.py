"""Measurements over time: links between nodes, and what GPUs did."""

from __future__ import annotations

from ugro.common.models.record import Record

EVERY_SECONDS = 60.0
"""Between two samples of a GPU that are kept in its history."""


class MeasuredLink(Record):
    """The way from one node to another as `ugro check --network` last measured it; the latency is half a round trip."""

    source: str
    target: str
    backend: str
    latency_ms: float
    gbit_per_s: float
    measured_at: float


class GpuLook(Record):
    """One line of a node's history: what a GPU showed at one look. Memory in MiB.

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
    """One line of `metrics.jsonl`: what the GPU of a rank showed at one look. Memory in MiB."""

    at: float
    rank: int
    memory_mib: int | None = None
    utilization_percent: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
