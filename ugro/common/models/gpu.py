"""A GPU as observed."""

from __future__ import annotations

from typing import Any, ClassVar

from ugro.common.models.value import Value


class GpuProcess(Value):
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


class Gpu(Value):
    """One GPU row of nvidia-smi. What the driver does not say is `null`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {**Value.__pydantic_config__, "allow_inf_nan": False}

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
