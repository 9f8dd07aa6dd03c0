"""The request that checks UGRO on the GPUs of this machine, and its answer."""

from __future__ import annotations

from typing import ClassVar, Literal

from ugro.service.schemas.base import Document, Stream

State = Literal["passed", "failed", "skipped"]
"""What came of a check."""


class GpuCheckLine(Document):
    """One check of UGRO on the GPUs."""

    name: str
    """Its name."""
    state: State
    """What came of it; `skipped`: it cannot be made here."""
    text: str
    """What was measured, or why not."""
    hint: str
    """What to do."""
    seconds: float
    """How long it took."""
    figures: dict[str, float]
    """Measured figures, by name and unit."""
    log: tuple[str, ...]
    """Last lines of the job that failed."""


class GpuCheckDocument(Document):
    """What checks of UGRO on the GPUs of this machine found."""

    schema_version: int = 1
    python: str
    """Interpreter that the jobs ran with."""
    gpus: tuple[str, ...]
    """Models of the GPUs."""
    checks: tuple[GpuCheckLine, ...]
    """The checks, in the order in which they were made."""
    seconds: float
    """How long all of it took."""


class GpuCheckBegins(Document):
    """A check begins."""

    name: str
    title: str


class GpuChecked(Document):
    """All of it, and outputs of nvidia-smi by file name, in which UUIDs are replaced."""

    answer: GpuCheckDocument
    captured: dict[str, str]


class GpuCheck(Stream[GpuCheckBegins | GpuCheckLine | GpuChecked]):
    """Check UGRO on the GPUs of this machine, with jobs of its own in a state directory of its own.

    `python` has torch; null: the interpreter of UGRO if it has, else that of the local node, else `python3`.
    """

    function: ClassVar[str] = "gpu_check.check"
    python: str | None = None
    capture: bool = False
