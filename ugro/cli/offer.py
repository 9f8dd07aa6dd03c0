"""Offers what is proposed about a job to the person who followed it until it failed."""

from __future__ import annotations

import sys

import click

from ugro.cli.app import App
from ugro.cli.prompts import confirm
from ugro.common.text import printable
from ugro.service.schemas.jobs import JobDocument
from ugro.service.schemas.proposals import APPROVE, Approve, Offer
from ugro.service.words import title


def offer(app: App, job_id: str) -> JobDocument | None:
    """Ask about what is proposed. Return the job if it is resumed."""
    plan = app.call(Offer(job=job_id)).plan
    if plan is None:
        return None
    [question], commands = plan.questions, f"ugro approve {job_id}   ugro deny {job_id}"
    click.echo(f"{title(plan.job)} failed: {printable(plan.proposal.text)}", err=True)
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        click.echo(f"proposed: {plan.proposal.what}", err=True)
        click.echo(f"  {commands}", err=True)
        return None
    click.echo(f"  {plan.proposal.what}", err=True)
    if confirm(question.text, question.default):
        return app.call(Approve(plan=plan, answers={APPROVE: True})).job
    click.echo(f"it remains proposed: {commands}", err=True)
    return None
