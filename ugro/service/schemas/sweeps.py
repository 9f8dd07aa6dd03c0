"""Requests about sweeps: the jobs that one launch made for combinations of arguments."""

from __future__ import annotations

from typing import ClassVar

from ugro.common.models.job_state import JobState
from ugro.service.schemas.base import Document, Request


class SweptJobState(Document):
    """A job of a sweep, and why it is in its state."""

    id: str
    name: str
    """Its name."""
    index: int
    """Its number in the sweep, from 1."""
    state: JobState
    reason: str
    """Why it is in this state."""
    values: dict[str, str]
    """What it runs with, by argument."""


class SweptJob(SweptJobState):
    """A job of a sweep."""

    metric: float | None
    """Best value of the metric so far; `null`: it has none."""
    last: float | None
    """Last value of the metric that is a number; `null`: it has none."""


class SweepDocument(Document):
    """A sweep, with its jobs by number."""

    id: str
    """Id of the sweep."""
    name: str
    """Its name; those of its jobs begin with it."""
    of: int
    """How many jobs it was launched with."""
    max_parallel: int | None
    """How many of them run at a time; `null`: as many as there is room for."""
    metric: str | None
    """Name of the series that they are compared by; `null`: none of them has one."""
    metrics: tuple[str, ...]
    """Names of all series that its jobs have, in the order in which they were first seen."""
    highest: bool
    """Whether the highest value is the best; else the lowest is."""
    best: str | None
    """Id of the best job so far. One that failed or was cancelled counts only where no other has a value."""
    jobs: tuple[SweptJob, ...]
    """Those that were submitted and not removed."""


class CompareSweep(Request[SweepDocument]):
    """Show a sweep by its id, its jobs as recorded.

    They are compared by the series `metric` (null: by the loss of an evaluation, else by that of the training). With
    `highest` (null: as its name suggests) the highest value is the best.
    """

    function: ClassVar[str] = "sweeps.show"
    sweep: str
    metric: str | None = None
    highest: bool | None = None


class SweepReasonsDocument(Document):
    """Why the jobs of a sweep wait, by number."""

    id: str
    """Id of the sweep."""
    name: str
    """Its name; those of its jobs begin with it."""
    of: int
    """How many jobs it was launched with."""
    max_parallel: int | None
    """How many of them run at a time; `null`: as many as there is room for."""
    attended: bool
    """Whether a scheduler runs."""
    jobs: tuple[SweptJobState, ...]
    """Those that were submitted and not removed; a job that waits has its nearest pending reason."""


class WhySweep(Request[SweepReasonsDocument]):
    """Explain why the jobs of a sweep wait, as the nodes show it now."""

    function: ClassVar[str] = "sweeps.why"
    sweep: str
