"""A job between its submission, or its resume, and its start: what it waits for, and when it will start."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from ugro.common.errors import RecordUnreadable
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.control_plane.metadata_store.records import pass_over
from ugro.control_plane.resource_manager.governor import held_gpus
from ugro.control_plane.resource_manager.observation import last_look
from ugro.control_plane.scheduler.backfill import Queue
from ugro.control_plane.scheduler.forecast import forecast
from ugro.control_plane.scheduler.pending_words import forecast_in_words
from ugro.control_plane.scheduler.queue import read_capacities, read_queue
from ugro.service.context import Context
from ugro.service.schemas.notices import GpusHeld, GpusStillHeld
from ugro.service.schemas.starting import AwaitStart, Expected, Started

FREE_WITHIN, FREE_EVERY = 15.0, 0.5
"""Seconds that GPUs may take to come free before a job is resumed, and between two observations of them."""


async def await_start(context: Context, request: AwaitStart) -> Started:
    """Wait until a tick, of whichever process, started a job or left it waiting. A slow start is not awaited.

    Raises:
        InputError: there is no such job. StateLocked: another process's tick takes too long.
    """
    found = context.store.jobs.find(request.job)
    return started(context, await context.started(found.id))


def started(context: Context, job: Job) -> Started:
    """Return a job that was just brought to its nodes, or left waiting, with what is expected of its start."""
    return Started(job=context.document(job), expected=expected_start(context, job))


def expected_start(context: Context, job: Job) -> Expected | None:
    """Return when a waiting job will start, by the observation of the last tick; None for a job that does not wait."""
    if job.state not in (JobState.QUEUED, JobState.HELD):
        return None
    queue = last_queue(context)
    found = forecast(queue, job.id)
    return Expected(at=found.at, never=found.never, text=forecast_in_words(found, queue.now))


def last_queue(context: Context) -> Queue:
    """Return the queue, by the observation of the last tick."""
    now, unreadable = time.time(), list[RecordUnreadable]()
    live = context.store.jobs.live(unreadable.append)
    views = last_look(context.store, context.cluster, now)
    return read_queue(context.store, context.cluster, live, views, now, unreadable)


async def gpus_come_free(context: Context, before: Job, nodes: Sequence[str]) -> None:
    """Give the drivers of these nodes a moment for what the attempt before held. Bounded, and reported.

    What is held for longer keeps the job in the queue, with that as its reason.
    """
    controller = (await context.reach()).controller
    end, told = time.monotonic() + FREE_WITHIN, False
    while True:
        views = (await controller.observe([], nodes)).views
        held = held_gpus(
            before, read_capacities(context.store, context.cluster, context.store.jobs.live(pass_over), views)
        )
        if not held or time.monotonic() > end:
            break
        if not told:
            context.tell(GpusHeld(held=tuple(held), within=FREE_WITHIN))
        told = True
        await asyncio.sleep(FREE_EVERY)
    if held:
        context.tell(GpusStillHeld(held=tuple(held)))
