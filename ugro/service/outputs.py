"""Waits, at the end of a job that is followed, for the outputs that it declares."""

from __future__ import annotations

import asyncio
import time

from ugro.common.models.job import Job, JobState
from ugro.service.context import Context

WITHIN, POLL_SECONDS = 10.0, 0.2
"""Seconds to wait for outputs that another process brings, and between two looks at what came of it."""


async def await_outputs(context: Context, job: Job) -> None:
    """Have the outputs of a job that succeeded brought, if no scheduler does; else wait a moment for them.

    Raises:
        UgroError: its records cannot be read, or the state directory cannot be written.
    """
    if job.state != JobState.SUCCEEDED or job.id not in context.store.outputs.owed():
        return
    if not await asyncio.to_thread(context.attended):
        from ugro.control_plane.metadata_store.output_store.bringing import bring_owed  # here, since few jobs have any

        await bring_owed(context.store, context.cluster, (await context.reach()).pool, job.id, context.tell_sent)
    end = time.monotonic() + WITHIN
    while time.monotonic() < end and job.id in context.store.outputs.owed() and _is_new(context, job):
        await asyncio.sleep(POLL_SECONDS)


def _is_new(context: Context, job: Job) -> bool:
    """Return whether nothing has come in the way of a job's outputs."""
    record = context.store.outputs.record(job.id)
    return record is not None and not record.problem
