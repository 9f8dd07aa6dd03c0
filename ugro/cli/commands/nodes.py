"""Commands about nodes."""

from __future__ import annotations

import click

from ugro.cli.app import App, command, json_option
from ugro.cli.output import print_json, wide_option
from ugro.cli.render.listings import nodes_grid
from ugro.service.schemas.queries import Nodes


@command()
@wide_option
@json_option
def nodes(app: App, wide: bool, as_json: bool) -> None:
    """The machines and their GPUs. What is not fresh is shown with its age."""
    shown = app.call(Nodes())
    if as_json:
        print_json([node.as_json() for node in shown.answer])
        return
    nodes_grid(shown.answer, shown.twins).print(wide)
    for node in shown.answer:
        if node.error and node.error.hint:
            click.echo(f"{node.name}: {node.error.hint}", err=True)
    if any(node.error for node in shown.answer):
        app.tell_inventory()
