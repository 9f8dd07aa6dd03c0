"""`ugro history`: shows the use of each GPU over the last hours."""

from __future__ import annotations

import time

import click

from ugro.cli.app import App, command, json_option, moment_option
from ugro.cli.complete import complete_node
from ugro.cli.output import PIPE_WIDTH, print_json, terminal_width, wide_option
from ugro.cli.render.history import history_grid
from ugro.service.schemas.history import History


@command()
@click.argument("names", nargs=-1, metavar="[NODE]...", shell_complete=complete_node)
@click.option(
    "--since",
    default="6h",
    show_default=True,
    callback=moment_option,
    metavar="TIME",
    help="Start: 2h (ago), 22:30, 2026-11-24.",
)
@wide_option
@json_option
def history(app: App, names: tuple[str, ...], since: float, wide: bool, as_json: bool) -> None:
    """Show the use of each GPU over the last hours.

    Shows utilization, memory, temperature, and the jobs or other programs that used the GPU. Default: all nodes.
    Scheduling passes (serve, sweep, a command that follows a job) record samples, also of idle GPUs.
    """
    past, now = app.call(History(nodes=names, since=since)).answer, time.time()
    if as_json:
        print_json([gpu.as_json() for gpu in past])
        return
    if not past:
        click.echo("no scheduling pass (ugro serve, ugro sweep) has observed a GPU since then", err=True)
        return
    screen = None if wide else terminal_width()
    history_grid(past, since, now, screen or PIPE_WIDTH).print(wide)
