"""Commands about what UGRO proposes after a failure: proposals, approve, deny."""

from __future__ import annotations

import time

import click

from ugro.cli.app import App, command, json_option
from ugro.cli.output import print_hanging, print_json
from ugro.cli.render.attention import unsettled
from ugro.cli.render.starting import announce
from ugro.cli.several import Did, JobChoice, choose, jobs_arguments
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
@jobs_arguments()
@json_option
def approve(app: App, choice: JobChoice, as_json: bool) -> int:
    """Approve a proposal: resume the job as a new attempt.

    JOB is an id, a name or a pattern like 'lr-*', which means the jobs about which something is proposed.
    """

    def one(job: str) -> Did:
        started = app.call(Approve(plan=app.call(PlanApprove(job=job)), answers={APPROVE: True}))
        if not as_json:
            announce(app, started)
        return started.job.as_json(), ""

    return choose(app, "approve", choice, as_json).each(one, as_json)


@command()
@jobs_arguments()
@json_option
def deny(app: App, choice: JobChoice, as_json: bool) -> int:
    """Deny a proposal: leave the job as it is.

    JOB is an id, a name or a pattern like 'lr-*', which means the jobs about which something is proposed. `ugro resume`
    can still resume them later.
    """

    def one(job: str) -> Did:
        denied = app.call(Deny(job=job))
        later = f"; to resume it later: {denied.later}" if denied.later else ""
        return denied.answer.as_json(), f"{denied.answer.job} stays as it is{later}"

    return choose(app, "deny", choice, as_json).each(one, as_json)
