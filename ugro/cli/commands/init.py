"""`ugro init`: a commented first inventory, from its arguments and what `~/.ssh/config` knows."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ugro.cli.app import App, command
from ugro.cli.whence import LEAVE_SANDBOX
from ugro.common.config import chosen_inventory
from ugro.common.text import printable
from ugro.sandbox.cluster import is_sandbox
from ugro.service.inventory import write_inventory


@command()
@click.argument("machines", nargs=-1, metavar="[[NAME=][USER@]ADDRESS[:PORT]]...")
@click.option("--name", default=None, help="Name of this machine. Default: its host name.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("inventory.yaml"), show_default=True,
              help="Where to write it.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace an existing file.")
def init(app: App, machines: tuple[str, ...], name: str | None, output: Path, force: bool) -> None:
    """Write a first inventory.

    It has this machine, the MACHINES given here, and the hosts of ~/.ssh/config as comments.

    \b
    Example: ugro init gpu1=ob@192.168.1.101 gpu2=ollie@192.168.1.102
    """
    written = write_inventory(output, machines, name, force)
    instead = ", in place of the example that was there" if written.sample else ""
    click.echo(f"wrote {output} with {', '.join(written.names)}{instead}")
    first = "; ".join(f"ugro trust {host}" for host in written.names[1:]) or "add your machines"
    click.echo(f"  check it, then: {first}; ugro check")
    _tell_what_counts_instead(output)


def _tell_what_counts_instead(written: Path) -> None:
    """Warn where the variables of this shell lead commands to another inventory or state directory."""
    path, source = chosen_inventory(None)
    if path.resolve() != written.resolve() and source == "$UGRO_INVENTORY":
        leave = LEAVE_SANDBOX if is_sandbox(path) else "unset UGRO_INVENTORY"
        click.echo(f"but this shell uses {printable(str(path))} ({source}); to use the new one: {leave}", err=True)
    elif home := os.environ.get("UGRO_HOME"):
        click.echo(f"state directory: {home} ($UGRO_HOME)", err=True)
