"""`ugro cron`: the sweep in the user's own crontab, between two marker lines. No other line is touched."""

from __future__ import annotations

import os
import subprocess
import sys

import click

from ugro.cli.app import App, Whole, command, json_option
from ugro.cli.output import print_json
from ugro.common.errors import InputError
from ugro.common.text import printable
from ugro.service.crontab import crontab_program, edit, own_lines, read, sweep_line, text_of, with_block, without_block


@click.group()
def cron() -> None:
    """Let cron look after the jobs while nobody watches: `ugro sweep`, every minute or so."""


@command()
@click.option("--every", type=Whole(1, 59), default=1, show_default=True, metavar="MINUTES")
@json_option
def install(app: App, every: int, as_json: bool) -> None:
    """Add the sweep to your crontab, or replace what was added before. Every other line stays as it is."""
    if 60 % every:
        fitting = ", ".join(str(minutes) for minutes in range(1, 31) if 60 % minutes == 0)
        raise InputError(f"--every {every}: cron starts anew each hour, and 60 is no multiple of it", f"take {fitting}")
    crontab_program()
    home = app.store.home.absolute()
    line = sweep_line(every, sys.executable, app.inventory.path.absolute(), home)
    _try(sys.executable)
    changed = edit(home, lambda text: with_block(text, line))
    if as_json:
        print_json({"schema_version": 1, "changed": changed, "lines": [line]})
    else:
        click.echo(f"{'added to your crontab' if changed else 'your crontab has it already'}:\n{line}")
    if "SSH_AUTH_SOCK" in os.environ:
        click.echo("note: cron has no ssh-agent: the nodes must be reached with a key that needs none", err=True)


@command()
@json_option
def remove(app: App, as_json: bool) -> None:
    """Take the sweep out of your crontab. Every other line stays as it is."""
    changed = edit(app.store.home.absolute(), without_block)
    if as_json:
        print_json({"schema_version": 1, "changed": changed, "lines": []})
        return
    click.echo("taken out of your crontab" if changed else "it is not in your crontab; nothing to do")


@command()
@json_option
def show(app: App, as_json: bool) -> None:
    """Show what UGRO has in your crontab."""
    lines = [line.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for line in own_lines(read())]
    if as_json:
        print_json({"schema_version": 1, "installed": bool(lines), "lines": lines})
    elif lines:
        click.echo("\n".join(map(printable, lines)))
    else:
        click.echo("UGRO has nothing in your crontab: `ugro cron install` adds the sweep")


for _part in (install, remove, show):
    cron.add_command(_part)


def _try(python: str) -> None:
    """See that the line would work where nothing is set, as under cron.

    Raises:
        InputError: it would not.
    """
    bare = {"PATH": "/usr/bin:/bin", "HOME": os.path.expanduser("~")}
    done = subprocess.run([python, "-m", "ugro", "--help"], cwd="/", env=bare, capture_output=True, timeout=60)
    if done.returncode != 0:
        raise InputError(
            f"{python} -m ugro does not work outside of this shell: {printable(text_of(done.stderr).strip())[-200:]}",
            "install UGRO into that Python; cron knows no PYTHONPATH",
        )
