"""Says where the next attempt of a job begins, and what is new in it."""

from __future__ import annotations

import time

import click

from ugro.common.text import duration, printable, size, visible
from ugro.service.schemas.jobs import CheckpointDocument, JobDocument
from ugro.service.schemas.resume import CodeChanges, ResumePlan
from ugro.service.words import count_changes

MOST_NAMED = 10
"""Files that are named of those in which new code differs."""


def tell_where(checkpoint: CheckpointDocument | None) -> None:
    """Say where the next attempt begins."""
    if not checkpoint:
        click.echo("From the beginning.", err=True)
        return
    age = duration(time.time() - checkpoint.saved_at)
    where = ", ".join(place.node for place in checkpoint.places) or "this machine"
    branch = f", of another branch (attempt {checkpoint.attempt})" if checkpoint.other_branch else ""
    facts = f"saved {age} ago, {size(checkpoint.bytes / 2**20)}, on {where}{branch}"
    at = checkpoint.where.removeprefix("step ")
    last = "Checkpoint" if checkpoint.other_branch else "Last checkpoint"
    click.echo(f"{last}: {at} ({visible(checkpoint.name)}, {facts})", err=True)


def tell_changes(plan: ResumePlan) -> None:
    """Say what is new in the next attempt, but for what was asked about."""
    for line in _code_in_words(plan.job, plan.code_changes) if plan.code_changes else []:
        click.echo(line, err=True)
    for change in plan.changes:
        click.echo(f"  {printable(change.text)}", err=True)


def _code_in_words(job: JobDocument, found: CodeChanges) -> list[str]:
    """Return what is new in the code; the first `MOST_NAMED` changes by name."""
    directory = printable(job.code.directory)
    named = [f"  {kind} {visible(name)}" for kind, names in vars(found).items() for name in names]
    if not named:
        return [f"The code is the same: nothing differs in {directory}."]
    more = [f"  and {len(named) - MOST_NAMED} more"] if len(named) > MOST_NAMED else []
    return [f"New code from {directory}: {count_changes(found)}", *named[:MOST_NAMED], *more]
