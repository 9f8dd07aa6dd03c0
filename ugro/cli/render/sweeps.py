"""Draws a sweep: one row per job with its values, its state and the metric by which jobs are compared."""

from __future__ import annotations

from collections import Counter

from rich.text import Text

from ugro.cli.output import state_text
from ugro.cli.render.grid import Column, Grid
from ugro.common.models.job_state import JobState
from ugro.common.text import count, printable, some
from ugro.service.schemas.sweeps import SweepDocument, SweepReasonsDocument, SweptJobState


def values_in_words(job: SweptJobState) -> str:
    """Return what a job of a sweep runs with: `lr=1e-3 seed=2`."""
    return printable(" ".join(f"{name}={value}" for name, value in job.values.items()))


def sweep_in_words(sweep: SweepDocument | SweepReasonsDocument) -> str:
    """Return a sweep in a sentence: its jobs, their states, and how many run at a time."""
    states = Counter(job.state for job in sweep.jobs)
    said = ", ".join(f"{states[state]} {state.value}" for state in JobState if states[state])
    there = f"{count(len(sweep.jobs), 'job')}" + (f" of {sweep.of}" if len(sweep.jobs) < sweep.of else "")
    limit = f", {sweep.max_parallel} at a time" if sweep.max_parallel else ""
    return printable(f"{sweep.id} ({sweep.name}): {there}{limit}: {said}")


def sweep_grid(sweep: SweepDocument) -> Grid:
    """One row per job, by number; the best is marked."""
    names = list(dict.fromkeys(name for job in sweep.jobs for name in job.values))
    columns = [Column("ID"), Column("STATE")]
    columns += [Column(printable(name), 6) for name in names]
    columns += [Column(printable(sweep.metric or "METRIC")), Column("WHY", 24, leaves=1)]
    made = Grid(*columns)
    for job in sweep.jobs:
        best = job.id == sweep.best
        metric = Text("-" if job.metric is None else f"{job.metric:.6g}", "bold green" if best else "")
        made.add(
            job.id,
            state_text(job.state.value),
            *(printable(job.values.get(name, "-")) for name in names),
            metric.append(" best") if best else metric,
            printable(job.reason) or "-",
        )
    return made


def reasons_in_lines(sweep: SweepReasonsDocument) -> list[str]:
    """Return each pending reason with the jobs that have it, in the order of their numbers."""
    waiting: dict[str, list[str]] = {}
    for job in sweep.jobs:
        if job.state in (JobState.QUEUED, JobState.HELD):
            waiting.setdefault(job.reason or job.state.value, []).append(job.id)
    return [f"{some(ids)}: {reason}" for reason, ids in waiting.items()]
