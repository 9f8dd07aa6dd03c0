"""`ugro extend`: more time for a job that has a time limit."""

from __future__ import annotations

import time

import click

from ugro.cli.app import App, command, json_option, span_option
from ugro.cli.complete import complete_job
from ugro.cli.output import print_json
from ugro.common.text import duration, moment, printable
from ugro.service.schemas.time_limits import Extend
from ugro.service.words import title


@command(name="extend")
@click.argument("job", shell_complete=complete_job)
@click.argument("more", required=False, metavar="[TIME]", callback=span_option)
@click.option(
    "--to", "total", metavar="TIME", callback=span_option, help="New time limit, counted from the start of the job: 6h."
)
@json_option
def extend_(app: App, job: str, more: float | None, total: float | None, as_json: bool) -> None:
    """Extend a job's time limit.

    JOB is the id or name of a waiting or running job. TIME is added to its limit: 1h, 90 (minutes), 1:30:00. The nodes
    enforce the limit. An unreachable node gets the new one from the next scheduling pass.
    """
    seconds = more if total is None else total
    if seconds is None or (more is not None and total is not None):
        raise click.UsageError("one TIME is expected: `ugro extend JOB 1h`, or `ugro extend JOB --to 6h`")
    extended = app.call(Extend(job=job, seconds=seconds, add=total is None))
    if as_json:
        print_json(extended.as_json())
        return
    limit, before, start = extended.time_limit or 0.0, duration(extended.time_limit_before), extended.started_at
    until = f", until {moment(start + limit, time.time())} at the latest" if start is not None else ""
    click.echo(f"{title(extended)} may run for {duration(limit)} now, before it was {before}{until}")
    for pending in extended.pending:
        then = f"the next scheduling pass sends it (ugro sweep); until then {before} applies there"
        click.echo(f"{printable(pending.reason)}: recorded; {then}", err=True)
