"""Requests about the series that a job's training reports, and their answers."""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Ge, Le

from ugro.common.models.metrics import Axis, SeriesSource
from ugro.service.schemas.base import Document, Request
from ugro.service.schemas.jobs import ProgressDocument

XY = tuple[float, float | None]
"""x, and the value; `null`: it is no number."""


class SegmentDocument(Document):
    """A run of steps of one attempt. A resumed attempt begins a new one."""

    attempt: int
    start: float
    """x of its first point."""
    end: float
    """x of its last point."""
    count: int
    """Number of its points."""
    overwritten: int
    """How many of them were computed again: the last ones, which are in `overwritten` and not in `points`."""


class SeriesDocument(Document):
    """One series."""

    name: str
    """Its name: `loss` for the training loss."""
    unit: str
    """Unit of its values; empty: none was printed."""
    source: SeriesSource
    """Where it was read."""
    points: tuple[XY, ...]
    """x and value, in the order of x: the step, the time in seconds since the epoch, or seconds since the first start.
    `null`: not a number.
    """
    bad: tuple[tuple[float, str], ...]
    """x of the values that are not a number, and what they are: `nan`, `inf` or `-inf`."""
    overwritten: tuple[XY, ...]
    """Points of earlier attempts that a later attempt computed again."""
    segments: tuple[SegmentDocument, ...]
    """Its attempts, in order."""
    thinned: bool
    """Whether there are more points: then each pixel has its first, lowest, highest and last one."""
    count: int
    """Number of all its points."""
    last: float | None
    """Last value that is a number."""
    min: float | None
    """Its lowest value."""
    max: float | None
    """Its highest value."""


class MetricsDocument(Document):
    """What the training of a job reported."""

    id: str
    """Id of the job."""
    x: Axis
    """What x is."""
    series: tuple[SeriesDocument, ...]
    """The series, `loss` first."""
    progress: ProgressDocument | None
    """How far the run was when it was last read."""
    dropped: tuple[str, ...]
    """Names beyond the most series that a job can have."""
    reading: bool
    """Whether there is more to read in its logs."""
    hint: str
    """Why there are no series, and what would help; empty: there are some."""


class Metrics(Request[MetricsDocument]):
    """Show the series that the training of a job reports: these names (all by default), patterns allowed.

    `pixels` thins a long series to what a chart of that width shows; without it every point is given. `start` and `end`
    limit x. `points` without: the series alone, in short.
    """

    function: ClassVar[str] = "metrics.show"
    job: str
    names: tuple[str, ...] = ()
    x: Axis = Axis.STEP
    pixels: Annotated[int, Ge(1), Le(100_000)] | None = None
    start: float | None = None
    end: float | None = None
    attempts: tuple[int, ...] = ()
    points: bool = True


class TriedValue(Document):
    """A value that a pattern reads in a line."""

    name: str
    """Name of the series."""
    step: int | None
    """Step that the line says."""
    value: float | None
    """The value; `null`: it is no number."""
    bad: str | None
    """What it is then: `nan`, `inf` or `-inf`."""


class TriedLine(Document):
    """A line that a pattern matches."""

    number: int
    """Its number, from 1."""
    text: str
    """The line."""
    values: tuple[TriedValue, ...]
    """What the pattern reads in it."""


class TriedDocument(Document):
    """What a pattern reads in a file."""

    lines: tuple[TriedLine, ...]
    """The first lines that match."""
    matched: int
    """How many lines match."""
    read: int
    """How many lines were read."""


class TryPattern(Request[TriedDocument]):
    """Show what a pattern of a job file would read in a log of this machine."""

    function: ClassVar[str] = "metrics.try_pattern"
    here: ClassVar[bool] = True
    pattern: str
    path: str
