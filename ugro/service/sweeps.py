"""Sweeps: submits the jobs for all combinations of some arguments, and compares them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ugro.common.errors import InputError, NoSuchJob, RecordUnreadable, UgroError
from ugro.common.fields import NAME
from ugro.common.job_names import SWEEP_ID
from ugro.common.job_spec import JobSpec
from ugro.common.models.job import Job, SweepPart
from ugro.common.models.job_state import JobState
from ugro.common.models.metrics import SeriesSource
from ugro.common.text import printable
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.metrics_store.training import Known
from ugro.control_plane.metadata_store.records import pass_over, stop_where_held
from ugro.control_plane.resource_manager.predictor.expectation import expect_memory
from ugro.control_plane.scheduler.allocator import candidates
from ugro.control_plane.scheduler.arguments import declared
from ugro.control_plane.scheduler.command import source_text
from ugro.control_plane.scheduler.queue import read_capacities, read_queue
from ugro.control_plane.scheduler.submission import submit
from ugro.control_plane.scheduler.sweeps import Combination, best_of, combinations, sweep_id
from ugro.control_plane.training_metrics.quantities import shown_names
from ugro.nodes.code_sync import CodeSelection
from ugro.service.context import Context
from ugro.service.launch import agreed
from ugro.service.observed import observe, short_reasons, with_reason
from ugro.service.schemas.launch import LaunchSweep
from ugro.service.schemas.notices import LeftAlone
from ugro.service.schemas.sweeps import (
    CompareSweep,
    SweepDocument,
    SweepReasonsDocument,
    SweptJob,
    SweptJobState,
    WhySweep,
)
from ugro.service.starting import last_queue

METRICS = ("eval_loss", "val_loss", "valid_loss", "validation_loss", "test_loss", "loss")
"""Series that jobs are compared by, unless one is named: the first that one of them has."""

_HIGHER_IS_BETTER = re.compile(r"acc|auc|bleu|rouge|f1|iou|map|precision|psnr|recall|reward|score|ssim", re.IGNORECASE)
_SOURCES = tuple(SeriesSource)
LONGEST_NAME = 48
"""Characters of a sweep's name at most, so that there is room for the numbers of its jobs."""


async def launch_sweep(context: Context, request: LaunchSweep) -> SweepDocument:
    """Submit the jobs of a sweep. A tick after it starts what fits.

    Raises:
        PlanChanged, Declined, NodeError, JobSpecError: as for a launch.
        InputError: it has no sweep, the script has no such argument, or a question has no answer.
        StateError: a job cannot be written; those before it are submitted.
    """
    spec, selection = await agreed(context, request.plan, request.answers)
    if not spec.sweep:
        raise InputError("the spec has no sweep", "launch it as a job: ugro launch")
    found = await asyncio.to_thread(jobs_of, spec)
    expected = await _expected(context, found)
    making = asyncio.ensure_future(asyncio.to_thread(_submit_all, context.store, spec, found, selection, expected))
    try:
        jobs = await asyncio.shield(making)
    except asyncio.CancelledError:  # the asker is gone, and the jobs are not: they have to be named
        for job in await making:
            context.tell(LeftAlone(job=context.document(job)))
        raise
    return _document(context.store, jobs, None, None)


async def show(context: Context, request: CompareSweep) -> SweepDocument:
    """Return a sweep with its jobs as they are recorded.

    Raises:
        InputError: there is no such sweep, or none of its jobs has such a series.
    """
    return await asyncio.to_thread(_show, context, request)


def _show(context: Context, request: CompareSweep) -> SweepDocument:
    store, jobs = context.store, _recorded(context.store, request.sweep)
    if any(job.state == JobState.QUEUED for job in jobs):
        reasons = short_reasons(last_queue(context))
        jobs = [with_reason(job, reasons.get(job.id)) for job in jobs]
    return _document(store, jobs, request.metric, request.highest)


def _recorded(store: MetadataStore, sweep: str) -> list[Job]:
    """Return the jobs of a sweep as they are recorded.

    Raises:
        NoSuchJob: there is no such sweep.
    """
    rows = store.jobs.matching(sweep) if SWEEP_ID.fullmatch(sweep) else []
    jobs = [job for job in store.jobs.all([row.id for row in rows], pass_over) if job.sweep_id == sweep]
    if not jobs:
        raise NoSuchJob(f"there is no sweep {printable(sweep)!r}", "`ugro status` lists the jobs and sweeps")
    return jobs


async def why(context: Context, request: WhySweep) -> SweepReasonsDocument:
    """Explain why the jobs of a sweep wait, each by its nearest pending reason.

    Raises:
        InputError: there is no such sweep.
    """
    jobs, unreadable = await asyncio.to_thread(_recorded, context.store, request.sweep), list[RecordUnreadable]()
    seen, live = await observe(context, context.store.jobs.live(unreadable.append))
    queue = read_queue(context.store, context.cluster, live, seen.views, seen.at, unreadable)
    said, now = short_reasons(queue), {job.id: job for job in live}
    parts = {job.id: job.sweep for job in jobs if job.sweep}
    shown = [with_reason(now.get(job.id, job), said.get(job.id)) for job in jobs]
    first = next(iter(parts.values()))
    return SweepReasonsDocument(
        id=first.sweep,
        name=first.name,
        of=first.of,
        max_parallel=first.max_parallel,
        attended=context.attended(),
        jobs=tuple(sorted((_state(job, parts[job.id]) for job in shown), key=lambda one: one.index)),
    )


def jobs_of(spec: JobSpec) -> list[Combination]:
    """Return the jobs of a sweep, whose code lies in the spec's `workdir`.

    Raises:
        InputError: the script has no such argument.
    """
    return list(combinations(spec, declared(source_text(Path(spec.workdir), spec))))


def _name(spec: JobSpec) -> str:
    """Return the name of a sweep: the one that was given, else that of the script."""
    stem = spec.name or (spec.script.rpartition(".")[2] if spec.module else Path(spec.script).stem)
    return stem[:LONGEST_NAME] if NAME.fullmatch(stem[:LONGEST_NAME]) else "sweep"


async def _expected(context: Context, found: Sequence[Combination]) -> list[int | None]:
    """Return what each job is expected to need of each GPU, in MiB: its values may be sizes of batches."""
    controller = (await context.reach()).controller
    views = (await controller.observe([], candidates(found[0].spec, context.inventory))).views

    def expect() -> list[int | None]:
        capacities = read_capacities(context.store, context.inventory, context.store.jobs.live(stop_where_held), views)
        expected = [expect_memory(context.store, one.spec, capacities) for one in found]
        return [one.formula_mib if one else None for one in expected]

    return await asyncio.to_thread(expect)


def _submit_all(
    store: MetadataStore,
    spec: JobSpec,
    found: Sequence[Combination],
    selection: CodeSelection,
    expected: Sequence[int | None],
) -> list[Job]:
    jobs: list[Job] = []
    name, width = _name(spec), len(str(len(found)))
    for index, (one, mib) in enumerate(zip(found, expected, strict=True), 1):
        named = one.spec.model_copy(update={"name": f"{name}-{index:0{width}}"})

        def part_of(job_id: str, index: int = index, one: Combination = one) -> SweepPart:
            first = jobs[0].id if jobs else job_id
            return SweepPart(
                sweep=sweep_id(first),
                name=name,
                index=index,
                of=len(found),
                values=dict(one.values),
                max_parallel=spec.max_parallel,
            )

        jobs.append(submit(store, named, selection, mib, part_of))
    return jobs


# --- comparing -------------------------------------------------------------------------------------------------------


def _document(store: MetadataStore, jobs: Sequence[Job], metric: str | None, highest: bool | None) -> SweepDocument:
    """Return the document of a sweep, of which these are the jobs.

    Raises:
        InputError: none of them has a series `metric`.
    """
    parts = {job.id: job.sweep for job in jobs if job.sweep}
    series = {job.id: _series(store, job) for job in jobs if job.launched_at is not None}
    there = list(dict.fromkeys(name for found in series.values() for name in found))
    if metric is not None and metric not in there:
        raise InputError(f"no job of the sweep has a series {printable(metric)!r}", f"there are: {', '.join(there)}")
    metric = metric or next((name for name in METRICS if name in there), None)
    highest = bool(metric and _HIGHER_IS_BETTER.search(metric)) if highest is None else highest
    values = {job_id: _best(found.get(metric or ""), highest) for job_id, found in series.items()}
    known = {job.id: (job.state, value) for job in jobs if (value := values.get(job.id)) is not None}
    first = next(iter(parts.values()))
    swept = [
        SweptJob(
            **vars(_state(job, parts[job.id])),
            metric=values.get(job.id),
            last=chosen.last if (chosen := series.get(job.id, {}).get(metric or "")) else None,
        )
        for job in jobs
    ]
    return SweepDocument(
        id=first.sweep,
        name=first.name,
        of=first.of,
        max_parallel=first.max_parallel,
        metric=metric,
        metrics=tuple(there),
        highest=highest,
        best=best_of(known, highest),
        jobs=tuple(sorted(swept, key=lambda one: one.index)),
    )


def _state(job: Job, part: SweepPart) -> SweptJobState:
    return SweptJobState(
        id=job.id, name=job.name, index=part.index, state=job.state, reason=job.reason, values=part.values
    )


def _series(store: MetadataStore, job: Job) -> Mapping[str, Known]:
    """Return the series of a job by what they are called; of several sources the most exact. None where unreadable."""
    try:
        found = store.metrics.series(job.id).index().series
    except UgroError:
        return {}
    shown = shown_names(found)
    by_name: dict[str, Known] = {}
    for key in sorted(found, key=lambda key: _SOURCES.index(key[1])):
        by_name.setdefault(shown[key], found[key])
    return by_name


def _best(known: Known | None, highest: bool) -> float | None:
    return None if known is None else known.high if highest else known.low
