"""Prints the interpreters of a node."""

from __future__ import annotations

import click
from rich.text import Text

from ugro.cli.output import console, print_hanging, table
from ugro.common.text import count, printable
from ugro.service.schemas.node_python import InterpreterDocument, MadePythonDocument, NodePythonDocument


def print_pythons(found: NodePythonDocument) -> None:
    """Print each interpreter that has torch or is configured, the number of others, and which one to take."""
    shown = [one for one in found.interpreters if one.torch or one.source in ("configured", "ugro")]
    made = table("", "PYTHON", "TORCH", "CUDA", "ON " + found.node)
    for one in sorted(shown, key=lambda one: one.path != found.taken):
        sign = Text("✓", "green") if one.usable else Text("✗", "bold red")
        made.add_row(sign, printable(one.version or "-"), one.torch or "-", one.cuda or "-", printable(one.path))
        if not one.usable:
            made.add_row("", "", "", "", Text(printable(one.reason), "dim"))
    if shown:
        console().print(made)
    if others := len(found.interpreters) - len(shown):
        also = "more" if shown else "found"
        click.secho(f"{count(others, 'interpreter')} {also} without a torch that works", dim=True)
    if not any(one.source == "configured" for one in found.interpreters):
        print_hanging("", f"the inventory names {printable(found.configured)}, which is not there", fg="yellow")
    if found.more or not found.complete:
        left = count(found.more, "interpreter") if found.more else "some"
        click.echo(f"{left} not tried: there are too many, or the answer took too long", err=True)
    _advise(found)


def _advise(found: NodePythonDocument) -> None:
    taken = next((one for one in found.interpreters if one.path == found.taken), None)
    if taken is None:
        print_hanging("", f"no interpreter on {found.node} can train. Make one: ugro node python {found.node} --make")
    elif taken.source == "configured":
        print_hanging("", f"{found.node} trains with {printable(taken.path)}: {found.why}, and {taken.reason}")
    else:
        print_hanging("", f"take {printable(taken.path)}: {found.why}, and {printable(taken.reason)}")
        _print_setting(found.node, taken)


def _print_setting(node: str, taken: InterpreterDocument) -> None:
    print_hanging("", f"In the inventory, set for {node}:")
    click.echo(f"  python: {printable(taken.path)}")


def print_made(made: MadePythonDocument) -> None:
    """Print the environment that was made, and what to do with it."""
    one = made.python
    if not one.usable:
        print_hanging("", f"{printable(one.path)} was made and cannot train: {printable(one.reason)}", fg="red")
        return
    words = f"{printable(one.path)} was made, with torch {one.torch}: {printable(one.reason)}"
    print_hanging("", words)
    _print_setting(made.node, one)
