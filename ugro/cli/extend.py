"""`ugro extend`: more time for a job that has a time limit."""

from __future__ import annotations

import asyncio
import time

import click

from ugro.cli.app import LOOK_WITHIN, App, command, json_option, span_option
from ugro.cli.complete import complete_job
from ugro.cli.output import console, job_document, print_json, title
from ugro.common.models.job import Job, JobState
from ugro.common.text import duration, moment, printable
from ugro.control_plane.controller.tick import Controller
from ugro.control_plane.scheduler.time_limits import (
    Told,
    extend,
    longer,
    require_hearing,
    require_limit,
    told,
    too_late,
)

LOOK_AGAIN = 1.0
"""Seconds after which ranks are looked at again that seem to be ended: a rank asks once more before it is."""


@command(name="extend")
@click.argument("job", shell_complete=complete_job)
@click.argument("more", required=False, metavar="[TIME]", callback=span_option)
@click.option("--to", "total", metavar="TIME", callback=span_option, help="So much in all, from its start: 6h.")
@json_option
def extend_(app: App, job: str, more: float | None, total: float | None, as_json: bool) -> None:
    """Let JOB (id or name) run for TIME longer than its time limit says: 1h, 90 (minutes), 1:30:00. It may
    wait, or run.

    Its nodes keep the limit themselves. One that cannot be reached just now is told by the next scheduling pass.
    """
    seconds = more if total is None else total
    if seconds is None or (more is not None and total is not None):
        raise click.UsageError("one TIME is expected: `ugro extend JOB 1h`, or `ugro extend JOB --to 6h`")
    add, found = total is None, app.settled(app.store.jobs.find(job))
    wanted = longer(found, require_limit(found, app.store.jobs.spec(found.id), seconds, add), seconds, add)

    async def on_nodes(controller: Controller) -> tuple[Job, Told, float, float]:
        require_hearing(found, await _look(app, controller, found), wanted)
        _, before, limit = extend(app.store, found.id, seconds, add)
        await app.tick(controller, found.id)
        now = app.store.jobs.job(found.id)
        said = await _look(app, controller, now)
        if said.late:
            await asyncio.sleep(LOOK_AGAIN)
            said = await _look(app, controller, now)
        if said.late or now.state.ended or now.first_failure:
            raise too_late(now, limit)
        return now, said, before, limit

    if found.state in (JobState.RUNNING, JobState.UNKNOWN):
        with console(stderr=True).status(f"telling the nodes of {found.id}"):
            extended, said, before, limit = app.run(lambda controller, _: on_nodes(controller))
    else:
        extended, before, limit = extend(app.store, found.id, seconds, add)
        said = Told(pending={node: f"{node} is about to start it" for node in extended.nodes})
    if as_json:
        pending = [{"node": node, "reason": why} for node, why in said.pending.items()]
        document = {"time_limit_before": before, "told": said.nodes, "pending": pending}
        print_json(job_document(extended, app.asked(extended)) | document)
        return
    start = extended.started_at
    until = f", until {moment(start + limit, time.time())} at the latest" if start is not None else ""
    click.echo(f"{title(extended)} may run for {duration(limit)} now, before it was {duration(before)}{until}")
    for why in said.pending.values():
        then = f"the next scheduling pass tells it (ugro sweep), until then {duration(before)} counts there"
        words = f"{printable(why)}: recorded; {then}"
        click.echo(words, err=True)


async def _look(app: App, controller: Controller, job: Job) -> Told:
    """What the nodes of a job make of its time limit."""
    if not job.state.on_nodes:
        return Told()
    seen = await controller.observe([job], job.nodes, LOOK_WITHIN)
    return told(app.store.jobs.spec(job.id), seen.runs[job.id])
