"""Jobs that wait: hold, release and reprioritize them, and say why they wait."""

from __future__ import annotations

import time
from collections.abc import Callable

from ugro.common.errors import InputError, RecordUnreadable
from ugro.common.models.event_kind import EventKind
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.common.text import one_line
from ugro.control_plane import transitions
from ugro.control_plane.scheduler import scheduling
from ugro.control_plane.scheduler.accepted import accepts
from ugro.control_plane.scheduler.forecast import forecast
from ugro.control_plane.scheduler.pending_words import forecast_in_words, reason_in_words
from ugro.control_plane.scheduler.queue import read_queue
from ugro.control_plane.transitions import Change
from ugro.service.context import Context
from ugro.service.observed import observe, observed
from ugro.service.schemas.jobs import JobDocument
from ugro.service.schemas.queue import (
    Explained,
    Hold,
    ReasonsDocument,
    Release,
    Released,
    Reprioritize,
    Why,
)
from ugro.service.words import state_in_words

QUEUED = (EventKind.SUBMITTED, EventKind.RESUMED, EventKind.QUEUED)
"""The events after which a job is placed again."""


async def hold(context: Context, request: Hold) -> JobDocument:
    """Keep a queued job from starting until it is released. What runs is not touched.

    Raises:
        InputError: there is no such job, or it has started.
    """
    said = f"held: {one_line(request.reason)}" if request.reason else "held"
    return context.document(
        await _change_waiting(context, request.job, "hold", lambda job: transitions.hold(job, said))
    )


async def release(context: Context, request: Release) -> Released:
    """Let a held job take its turn again, at its old place in the queue.

    Raises:
        InputError: there is no such job, or it is not held.
    """
    was = context.store.jobs.find(request.job)
    if was.state == JobState.QUEUED and not was.wish:
        return Released(job=context.document(was), was_held=False)
    job = await _change_waiting(context, request.job, "release", transitions.release)
    return Released(job=context.document(job), was_held=True)


async def reprioritize(context: Context, request: Reprioritize) -> JobDocument:
    """Give a waiting job another priority.

    Raises:
        InputError: there is no such job, or it has started.
    """
    job = await _change_waiting(
        context, request.job, "reprioritize", lambda job: transitions.reprioritize(job, request.priority)
    )
    return context.document(job)


async def why(context: Context, request: Why) -> Explained:
    """Explain why a job waits, or why it runs where it does.

    Raises:
        InputError: there is no such job.
    """
    record = context.store.jobs.find(request.job)
    if record.state in (JobState.QUEUED, JobState.HELD) and not record.wish:
        job, unreadable = record, list[RecordUnreadable]()
        seen, live = await observe(context, context.store.jobs.live(unreadable.append))
        queue = read_queue(context.store, context.cluster, live, seen.views, time.time(), unreadable)
        expected = forecast(queue, job.id)
        reasons = tuple(reason_in_words(reason, queue.now) for reason in scheduling.why(queue, job.id))
        starts_at, never, text = expected.at, expected.never, forecast_in_words(expected, queue.now)
    else:
        job = await observed(context, record)
        starts_at, never, text, reasons = None, False, "", _why_there(context, job)
    answer = ReasonsDocument(
        id=job.id,
        state=job.state,
        reasons=reasons,
        attended=context.attended(),
        starts_at=starts_at,
        never_starts=never,
    )
    return Explained(answer=answer, job=context.document(job), expected=text, recorded_state=record.state)


async def _change_waiting(context: Context, reference: str, request: str, edge: Callable[[Job], Change]) -> Job:
    """Change a job that has not started.

    Raises:
        InputError: it has.
    """
    found = context.store.jobs.find(reference)

    def record() -> Job:
        job = context.store.jobs.job(found.id)
        if not accepts(request, job):
            needed = "a held job can be released" if request == "release" else "a job that waits can be changed"
            raise InputError(f"{state_in_words(job)}; only {needed}", f"see: ugro status {job.id}")
        return job if edge(job).job == job else context.store.jobs.change(job.id, edge)

    return await context.store.write(record)


def _why_there(context: Context, job: Job) -> tuple[str, ...]:
    """Return what was recorded when its latest attempt was placed, and the outcome."""
    told: dict[str, None] = {}
    for event in context.store.timeline.of_job(job.id):
        if event.kind in QUEUED:
            told.clear()
        elif event.kind in (EventKind.STARTING, EventKind.PLACED):
            told[event.message] = None
    asked = "cancel was requested; in progress until every node confirms" if job.wish else ""
    return (*told, *(words for words in (asked, job.reason, job.alert) if words)) or ("it never started",)
