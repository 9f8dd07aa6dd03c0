"""Measurements: links between nodes, samples of GPUs, and the training metrics that a script reports."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

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


class GpuRange(Record):
    """The lowest and highest of the samples of which a line of a node's history is the mean."""

    utilization_percent: tuple[int, int] | None = None
    """Lowest and highest."""
    memory_used_mib: tuple[int, int] | None = None
    """Lowest and highest."""
    temperature_c: tuple[int, int] | None = None
    """Lowest and highest."""
    power_w: tuple[float, float] | None = None
    """Lowest and highest."""
    sm_clock_mhz: tuple[int, int] | None = None
    """Lowest and highest."""


class GpuLook(Record):
    """One line of a node's history: a sample of one GPU, or the mean of those since the line before. Memory in MiB.

    `job` is the one that held it, `jobs` are all where several shared it; `program` names what else used it, and whose
    that is, where no job did. `throttled` are all reasons that were seen; `range` is there where it is a mean.
    """

    at: float
    uuid: str
    utilization_percent: int | None = None
    memory_used_mib: int | None = None
    memory_total_mib: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    throttled: tuple[str, ...] | None = None
    range: GpuRange | None = None
    job: str | None = None
    jobs: tuple[str, ...] | None = None
    program: str | None = None


class GpuSample(Record):
    """One line of `metrics.jsonl`: a sample of a rank's GPU. Memory in MiB."""

    at: float
    rank: int
    memory_mib: int | None = None
    utilization_percent: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None


class SeriesSource(StrEnum):
    """Where the values of a series were read, the most exact first."""

    EVENT_FILE = "event_file"
    TRAINER_STATE = "trainer_state"
    CSV = "csv"
    LOG = "log"
    BAR = "bar"
    DERIVED = "derived"

    @property
    def exactness(self) -> int:
        """Return its place by exactness; 0 is the most exact."""
        return _EXACTNESS[self]


_EXACTNESS = {source: place for place, source in enumerate(SeriesSource)}


class Reading(NamedTuple):
    """One value of one series; `nan` and `inf` are values. `at` is in seconds since the epoch.

    A tuple, since there are thousands a second.
    """

    name: str
    value: float
    step: int | None
    at: float
    source: SeriesSource
    unit: str = ""


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run is at `at` (seconds since the epoch), as far as its lines or files say so; `rate` in steps/s."""

    at: float
    step: int | None = None
    steps: int | None = None
    epoch: float | None = None
    epochs: int | None = None
    rate: float | None = None


class Axis(StrEnum):
    """What x is: the step, the time in seconds since the epoch, or the seconds since the job first started."""

    STEP = "step"
    TIME = "time"
    ELAPSED = "elapsed"
