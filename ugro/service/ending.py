"""The end of jobs: cancel them, carry that out, wait for an end."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator

from ugro.common.errors import NodeError, StateLocked
from ugro.common.models.job import Job, Wish
from ugro.common.text import some
from ugro.control_plane import transitions
from ugro.control_plane.controller.job_steps import CANCEL_GRACE
from ugro.control_plane.scheduler.accepted import accepts
from ugro.control_plane.scheduler.launcher import nothing_runs
from ugro.service.context import Context
from ugro.service.outputs import await_outputs
from ugro.service.schemas.ending import Cancel, Cancelled, CarryOutCancels, CheckCancelled, JobProgress, Wait
from ugro.service.schemas.jobs import JobDocument

CANCEL_WITHIN = 60.0
"""Seconds to wait for another process that is at work on a job to be ended. The request is recorded before."""

TURN_WITHIN = 1.0
"""Seconds to wait for another process's tick, and between two attempts to end a job."""

WAIT_SECONDS = 2.0
"""Seconds between two ticks, where no other process ticks, while the end of a job is waited for."""


async def cancel(context: Context, request: Cancel) -> JobDocument:
    """Record that a job is to be ended. Return the job: one that had ended before stays as it is.

    Raises:
        InputError: there is no such job.
    """
    words = "cancel was requested" + (", without waiting for unreachable nodes" if request.abandon else "")
    wish = Wish.ABANDON if request.abandon else Wish.CANCEL
    found = context.store.jobs.find(request.job)

    def record() -> Job:
        job = context.store.jobs.job(found.id)
        accepted = accepts("cancel", job)
        return context.store.jobs.change(job.id, lambda job: transitions.cancel(job, wish, words)) if accepted else job

    return context.document(await context.store.write(record))


async def carry_out_cancels(context: Context, request: CarryOutCancels) -> AsyncIterator[JobProgress]:
    """End jobs whose end was requested, or wait for the process that is at work on one: that ends it just as well.

    Raises:
        UgroError: what stopped a step; the others were taken.
    """
    jobs, end = list(request.jobs), time.monotonic() + CANCEL_WITHIN
    for job_id in jobs:
        yield progress(context, context.store.jobs.job(job_id))
    while jobs:
        tried = False
        with contextlib.suppress(StateLocked):  # its tick does the same
            await context.tick(*jobs, patience=TURN_WITHIN)
            tried = True
        for job_id in jobs:
            yield progress(context, context.store.jobs.job(job_id))
        jobs = [job_id for job_id in jobs if not _is_done(context, job_id, tried)]
        if time.monotonic() > end:
            return
        if jobs:
            await asyncio.sleep(TURN_WITHIN)


async def check_cancelled(context: Context, request: CheckCancelled) -> Cancelled:
    """Return a job that ended after its cancel.

    Raises:
        InputError: there is no such job. NodeError: not all of it is ended, so the next tick tries again.
    """
    job = context.store.jobs.find(request.job)
    if not job.state.ended:
        raise NodeError(
            job.id,
            f"not all of its processes are ended: {_in_the_way(context, job)}",
            "the next `ugro sweep` tries again; --abandon ends it without a node that is gone for good",
        )
    sure = [node for node in job.nodes if node not in job.abandoned]
    return Cancelled(job=context.document(job), remains=nothing_runs("it", sure, job.gone_from))


async def wait(context: Context, request: Wait) -> AsyncIterator[JobProgress]:
    """Yield how a job stands until it has ended, or the time is over. Ticks unless another process does.

    Raises:
        InputError: there is no such job.
    """
    job = context.store.jobs.find(request.job)
    until = math.inf if request.until is None else request.until

    def pause() -> float:
        return max(0.0, min(WAIT_SECONDS, until - time.time()))

    yield progress(context, job)
    while not job.state.ended and time.time() < until:
        await context.tick_if_free()
        yield progress(context, context.store.jobs.job(job.id))
        await (await context.reach()).controller.join(job.id, pause())
        job = context.store.jobs.job(job.id)
        yield progress(context, job)
        if not job.state.ended:
            await asyncio.sleep(pause())
    if job.id in context.store.decisions.undecided():  # so that a waiting user finds what is proposed
        await context.tick(job.id)
    await await_outputs(context, job)
    yield progress(context, context.store.jobs.job(job.id))


def progress(context: Context, job: Job) -> JobProgress:
    """Return how a job stands that is waited for."""
    since = job.last_event.at if job.stopping and job.last_event else job.started_at or job.submitted_at
    proposed = job.state.ended and job.id in context.store.decisions.proposals()
    return JobProgress(job=context.document(job), since=since, grace=CANCEL_GRACE, proposed=proposed)


def _in_the_way(context: Context, job: Job) -> str:
    """Return why a job has not ended that was cancelled: who is at work on it, or who has not confirmed it."""
    with context.store.alone_with(job.id) as nobody_else:
        if not nobody_else:
            busy = "another UGRO process is at work on it"
            return f"{busy}; {job.reason}" if job.reason else busy
    return job.reason or f"{some(job.nodes)} has not confirmed it"


def _is_done(context: Context, job_id: str, tried: bool) -> bool:
    """Whether a job has ended, or it was tried to end it and no other process is at work on it that still could."""
    with context.store.alone_with(job_id) as nobody_else:
        return (tried and nobody_else) or context.store.jobs.job(job_id).state.ended
