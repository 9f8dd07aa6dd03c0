"""`ugro metrics`: what a job's training reports, as a table, as curves, as CSV or JSON."""

from __future__ import annotations

import click

from ugro.cli.app import App, Whole, attempt_option, command, json_option
from ugro.cli.complete import complete_job
from ugro.cli.output import console, print_hanging, print_json, terminal_width
from ugro.cli.render.metrics import as_csv, head, print_curve, print_tried, series_grid
from ugro.cli.several import one_job
from ugro.common.models.metrics import Axis
from ugro.common.text import some
from ugro.service.schemas.metrics import Metrics, TryPattern

WIDTH = 80
"""Cells of a curve that no terminal shows."""


@command()
@click.argument("job", required=False, shell_complete=complete_job)
@click.argument("names", nargs=-1, metavar="[SERIES]...")
@click.option("--x", "axis", type=click.Choice([axis.value for axis in Axis]), default=Axis.STEP.value,
              show_default=True, help="What x is: the step, the time, or the time since the first start.")  # fmt: skip
@click.option("--try", "pattern", metavar="REGEX",
              help="Show what a pattern of a job file reads in a log: `ugro metrics --try REGEX FILE`.")  # fmt: skip
@click.option("--log", is_flag=True, help="Draw values on a logarithmic axis.")
@click.option("--csv", "as_table", is_flag=True, help="Print every point as CSV.")
@click.option("--points", type=Whole(min=1, max=100_000), metavar="N",
              help="With --json or --csv: thin each series to what a chart N pixels wide shows.")  # fmt: skip
@attempt_option
@json_option
def metrics(
    app: App,
    job: str | None,
    names: tuple[str, ...],
    axis: str,
    pattern: str | None,
    log: bool,
    as_table: bool,
    points: int | None,
    attempt: int | None,
    as_json: bool,
) -> None:
    """Show the training curves of a job: loss, learning rate and other series.

    They are read from the job's logs and files; the script stays as it is. SERIES is a name, or a pattern like 'eval*'.
    By default every series of the job that was submitted last is listed, and the loss is drawn.

    REGEX is a regular expression of Python. Its named groups are series; 'step' and 'epoch' say where:
    'at (?P<step>\\d+): (?P<loss>\\S+)'. One that can take exponential time is refused.
    """
    if pattern is not None:
        if job is None:
            raise click.UsageError("--try reads a log: `ugro metrics --try REGEX FILE`", click.get_current_context())
        tried = app.call(TryPattern(pattern=pattern, path=job))
        print_json(tried.as_json()) if as_json else print_tried(tried)
        return
    job = one_job(app, "metrics", job, as_json or as_table)
    screen = terminal_width() or WIDTH
    pixels = points if as_json or as_table else 2 * screen
    attempts = (attempt,) if attempt else ()
    answer = app.call(Metrics(job=job, names=names, x=Axis(axis), pixels=pixels, attempts=attempts))
    if as_json:
        print_json(answer.as_json())
        return
    if as_table:
        click.echo(as_csv(answer), nl=False)
    elif answer.series:
        if line := head(answer):
            console().print(line)
        series_grid(answer.series).print()
        for one in answer.series if names else answer.series[:1]:
            click.echo()
            print_curve(one, answer.x, screen, log)
    if answer.hint:
        print_hanging("", f"{answer.id} has no series: {answer.hint}", err=True)
    if answer.reading:
        print_hanging("", f"more of its logs is still to be read: run `ugro metrics {answer.id}` again", err=True)
    if answer.dropped:
        print_hanging("", f"dropped beyond the most series of a job: {some(list(answer.dropped))}", err=True)
