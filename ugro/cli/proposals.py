"""Commands about what UGRO proposes after a failure: proposals, approve, deny."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from typing import Any

import click

from ugro.cli.announce import CodeProgress, announce, gpus_come_free
from ugro.cli.app import App, command, json_option
from ugro.cli.complete import complete_job
from ugro.cli.looking import look, tell_unsettled
from ugro.cli.output import checkpoint_document, job_document, print_hanging, print_json, stamp, title
from ugro.cli.prompts import confirm
from ugro.common.errors import InputError, StateLocked
from ugro.common.models.job import Job
from ugro.common.models.proposal import Proposal
from ugro.common.text import duration, printable
from ugro.control_plane.controller.tick import Controller
from ugro.control_plane.failure_handler.handler import FailureHandler, in_words
from ugro.control_plane.failure_handler.recovery.lost_work import resume_command
from ugro.control_plane.metadata_store.records import pass_over
from ugro.nodes.pool import Pool

ENDS_WITHIN, LOOK_EVERY = 60.0, 1.0
"""Seconds that a job may take to be ended for its next attempt, and between two looks at that."""


@command()
@json_option
def proposals(app: App, as_json: bool) -> None:
    """What UGRO would do about jobs that failed, and waits to be told to."""
    found = [one for one in app.store.decisions.proposals().values() if not one.approved]
    running = [job for job in app.store.jobs.live(pass_over) if job.state.on_nodes]
    seen = look(app, running)[1] if running else []
    if as_json:
        print_json([_document(proposal) for proposal in found])
        return
    for one in found:
        print_hanging(f"{one.job}  {duration(time.time() - one.at)} ago  ", one.text)
        print_hanging("    ", in_words(one))
        click.echo(f"    ugro approve {one.job}   ugro deny {one.job}")
    if not found:
        click.echo("nothing is proposed")
    tell_unsettled(running, seen)


@command()
@click.argument("job", shell_complete=complete_job)
@json_option
def approve(app: App, job: str, as_json: bool) -> None:
    """Do what is proposed about JOB (id or name): it goes on as a new attempt."""
    resumed = carry_out(app, _proposal(app, job))
    if as_json:
        print_json(job_document(resumed, app.asked(resumed)))
    else:
        announce(app, resumed)


@command()
@click.argument("job", shell_complete=complete_job)
@json_option
def deny(app: App, job: str, as_json: bool) -> None:
    """Leave JOB (id or name) as it is. `ugro resume` can still go on with it later."""
    proposal = _proposal(app, job)
    with app.store.lock():
        if app.store.decisions.proposals().get(proposal.job) != proposal:
            raise InputError(
                f"the proposal about {proposal.job} was answered already", f"see: ugro status {proposal.job}"
            )
        app.store.decisions.withdraw(proposal.job)
        app.store.timeline.note("", "denied", in_words(proposal), proposal.job)
    if as_json:
        print_json({"job": proposal.job, "denied": True})
    else:
        later = resume_command(
            app.store.jobs.job(proposal.job), proposal.changes, proposal.cause, not proposal.checkpoint
        )
        click.echo(f"{proposal.job} stays as it is" + ("" if proposal.ends else f"; to go on with it later: {later}"))


def offer(app: App, job: Job) -> Job | None:
    """Ask whoever followed a job that failed about what is proposed. Returns the job if it goes on."""
    if job.id in app.store.decisions.undecided():  # somebody else's tick just saw the failure
        app.run(lambda controller, _: app.tick(controller))
    proposal = app.store.decisions.proposals().get(job.id)
    if proposal is None:
        return None
    click.echo(f"{title(job)} failed: {printable(proposal.text)}", err=True)
    question = _question(job, proposal)
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        click.echo(f"proposed: {in_words(proposal)}", err=True)
        click.echo(f"  ugro approve {job.id}   ugro deny {job.id}", err=True)
        return None
    click.echo(f"  {in_words(proposal)}", err=True)
    if confirm(question):
        return carry_out(app, proposal)
    click.echo(f"it stays proposed: ugro approve {job.id}   ugro deny {job.id}", err=True)
    return None


def _question(job: Job, proposal: Proposal) -> str:
    fewer = [node for node in job.nodes if node not in proposal.nodes] if proposal.nodes else []
    how = [*(["with smaller batch size"] if proposal.changes else []), *(f"without {node}" for node in fewer)]
    return " ".join(["Retry", *how]) + "?"


def carry_out(app: App, proposal: Proposal) -> Job:
    """Queue the job again as it was proposed, ended first where it has to be, and start it if there is room.

    Raises:
        InputError: the job is not as it was then.
    """

    async def act(controller: Controller, pool: Pool) -> None:
        handler = FailureHandler(app.store, app.cluster, pool)
        before = app.store.jobs.job(proposal.job)
        if proposal.ends:
            handler.end(proposal)
            await _queued_again(app, controller, before)
        else:
            await handler.approve(proposal, progress.update)
        await gpus_come_free(app, controller, before, proposal.nodes or before.nodes)
        await app.started(controller, before.id)

    with CodeProgress() as progress:
        app.run(act, progress.update)
    return app.store.jobs.job(proposal.job)


async def _queued_again(app: App, controller: Controller, before: Job) -> None:
    """Wait until a job that is to be ended has its next attempt, whichever process takes the steps to it.

    Raises:
        InputError: it cannot go on, or takes long to end.
    """
    end = time.monotonic() + ENDS_WITHIN
    while True:
        with contextlib.suppress(StateLocked):  # its tick does the same
            await app.tick(controller, before.id, patience=LOOK_EVERY)
        waits = (
            before.id in app.store.decisions.proposals()
        )  # looked at first: the next attempt is recorded before it goes
        job = app.store.jobs.job(before.id)
        if job.attempt != before.attempt:
            return
        if not waits:
            raise InputError(f"{job.id} has {job.state.value} and could not go on", f"see why: ugro events {job.id}")
        if time.monotonic() > end:
            hint = f"it goes on as approved once it has ended: ugro events {job.id}"
            raise InputError(f"{job.id} is still {job.state.value}", hint)
        await asyncio.sleep(LOOK_EVERY)


def _proposal(app: App, reference: str) -> Proposal:
    job = app.store.jobs.find(reference)
    if job.id not in app.store.decisions.proposals():
        job = app.settled(job)
    proposal = app.store.decisions.proposals().get(job.id)
    if proposal is None or proposal.approved:
        raise InputError(f"nothing is proposed about {title(job)}", "`ugro proposals` lists what is")
    return proposal


def _document(proposal: Proposal) -> dict[str, Any]:
    held = checkpoint_document(proposal.checkpoint) if proposal.checkpoint else None
    told = {"at": stamp(proposal.at), "checkpoint": held, "what": in_words(proposal)}
    return proposal.model_dump(mode="json", exclude={"approved"}) | told
