"""`ugro sandbox`: runs a simulated cluster of three nodes on this machine."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from ugro.cli.app import json_option
from ugro.cli.output import print_json
from ugro.cli.whence import as_called, leave_sandbox
from ugro.common.locations import ugro_home
from ugro.sandbox.cluster import Sandbox, SandboxStatus
from ugro.sandbox.shell import is_sandbox

directory_option = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    envvar="UGRO_SANDBOX_DIR",
    help="Folder of the sandbox. Default: $UGRO_SANDBOX_DIR or $UGRO_HOME/sandbox.",
)


@click.group()
def sandbox() -> None:
    """Run a simulated cluster of three nodes, without hardware.

    The nodes (5070 Ti, 4070, 3070 Ti) are on loopback, with real SSH, torchrun, and DDP over gloo. Only nvidia-smi is
    simulated. It reports the processes that really run.
    """


def _sandbox(directory: Path | None) -> Sandbox:
    return Sandbox((directory or ugro_home() / "sandbox").absolute())


@sandbox.command()
@directory_option
def up(directory: Path | None) -> None:
    """Start the sandbox and print the next commands."""
    cluster = _sandbox(directory)
    cluster.up()
    _show(cluster.status())
    where = f" --dir {shlex.quote(str(directory))}" if directory else ""
    called = as_called()
    click.echo(f'\nUse it in this shell:  eval "$({called} sandbox env{where})"')
    click.echo(f"Stop it:               {called} sandbox down{where}")


@sandbox.command()
@directory_option
def down(directory: Path | None) -> None:
    """Stop the sandbox and everything that runs in it. Its files stay."""
    cluster = _sandbox(directory)
    running = cluster.status().running
    cluster.down()
    click.echo("the sandbox is stopped" if running else "the sandbox was not running")
    if is_sandbox(cluster.inventory):
        click.echo(f"This shell still points to it; to use your own machines again: {leave_sandbox()}")


@sandbox.command()
@directory_option
@json_option
def status(directory: Path | None, as_json: bool) -> None:
    """Show whether the sandbox runs, and its nodes."""
    found = _sandbox(directory).status()
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _show(found)


@sandbox.command()
@directory_option
@click.option("--unset", is_flag=True, help="Print the commands that leave the sandbox.")
def env(directory: Path | None, unset: bool) -> None:
    """Print the variables that point UGRO to the sandbox, for eval."""
    variables = _sandbox(directory).environment()
    if unset:
        click.echo(f"unset {' '.join(variables)}")
        return
    for key, value in variables.items():
        click.echo(f"export {key}={shlex.quote(value)}")


def _show(found: SandboxStatus) -> None:
    click.echo(f"sandbox in {found.root}: {f'running (pid {found.pid})' if found.running else 'not running'}")
    for node in found.nodes:
        port = f":{node.port}" if node.port else ""
        click.echo(f"  {node.name:<12} {node.address}{port}  {node.gpu}")
