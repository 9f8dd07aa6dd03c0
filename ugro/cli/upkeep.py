"""Commands that look after the state directory: state, gc."""

from __future__ import annotations

import shlex
import time

import click

from ugro.cli.app import App, command, json_option
from ugro.cli.output import print_json, print_unreadable, unreadable_document
from ugro.common.errors import EXIT_OK, EXIT_STATE, InputError
from ugro.common.text import printable, size
from ugro.common.units import parse_duration
from ugro.control_plane.metadata_store.retention import STRAY_AFTER, prunable, prune, remove_stray, strays


@click.group()
def state() -> None:
    """Look after UGRO's own records."""


@command()
@json_option
def rebuild(app: App, as_json: bool) -> int:
    """Make the indexes of jobs anew from the jobs' folders, which are their truth.

    Jobs whose record cannot be read are named, and exit code 4 tells of them once the others are indexed. A broken
    cluster.json is kept, and its copy of before its last change is taken. Damaged rows of it are put aside in
    cluster.json.aside; those that you corrected there are taken back.
    """
    with app.store.lock():
        live, ended, unreadable, mended = app.store.rebuild()
    if as_json:
        broken = [unreadable_document(error) for error in unreadable]
        print_json({"live": live, "ended": ended, "unreadable": broken, "mended": mended})
    else:
        for words in mended:
            click.echo(printable(words))
        click.echo(f"indexed {live} live and {ended} ended jobs of {app.store.home}")
        print_unreadable(unreadable)
    return EXIT_STATE if unreadable else EXIT_OK


state.add_command(rebuild)


@command()
@click.option(
    "--older-than", default="30d", show_default=True, metavar="TIME", help="Only jobs that ended before that."
)
@click.option("--delete", is_flag=True, help="Do it. Without this, only what would go is shown.")
@json_option
def gc(app: App, older_than: str, delete: bool, as_json: bool) -> None:
    """Remove the master's copies of old jobs' logs, and files that killed commands left half written.

    Records, specs, events and code stay.
    """
    try:
        before = time.time() - parse_duration(older_than)
    except ValueError as error:
        raise InputError(f"--older-than {older_than!r}: {error}") from None
    with app.store.lock():
        found, temporary = prunable(app.store, before), strays(app.store, time.time() - STRAY_AFTER)
        if delete:
            for job in found:
                prune(app.store, job)
            for path in temporary:
                remove_stray(path)
    total = sum(job.bytes for job in found)
    if as_json:
        jobs = [{"id": job.id, "bytes": job.bytes} for job in found]
        print_json({"deleted": delete, "bytes": total, "jobs": jobs, "temporary": [str(path) for path in temporary]})
        return
    do_it = f"ugro gc --older-than {shlex.quote(older_than)} --delete"
    for job in found:
        click.echo(f"{job.id}  {size(job.bytes / 2**20)}")
    for path in temporary:
        click.echo(f"{path}, half written, {'is gone' if delete else f'would go: {do_it}'}")
    if not found:
        click.echo(f"no logs of jobs that ended more than {older_than} ago")
    else:
        logs = f"{size(total / 2**20)} of logs"
        click.echo(f"{logs} are gone" if delete else f"{logs} would go: {do_it}")
