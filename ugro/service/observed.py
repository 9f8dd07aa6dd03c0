"""Jobs as their nodes show them now. Everything that judges a job reads it here, so that all answers agree."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from ugro.common.errors import RecordUnreadable
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.control_plane.resource_manager.observation import seen_by_resident
from ugro.control_plane.scheduler.backfill import Queue
from ugro.control_plane.scheduler.forecast import forecast
from ugro.control_plane.scheduler.pending_words import forecast_in_words, reason_in_words
from ugro.control_plane.scheduler.queue import read_queue
from ugro.control_plane.scheduler.scheduling import reasons, why
from ugro.engines.base import Observation
from ugro.service.context import Context

OBSERVE_WITHIN = 1.7
"""Seconds that a query waits for a node; what is not fresh by then is shown with its age."""

LOGS_LEAST = 0.8
"""Seconds that the logs of a job that failed unseen may take in any case, after nodes that used up OBSERVE_WITHIN."""

REASONS = 3
"""Pending reasons that lists show; `why` has all."""


async def observe(
    context: Context, live: Sequence[Job], nodes: Sequence[str] | None = None
) -> tuple[Observation, list[Job]]:
    """Observe nodes (all by default); return that, and the live jobs as it shows them.

    A resident controller's observation of a moment ago will do: what it saw is in the jobs' records. A job may have
    ended by what is seen; its record says so only after the next tick.
    """
    if seen := seen_by_resident(context.store, context.cluster, time.time()):
        return seen, list(live)
    controller = (await context.reach()).controller
    end = time.monotonic() + OBSERVE_WITHIN
    seen = await controller.observe(live, nodes, OBSERVE_WITHIN)
    left = max(LOGS_LEAST, end - time.monotonic())
    return seen, await asyncio.gather(*(controller.live(job, seen, left) for job in live))


async def observed(context: Context, job: Job) -> Job:
    """Return a job as its nodes show it, or, while it waits, with its pending reasons.

    The record of a job that ended says it all. What acts on a job takes a tick first instead (`Context.settled`).
    """
    if job.state == JobState.QUEUED:
        unreadable: list[RecordUnreadable] = []
        seen, live = await observe(context, context.store.jobs.live(unreadable.append))
        queue = read_queue(context.store, context.cluster, live, seen.views, seen.at, unreadable)
        return with_prospects(job, queue)
    return (await observe(context, [job], job.nodes))[1][0] if job.state.on_nodes else job


def short_reasons(queue: Queue) -> dict[str, str]:
    """Return by job its nearest pending reason, in words that change only with the reason."""
    return {job_id: reason_in_words(reason, queue.now, ends=False) for job_id, reason in reasons(queue).items()}


def with_reason(job: Job, reason: str | None) -> Job:
    """Return a queued job with its pending reason: that is in no record, since it changes with every observation."""
    return job.model_copy(update={"reason": reason}) if reason and job.state == JobState.QUEUED else job


def with_prospects(job: Job, queue: Queue) -> Job:
    """Return a queued job with its nearest pending reasons, and when it will probably start."""
    if all(job.id != one.id for one in queue.waiting):
        return job
    causes = [reason_in_words(reason, queue.now) for reason in why(queue, job.id)[:REASONS]]
    expected = forecast(queue, job.id)
    words = [*causes, forecast_in_words(expected, queue.now)] if expected.at is not None else causes
    return with_reason(job, "; ".join(words) if causes else "starts at the next scheduling pass")
