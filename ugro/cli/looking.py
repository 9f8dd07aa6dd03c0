"""Jobs as their nodes show them, for commands that are not behind the door yet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ugro.cli.app import LOOK_WITHIN, App
from ugro.cli.output import (
    print_hanging,
)
from ugro.common.errors import RecordUnreadable
from ugro.common.models.job import Job, JobState
from ugro.control_plane.resource_manager.observation import Observation, seen_by_resident
from ugro.control_plane.scheduler.backfill import Queue
from ugro.control_plane.scheduler.forecast import forecast
from ugro.control_plane.scheduler.queue import read_queue
from ugro.control_plane.scheduler.scheduling import why

if TYPE_CHECKING:
    from ugro.control_plane.controller.tick import Controller
    from ugro.nodes.pool import Pool

LOGS_LEAST = 0.8
"""Seconds that the logs of a job that failed unseen may take in any case, after a look that used up LOOK_WITHIN."""

REASONS = 3
"""Reasons why a job waits that `status` shows; `ugro why` tells all."""


def as_it_is(app: App, job: Job) -> Job:
    """The job as its nodes show it, or, while it waits, with what it waits for. An ended job's record says it all.

    Every command that judges a job goes by this, so that all say the same; those that act on one take a tick before.
    """
    if job.state == JobState.QUEUED:
        unreadable: list[RecordUnreadable] = []
        seen, live = look(app, app.store.jobs.live(unreadable.append))
        return with_prospects(job, read_queue(app.store, app.cluster, live, seen.views, seen.at, unreadable))
    return look(app, [job], job.nodes)[1][0] if job.state.on_nodes else job


def look(app: App, live: Sequence[Job], nodes: Sequence[str] | None = None) -> tuple[Observation, list[Job]]:
    """What nodes say (all by default), and the live jobs by that; what a resident controller sees is in their records.

    A job may have ended by that; its record says so only after the next tick.
    """
    if seen := seen_by_resident(app.store, app.cluster, time.time()):
        return seen, list(live)

    async def ask(controller: Controller, _: Pool) -> tuple[Observation, list[Job]]:
        end = time.monotonic() + LOOK_WITHIN
        seen = await controller.observe(live, nodes, LOOK_WITHIN)
        left = max(LOGS_LEAST, end - time.monotonic())
        return seen, await asyncio.gather(*(controller.live(job, seen, left) for job in live))

    return app.run(ask)


def tell_unsettled(records: Iterable[Job], seen: Iterable[Job]) -> None:
    """Say of jobs that their nodes show otherwise than their records what is still to come, and what brings it."""
    known = {job.id: job.state for job in records}
    shown = {JobState.RUNNING, JobState.UNKNOWN}
    changed = [job for job in seen if job.state.ended or job.state in shown]
    changed = [job for job in changed if known.get(job.id, job.state) != job.state]
    failed = any(job.state == JobState.FAILED for job in changed)
    if changed:
        names = ", ".join(job.id for job in changed)
        rest = ", ends the ranks that still run, and proposes what to do" if failed else ""
        words = f"seen just now; the next scheduling pass records it{rest}: ugro sweep"
        print_hanging(f"{names}: ", words, err=True, dim=True)


def tell_proposals(app: App, jobs: Iterable[Job]) -> None:
    """Say of jobs what is proposed about them and waits for an answer."""
    shown = {job.id for job in jobs}
    waiting = [one for one in app.store.decisions.proposals().values() if one.job in shown and not one.approved]
    if waiting:
        from ugro.control_plane.failure_handler.handler import in_words  # here, since its import takes long

        for proposal in waiting:
            print_hanging(f"{proposal.job}: ", f"proposed: {in_words(proposal)}", err=True)
            print_hanging("  ", f"ugro approve {proposal.job}   ugro deny {proposal.job}", err=True)


def with_reason(job: Job, reason: str | None) -> Job:
    """A queued job with why it waits: that is in no record, since it changes with every look."""
    return job.model_copy(update={"reason": reason}) if reason and job.state == JobState.QUEUED else job


def with_prospects(job: Job, queue: Queue) -> Job:
    """A queued job with the nearest reasons why it waits, and when it will probably start."""
    if all(job.id != one.id for one in queue.waiting):
        return job
    causes, expected = why(queue, job.id)[:REASONS], forecast(queue, job.id)
    words = [*causes, expected.text] if expected.at is not None else causes
    return with_reason(job, "; ".join(words) if causes else "starts at the next tick")
