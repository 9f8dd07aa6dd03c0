"""`ugro trust`: a node's host key is recorded when a person has seen its fingerprint and agreed."""

from __future__ import annotations

import click

from ugro.cli.app import App, command
from ugro.cli.complete import complete_node
from ugro.cli.prompts import answers
from ugro.common.text import printable
from ugro.service.schemas.trust import PlanTrust, Trust


@command()
@click.argument("node", shell_complete=complete_node)
@click.option("--fingerprint", metavar="SHA256:…", help="Agree without being asked, if one of its keys has this one.")
@click.option("--replace", is_flag=True, help="Replace the key on record, e.g. after the machine was reinstalled.")
def trust(app: App, node: str, fingerprint: str | None, replace: bool) -> None:
    """Show the host keys of NODE and record them once you agree.

    Compare the fingerprint with what the machine itself says: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub
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
