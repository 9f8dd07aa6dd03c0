"""What `explain` tells of a job's end beyond its cause: the step, the last checkpoint, the time lost, how to go on."""

from __future__ import annotations

import time
from typing import Any

import click

from ugro.cli.app import LOOK_WITHIN, App
from ugro.cli.output import stamp
from ugro.common.errors import UgroError
from ugro.common.models.job import Attempt, Job
from ugro.common.models.proposal import Change
from ugro.common.text import duration, printable, size, some
from ugro.control_plane.controller.tick import Controller
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
from ugro.control_plane.metadata_store.checkpoint_store import CheckpointStore, Listing, copies
from ugro.control_plane.scheduler.attempts import begins
from ugro.nodes.pool import Pool

CHECKPOINTS_WITHIN = 3.0
"""Seconds that a node has to say which checkpoints it has."""

NOTHING: dict[str, Any] = {
    "step": None,
    "steps": None,
    "epoch": None,
    "last_checkpoint": None,
    "not_asked": [],
    "not_searched": [],
    "lost_seconds": None,
    "resume": None,
    "changes": [],
    "earlier_failures_here": 0,
    "next_attempt": None,
}
"""The keys of `aftermath`, of a job of which there is nothing to tell."""


def aftermath(app: App, job: Job, cause: str | None) -> dict[str, Any]:
    """What is known besides the cause of a job that ended badly or does not go on (docs/scripting.md)."""
    files = app.store.jobs.files(job.id)
    rank = job.first_failure.rank if job.first_failure else None
    at = reached(files.logs(job.attempt), rank)
    last, not_asked, not_searched = _last(app, job)
    held = last.checkpoint if last else None
    changes = _repair(app, job, cause)
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
        "resume": resume_command(job, changes, cause, anew, code_gone) if job.state.ended else None,
        "changes": [change.text for change in changes],
        "earlier_failures_here": failed_alike(job, cause, held, steps) if cause else 0,
        "next_attempt": None,
    }


def of_earlier(app: App, job: Job, followed_by: Attempt) -> dict[str, Any]:
    """The same of an attempt that another one followed: nothing is resumed from its end any more."""
    at = reached(app.store.jobs.files(job.id).logs(job.attempt), job.first_failure.rank if job.first_failure else None)
    said = {"step": at.step, "steps": at.total, "epoch": at.epoch} if at else {}
    went_on = followed_by.model_dump(mode="json", include={"attempt", "state", "step", "epoch"})
    return NOTHING | said | {"next_attempt": went_on | {"from": begins(followed_by)}}


def _last(app: App, job: Job) -> tuple[LastCheckpoint | None, list[str], list[str]]:
    """The last whole checkpoint, the nodes that did not say what they have, and the places that others did not search.

    A job that never ran has none.
    """
    if job.started_at is None and not job.past:
        return None, [], []
    try:
        listing = _listed(app, job)
    except UgroError:  # no inventory, or no record of what was asked for: the master's own copies are left
        listing = None
    kept = copies(app.store.jobs.files(job.id).checkpoints)
    if listing is None:
        return last_checkpoint(job, (), kept), list(job.nodes), []
    passed = [f"{node}: {place}" for node, places in listing.passed.items() for place in places]
    return last_checkpoint(job, listing.checkpoints, kept), list(listing.silent), passed


def _listed(app: App, job: Job) -> Listing:
    spec = app.store.jobs.spec(job.id)

    async def look(controller: Controller, pool: Pool) -> Listing:
        views = (await controller.observe([], within=LOOK_WITHIN)).views
        return await CheckpointStore(app.store, app.cluster, pool).find(job, spec, views, CHECKPOINTS_WITHIN)

    return app.run(look)


def _repair(app: App, job: Job, cause: str | None) -> tuple[Change, ...]:
    spec = app.asked(job)
    return smaller_batch(spec.args, script_of(app.store, job)) if spec and cause == "cuda_oom" else ()


def _document(last: LastCheckpoint) -> dict[str, Any]:
    one = last.checkpoint
    return {
        "step": one.step,
        "epoch": one.epoch,
        "name": one.name,
        "saved_at": stamp(one.saved_at),
        "age_seconds": round(max(0.0, time.time() - one.saved_at), 1),
        "bytes": one.bytes,
        "nodes": [place.node for place in one.places],
        "on_master": last.on_master,
    }


def show_aftermath(document: dict[str, Any]) -> None:
    """The rows of one screen that tell of it."""
    for name, words in _rows(document).items():
        if words:
            click.echo(f"  {name:<5} {words}")


def _rows(document: dict[str, Any]) -> dict[str, str]:
    step, steps, epoch, last = (document[key] for key in ("step", "steps", "epoch", "last_checkpoint"))
    of = f" of {steps}" if steps else ""
    within = f", epoch {epoch}" if epoch is not None else ""
    saved = "none was found"
    if last:
        places = [*last["nodes"], *(["this machine"] if last["on_master"] else [])]
        facts = f"saved {duration(last['age_seconds'])} ago, {size(last['bytes'] / 2**20)}, on {some(places)}"
        at = f"epoch {last['epoch']}" if last["step"] is None else last["step"]
        saved = f"{at} ({printable(last['name'])}, {facts})"
    silent = f"; could not ask {printable(some(document['not_asked']))}" if document["not_asked"] else ""
    if document["not_searched"] and not last:
        silent += f"; did not search {printable(some(document['not_searched']))}"
    lost = document["lost_seconds"]
    return {
        "step": "" if step is None else f"{step}{of}{within}",
        "last checkpoint": f"{saved}{silent}" if lost is not None or last or silent else "",
        "lost": "" if lost is None else f"{duration(lost)} of work" + ("" if last else ", all of this attempt"),
    }
