"""Commands about what UGRO proposes after a failure: proposals, approve, deny."""

from __future__ import annotations

import time

import click

from ugro.cli.app import App, command, json_option
from ugro.cli.complete import complete_job
from ugro.cli.output import print_hanging, print_json
from ugro.cli.render.attention import unsettled
from ugro.cli.render.starting import announce
from ugro.common.text import duration
from ugro.service.schemas.proposals import APPROVE, Approve, Deny, PlanApprove, Proposals


@command()
@json_option
def proposals(app: App, as_json: bool) -> None:
    """List what UGRO proposes for failed jobs.

    Each proposal waits for `ugro approve` or `ugro deny`.
    """
    listed = app.call(Proposals())
    if as_json:
        print_json([one.as_json() for one in listed.answer])
        return
    for one in listed.answer:
        print_hanging(f"{one.job}  {duration(time.time() - one.at)} ago  ", one.text)
        print_hanging("    ", one.what)
        click.echo(f"    ugro approve {one.job}   ugro deny {one.job}")
    if not listed.answer:
        click.echo("nothing is proposed")
    unsettled(listed.recorded, listed.running)


@command()
@click.argument("job", shell_complete=complete_job)
@json_option
def approve(app: App, job: str, as_json: bool) -> None:
    """Approve a proposal: resume the job as a new attempt.

    JOB is an id or a name.
    """
    started = app.call(Approve(plan=app.call(PlanApprove(job=job)), answers={APPROVE: True}))
    if as_json:
        print_json(started.job.as_json())
    else:
        announce(app, started)


@command()
@click.argument("job", shell_complete=complete_job)
@json_option
def deny(app: App, job: str, as_json: bool) -> None:
    """Deny a proposal: leave the job as it is.

    JOB is an id or a name. `ugro resume` can still resume it later.
    """
    denied = app.call(Deny(job=job))
    if as_json:
        print_json(denied.answer.as_json())
    else:
        later = f"; to resume it later: {denied.later}" if denied.later else ""
        click.echo(f"{denied.answer.job} stays as it is{later}")
