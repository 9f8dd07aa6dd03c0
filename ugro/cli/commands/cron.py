"""`ugro cron`: the sweep in the user's own crontab, between two marker lines. No other line is touched."""

from __future__ import annotations

import os

import click

from ugro.cli.app import App, Whole, command, json_option
from ugro.cli.output import print_json
from ugro.common.text import printable
from ugro.service.schemas.crontab import InstallSweep, RemoveSweep, ShowSweep


@click.group()
def cron() -> None:
    """Run `ugro sweep` from your crontab: install, remove, show.

    Jobs are then scheduled, watched and recovered every minute or so without `ugro serve`.
    """


@command()
@click.option(
    "--every", type=Whole(1, 59), default=1, show_default=True, metavar="MINUTES", help="Minutes between sweeps."
)
@json_option
def install(app: App, every: int, as_json: bool) -> None:
    """Add the sweep to your crontab, or replace it. Other lines are not changed."""
    done = app.call(InstallSweep(every=every))
    if as_json:
        print_json(done.as_json())
    else:
        told = "added to your crontab" if done.changed else "your crontab has it already"
        click.echo("\n".join([f"{told}:", *done.lines]))
    if "SSH_AUTH_SOCK" in os.environ:
        click.echo("note: cron has no ssh-agent: the nodes must be reached with a key that needs none", err=True)


@command()
@json_option
def remove(app: App, as_json: bool) -> None:
    """Remove the sweep from your crontab. Other lines are not changed."""
    done = app.call(RemoveSweep())
    if as_json:
        print_json(done.as_json())
        return
    click.echo("removed from your crontab" if done.changed else "it is not in your crontab; nothing to do")


@command()
@json_option
def show(app: App, as_json: bool) -> None:
    """Show UGRO's lines of your crontab."""
    found = app.call(ShowSweep())
    if as_json:
        print_json(found.as_json())
    elif found.lines:
        click.echo("\n".join(map(printable, found.lines)))
    else:
        click.echo("UGRO has nothing in your crontab: `ugro cron install` adds the sweep")


for _part in (install, remove, show):
    cron.add_command(_part)
