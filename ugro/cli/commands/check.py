"""`ugro check`: checks all nodes for what would break a training."""

from __future__ import annotations

import click

from ugro.cli.app import App, command, json_option
from ugro.cli.complete import nodes_option
from ugro.cli.output import print_json
from ugro.cli.render.check import print_check
from ugro.common.errors import EXIT_JOB_FAILED, EXIT_NODES, EXIT_OK
from ugro.service.schemas.check import Check, CheckDocument


@command()
@nodes_option
@click.option("--network", is_flag=True, help="Also measure every network link, and an all-reduce over all nodes.")
@json_option
def check(app: App, names: str | None, network: bool, as_json: bool) -> int:
    """Check all nodes for what would break a training.

    Nothing is changed on the nodes. The rates that --network measures are kept: a job gets the nodes with the fastest
    links among those that fit equally well.

    Exit code: 0 without problems, 1 with problems, 3 if a node is unreachable.
    """
    checked = app.call(Check(nodes=names, network=network))
    if as_json:
        print_json(checked.answer.as_json())
    else:
        print_check(checked)
    return _exit_code(checked.answer)


def _exit_code(found: CheckDocument) -> int:
    if any(node.error for node in found.nodes):
        return EXIT_NODES
    return EXIT_JOB_FAILED if any(finding.level == "problem" for finding in found.findings) else EXIT_OK
