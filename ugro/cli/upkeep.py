"""Commands that look after the state directory: state, gc."""

from __future__ import annotations

import time

import click

from ugro.cli.app import App, command, json_option
from ugro.cli.output import print_json
from ugro.common.errors import InputError
from ugro.common.text import size
from ugro.common.units import parse_duration
from ugro.control_plane.metadata_store.retention import prunable, prune


@click.group()
def state() -> None:
    """Look after UGRO's own records."""


@command()
@json_option
def rebuild(app: App, as_json: bool) -> None:
    """Make the indexes of jobs anew from the jobs' folders, which are their truth."""
    with app.store.lock():
        live, ended = app.store.rebuild()
    if as_json:
        print_json({"live": live, "ended": ended})
    else:
        click.echo(f"indexed {live} live and {ended} ended jobs of {app.store.home}")


state.add_command(rebuild)


@command()
@click.option(
    "--older-than", default="30d", show_default=True, metavar="TIME", help="Only jobs that ended before that."
)
@click.option("--delete", is_flag=True, help="Do it. Without this, only what would go is shown.")
@json_option
def gc(app: App, older_than: str, delete: bool, as_json: bool) -> None:
    """Remove the master's copies of old jobs' logs. Records, specs, events and code stay."""
    try:
        before = time.time() - parse_duration(older_than)
    except ValueError as error:
        raise InputError(f"--older-than {older_than!r}: {error}") from None
    with app.store.lock():
        found = prunable(app.store, before)
        if delete:
            for job in found:
                prune(app.store, job)
    total = size(sum(job.bytes for job in found) / 2**20)
    if as_json:
        jobs = [{"id": job.id, "bytes": job.bytes} for job in found]
        print_json({"deleted": delete, "bytes": sum(job.bytes for job in found), "jobs": jobs})
        return
    for job in found:
        click.echo(f"{job.id}  {size(job.bytes / 2**20)}")
    if not found:
        click.echo(f"no logs of jobs that ended more than {older_than} ago")
    else:
        click.echo(f"{total} of logs are gone" if delete else f"{total} of logs would go: ugro gc --delete")
