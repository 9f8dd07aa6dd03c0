"""What the end of a job cost beyond its cause: its last step, the last checkpoint, the time lost, how to resume."""

from __future__ import annotations

import time
from typing import Any

from ugro.common.errors import UgroError
from ugro.common.models.argument_change import ArgumentChange
from ugro.common.models.job import Attempt, Job
from ugro.control_plane.failure_handler.handler import script_of
from ugro.control_plane.failure_handler.recovery.lost_work import (
    LastCheckpoint,
    last_checkpoint,
    lost_seconds,
    reached,
    resume_command,
    steps_reached,
)
from ugro.control_plane.failure_handler.recovery.repair import smaller_batch
from ugro.control_plane.failure_handler.retry import failed_alike
from ugro.control_plane.metadata_store.checkpoint_store import CheckpointListing, CheckpointStore, copies
from ugro.service.context import Context
from ugro.service.observed import OBSERVE_WITHIN
from ugro.service.schemas.explain import LastCheckpointDocument, NextAttemptDocument
from ugro.service.words import begins

CHECKPOINTS_WITHIN = 3.0
"""Seconds that a node has to say which checkpoints it has."""


async def lost_work(context: Context, job: Job, cause: str | None) -> dict[str, Any]:
    """Return what is known beyond the cause of a job that failed or hangs, as fields of a FailureDocument."""
    files = context.store.jobs.files(job.id)
    rank = job.first_failure.rank if job.first_failure else None
    at = reached(files.logs(job.attempt), rank)
    last, not_asked, not_searched = await _last(context, job)
    held = last.checkpoint if last else None
    changes = _repair(context, job, cause)
    steps = steps_reached(job, files.logs) if job.past else {}
    anew = not (last or not_asked or not_searched)
    code_gone = files.snapshot_pruned.exists() and not files.snapshot(job.code.attempt).exists()
    lost = None if job.state.on_nodes and cause is None else lost_seconds(job, last, time.time())
    return {
        "step": at.step if at else None,
        "steps": at.total if at else None,
        "epoch": at.epoch if at else None,
        "last_checkpoint": _document(last) if last else None,
        "not_asked": not_asked,
        "not_searched": not_searched,
        "lost_seconds": None if lost is None else round(lost, 1),
        "resume": resume_command(job, changes, cause, anew, code_gone) if _can_resume(job, cause) else None,
        "changes": tuple(change.text for change in changes),
        "earlier_failures_here": failed_alike(job, cause, held, steps) if cause else 0,
    }


def _can_resume(job: Job, cause: str | None) -> bool:
    """Whether there is something to resume: a job whose setup command failed the first time is run again."""
    return job.state.ended and (cause != "setup_failed" or bool(job.past))


def of_earlier(context: Context, job: Job, followed_by: Attempt) -> dict[str, Any]:
    """Return the same of an attempt that another one followed: nothing is resumed from its end any more."""
    rank = job.first_failure.rank if job.first_failure else None
    at = reached(context.store.jobs.files(job.id).logs(job.attempt), rank)
    return {
        "step": at.step if at else None,
        "steps": at.total if at else None,
        "epoch": at.epoch if at else None,
        "next_attempt": NextAttemptDocument(
            attempt=followed_by.attempt,
            state=followed_by.state,
            step=followed_by.step,
            epoch=followed_by.epoch,
            from_=begins(followed_by),
        ),
    }


async def _last(context: Context, job: Job) -> tuple[LastCheckpoint | None, tuple[str, ...], tuple[str, ...]]:
    """The last complete checkpoint, the nodes that did not say what they have, and the places others did not search.

    A job that never ran has none.
    """
    if job.started_at is None and not job.past:
        return None, (), ()
    try:
        listing = await _listed(context, job)
    except UgroError:  # no inventory, or no record of what was asked for: the master's own copies are left
        listing = None
    kept = copies(context.store.jobs.files(job.id).checkpoints)
    if listing is None:
        return last_checkpoint(job, (), kept), job.nodes, ()
    passed = tuple(f"{node}: {place}" for node, places in listing.passed.items() for place in places)
    return last_checkpoint(job, listing.checkpoints, kept), tuple(listing.silent), passed


async def _listed(context: Context, job: Job) -> CheckpointListing:
    spec = context.store.jobs.spec(job.id)
    controller, pool = await context.reach()
    views = (await controller.observe([], within=OBSERVE_WITHIN)).views
    return await CheckpointStore(context.store, context.cluster, pool).find(job, spec, views, CHECKPOINTS_WITHIN)


def _repair(context: Context, job: Job, cause: str | None) -> tuple[ArgumentChange, ...]:
    spec = context.asked(job)
    return smaller_batch(spec.args, script_of(context.store, job)) if spec and cause == "cuda_oom" else ()


def _document(last: LastCheckpoint) -> LastCheckpointDocument:
    one = last.checkpoint
    return LastCheckpointDocument(
        step=one.step,
        epoch=one.epoch,
        name=one.name,
        saved_at=one.saved_at,
        age_seconds=round(max(0.0, time.time() - one.saved_at), 1),
        bytes=one.bytes,
        nodes=tuple(place.node for place in one.places),
        on_master=last.on_master,
    )
