"""`ugro extend`: more time for a job that has a time limit."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace

import click

from ugro.cli.app import App, command, json_option, span_option
from ugro.cli.several import Did, JobChoice, choose, jobs_arguments
from ugro.common.text import duration, moment, printable
from ugro.common.units import parse_duration
from ugro.service.schemas.time_limits import Extend, ExtendedDocument
from ugro.service.words import title


@command(name="extend")
@jobs_arguments("JOB... [TIME]")
@click.option(
    "--to", "total", metavar="TIME", callback=span_option, help="New time limit, counted from the start of the job: 6h."
)
@json_option
def extend_(app: App, choice: JobChoice, total: float | None, as_json: bool) -> int:
    """Extend a job's time limit.

    JOB is an id, a name or a pattern like 'lr-*' of jobs that wait or run. TIME is added to its limit: 1h, 90
    (minutes), 1:30:00. The nodes enforce the limit. An unreachable node gets the new one from the next scheduling
    pass.
    """
    if total is None:
        choice, seconds = _without_time(choice)
    else:
        _refuse_time(choice)
        seconds = total

    def one(job: str) -> Did:
        extended = app.call(Extend(job=job, seconds=seconds, add=total is None))
        if not as_json:
            _tell_pending(extended)
        return extended.as_json(), _in_words(extended)

    return choose(app, "extend", choice, as_json).each(one, as_json)


def _without_time(choice: JobChoice) -> tuple[JobChoice, float]:
    """Take the time off the end of what was typed."""
    *jobs, last = choice.references or ("",)
    try:
        seconds = parse_duration(last, bare="m")
    except ValueError as error:
        if jobs:
            raise click.BadParameter(f"TIME: {last!r}: {error}") from None
        context = click.get_current_context()
        expected = "a TIME is expected: `ugro extend JOB 1h`, or `ugro extend JOB --to 6h`"
        raise click.UsageError(expected, context) from None
    return replace(choice, references=tuple(jobs)), seconds


def _refuse_time(choice: JobChoice) -> None:
    """Refuse a time beside --to, before any of the jobs is changed. A bare number is a job there."""
    *jobs, last = choice.references or ("",)
    if jobs and not last.isdecimal():
        with contextlib.suppress(ValueError):
            parse_duration(last)
            expected = "one TIME is expected: `ugro extend JOB 1h`, or `ugro extend JOB --to 6h`"
            raise click.UsageError(expected, click.get_current_context())


def _in_words(extended: ExtendedDocument) -> str:
    limit, before, start = extended.time_limit or 0.0, duration(extended.time_limit_before), extended.started_at
    until = f", until {moment(start + limit, time.time())} at the latest" if start is not None else ""
    return f"{title(extended)} may run for {duration(limit)} now, before it was {before}{until}"


def _tell_pending(extended: ExtendedDocument) -> None:
    before = duration(extended.time_limit_before)
    for pending in extended.pending:
        then = f"the next scheduling pass sends it (ugro sweep); until then {before} applies there"
        click.echo(f"{printable(pending.reason)}: recorded; {then}", err=True)
