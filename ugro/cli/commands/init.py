"""`ugro init`: a commented first inventory, from its arguments and what `~/.ssh/config` knows."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from ugro.cli.app import App, command
from ugro.cli.ask_login import LoginAnswers
from ugro.cli.commands.node import add_all, password_option
from ugro.cli.whence import leave_sandbox
from ugro.common.errors import EXIT_OK
from ugro.common.locations import chosen_inventory
from ugro.common.text import printable
from ugro.sandbox.shell import is_sandbox
from ugro.service.inventory import parse_host, write_inventory


@command()
@click.argument("machines", nargs=-1, metavar="[[NAME=][USER@]ADDRESS[:PORT]]...")
@click.option("--name", default=None, help="Name of this machine. Default: its host name.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("inventory.yaml"), show_default=True,
              help="Where to write it.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option(
    "--contact/--no-contact",
    default=None,
    help="Log in to each machine and add it as `ugro node add` does, or only write its line. Default: log in, at a "
    "terminal.",
    show_default=False,
)
@password_option
@click.option(
    "--fingerprint",
    "fingerprints",
    multiple=True,
    metavar="SHA256:…",
    help="Trust machines without asking whose host key has this fingerprint. May be repeated.",
)
def init(
    app: App,
    machines: tuple[str, ...],
    name: str | None,
    output: Path,
    force: bool,
    contact: bool | None,
    password_file: str | None,
    fingerprints: tuple[str, ...],
) -> int:
    """Write a first inventory, and add the machines to it.

    It has this machine, with its Python that has torch, and the hosts of ~/.ssh/config as comments. At a terminal each
    of the MACHINES is then added as `ugro node add` does: host key, key login, check. One that cannot be added stops no
    other. With `--no-contact` their lines are only written.

    \b
    Example: ugro init gpu1=ob@192.168.1.101 gpu2=ollie@192.168.1.102
    """
    contacts = machines if (sys.stdin.isatty() if contact is None else contact) else ()
    for machine in contacts:
        parse_host(machine)
    written = write_inventory(output, () if contacts else machines, name, force)
    instead = ", in place of the example that was there" if written.sample else ""
    click.echo(f"wrote {output} with {', '.join(written.names)}{instead}")
    code = EXIT_OK
    if contacts:
        with App(str(output), True, app.log_level) as there:
            code = add_all(there, contacts, LoginAnswers(password_file), fingerprints)
    else:
        first = (
            "; ".join(f"ugro trust {host}" for host in written.names[1:]) or "add machines: ugro node add USER@ADDRESS"
        )
        click.echo(f"  check it, then: {first}; ugro check")
    _tell_what_counts_instead(output)
    return code


def _tell_what_counts_instead(written: Path) -> None:
    """Warn where the variables of this shell lead commands to another inventory or state directory."""
    path, source = chosen_inventory(None)
    if path.resolve() != written.resolve() and source == "$UGRO_INVENTORY":
        leave = leave_sandbox() if is_sandbox(path) else "unset UGRO_INVENTORY"
        click.echo(f"but this shell uses {printable(str(path))} ({source}); to use the new one: {leave}", err=True)
    elif home := os.environ.get("UGRO_HOME"):
        click.echo(f"state directory: {home} ($UGRO_HOME)", err=True)
