"""`ugro top`: the cluster in the terminal, live."""

from __future__ import annotations

import sys
import time
from contextlib import closing

import click

from ugro.cli.app import App, command, json_option
from ugro.cli.output import print_json
from ugro.cli.render.grid import Column, Grid
from ugro.cli.terminal import is_dumb
from ugro.service.schemas.live import LiveSnapshot, LiveView, Watch


@command()
@click.option("--once", is_flag=True, help="Print it once, and end. So it does anyway where there is no terminal.")
@click.option("--readonly", is_flag=True, help="Offer nothing that changes anything.")
@click.option("--every", type=click.FloatRange(0.5, 60), default=2.0, show_default=True, metavar="SECONDS",
              help="Between two looks, where no resident controller runs.")  # fmt: skip
@json_option
def top(app: App, once: bool, readonly: bool, every: float, as_json: bool) -> None:
    """Watch nodes, GPUs and jobs, live.

    Keys sort and filter, follow the logs of a job, and cancel it after a question; ? lists them. The last line has the
    command that prints the same.
    """
    if as_json:
        print_json(_view(app).as_json())
    elif once or is_dumb() or not (sys.stdin.isatty() and sys.stdout.isatty()):
        _print_once(_view(app))
    else:
        from ugro.cli.top.asking import Asking
        from ugro.cli.top.screen import Top  # here, since its import takes long

        _ = app.backend  # what is to be noted of it is noted before the screen begins
        Top(Asking(app), every, readonly).run(mouse=False)


def _view(app: App) -> LiveView:
    with closing(app.stream(Watch())) as updates:
        first = next(updates)
    if not isinstance(first, LiveSnapshot):
        raise AssertionError("a watch begins with a snapshot")
    return first.data


def _print_once(view: LiveView) -> None:
    from ugro.cli.top.rows import GPU_COLUMNS, JOB_COLUMNS, Use, gpu_rows, job_rows, summary

    click.echo(summary(view))
    for titles, rows in ((GPU_COLUMNS, gpu_rows(view, Use())), (JOB_COLUMNS, job_rows(view, time.time()))):
        made = Grid(*(Column(title, 12 if title in ("NAME", "NODE", "NODES", "WHY") else None, leaves)
                      for leaves, title in enumerate(titles)))  # fmt: skip
        for row in rows:
            made.add(*row.texts())
        click.echo()
        made.print()
