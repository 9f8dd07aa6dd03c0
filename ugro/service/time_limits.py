"""Time limits of jobs that wait or run."""

from __future__ import annotations

import asyncio

from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.control_plane.scheduler import time_limits
from ugro.control_plane.scheduler.time_limits import Told
from ugro.service.context import Context
from ugro.service.observed import OBSERVE_WITHIN
from ugro.service.schemas.notices import TellingNodes
from ugro.service.schemas.time_limits import Extend, ExtendedDocument, PendingNode

OBSERVE_AGAIN = 1.0
"""Seconds after which ranks are observed again that seem to be ended: a rank asks once more before it is."""


async def extend(context: Context, request: Extend) -> ExtendedDocument:
    """Extend a time limit. Nodes keep it themselves; the next scheduling pass sends it to those unreachable now.

    Raises:
        InputError: there is no such job, it has no limit or is over, or the new limit is not longer. JobFailed: the
            job reached its limit before its nodes got the new one.
    """
    found = await context.settled(context.store.jobs.find(request.job))
    spec = context.store.jobs.spec(found.id)
    before = time_limits.require_limit(found, spec, request.seconds, request.add)
    wanted = time_limits.longer(found, before, request.seconds, request.add)
    if found.state in (JobState.RUNNING, JobState.UNKNOWN):
        context.tell(TellingNodes(job=found.id))
        time_limits.require_hearing(found, await _told(context, found), wanted)
        _, before, limit = await _extend(context, found.id, request)
        extended, told = await _tell(context, found, limit)
    else:
        extended, before, _ = await _extend(context, found.id, request)
        told = Told(pending={node: f"{node} is about to start it" for node in extended.nodes})
    known = vars(context.document(extended))
    pending = tuple(PendingNode(node=node, reason=why) for node, why in told.pending.items())
    return ExtendedDocument(**known, time_limit_before=before, told=tuple(told.nodes), pending=pending)


async def _extend(context: Context, job_id: str, request: Extend) -> tuple[Job, float, float]:
    """Record the new limit. Return the job, the limit before and the new one."""
    store = context.store
    return await store.write(lambda: time_limits.extend(store, job_id, request.seconds, request.add))


async def _tell(context: Context, job: Job, limit: float) -> tuple[Job, Told]:
    """Let a tick tell the nodes of a job its new time limit; return the job then, and who keeps it.

    Raises:
        JobFailed: the limit before was reached first.
    """
    await context.tick(job.id)
    now = context.store.jobs.job(job.id)
    told = await _told(context, now)
    if told.late:
        await asyncio.sleep(OBSERVE_AGAIN)
        told = await _told(context, now)
    if told.late or now.state.ended or now.first_failure:
        raise time_limits.too_late(now, limit)
    return now, told


async def _told(context: Context, job: Job) -> Told:
    """Return which nodes of a job keep its time limit."""
    if not job.state.on_nodes:
        return Told()
    seen = await (await context.reach()).controller.observe([job], job.nodes, OBSERVE_WITHIN)
    return time_limits.told(context.store.jobs.spec(job.id), seen.runs[job.id])
