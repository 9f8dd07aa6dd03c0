"""`ugro trust`: records a node's host keys once the user has agreed to the fingerprint."""

from __future__ import annotations

import click

from ugro.cli.app import App, command
from ugro.cli.complete import complete_node
from ugro.cli.prompts import answers
from ugro.common.text import printable
from ugro.service.schemas.trust import PlanTrust, Trust


@command()
@click.argument("node", shell_complete=complete_node)
@click.option("--fingerprint", metavar="SHA256:…", help="Record the keys without asking if one has this fingerprint.")
@click.option("--replace", is_flag=True, help="Replace the recorded key, e.g. after a reinstallation.")
def trust(app: App, node: str, fingerprint: str | None, replace: bool) -> None:
    """Show a node's host keys and record them once you agree.

    Compare the fingerprint with the output on the machine itself:

    \b
    ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub
    """
    plan = app.call(PlanTrust(node=node, replace=replace))
    if plan.trusted:
        prints = ", ".join(dict.fromkeys(key.fingerprint for key in plan.keys))
        click.echo(f"{node} is trusted already: {plan.path} has {prints}")
        return
    for key in plan.keys:
        click.echo(f"{node} ({plan.address}) offers {printable(key.algorithm)} {key.fingerprint}")
    said = answers(plan.questions) if fingerprint is None else {}
    done = app.call(Trust(plan=plan, answers=said, fingerprint=fingerprint))
    click.echo(f"recorded in {done.path} as {done.known_as}")
