"""Commands about the machines of the inventory: node add, node remove, node rename."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TypedDict

import click

from ugro.cli.app import App, Whole, command, json_option
from ugro.cli.ask_login import LoginAnswers
from ugro.cli.complete import complete_node
from ugro.cli.main import report
from ugro.cli.output import print_hanging, print_json
from ugro.cli.prompts import answers
from ugro.common.errors import EXIT_NODES, EXIT_OK, UgroError
from ugro.common.text import count, printable
from ugro.service.schemas.first_contact import (
    AddedNode,
    AddNode,
    AddNodePlan,
    PlanAddNode,
    PlanRemoveNode,
    RemoveNode,
    RenameNode,
)

password_option = click.option(
    "--password-file",
    metavar="FILE",
    help="Read the password from the first line of this file; `-`: of stdin. Default: ask at the terminal.",
)
fingerprint_option = click.option(
    "--fingerprint", metavar="SHA256:…", help="Trust the machine without asking if a host key has this fingerprint."
)
links_option = click.option(
    "--links/--no-links", default=True, help="Measure the network between idle nodes. Default: do.", show_default=False
)


@command(name="add")
@click.argument("target", metavar="[NAME=][USER@]ADDRESS[:PORT]")
@click.option("--name", help="Name of the node. Default: of its host name; for an IP address the next gpuN.")
@click.option("--port", type=Whole(min=1, max=65535), help="Port of its sshd. Default: what ssh_config says, else 22.")
@click.option("--key", metavar="FILE", help="Private key to log in with. Default: what ssh_config says, else yours.")
@password_option
@fingerprint_option
@click.option("--follow-link", is_flag=True, help="Install the key also where ~/.ssh on the machine is a link.")
@links_option
@click.option(
    "--yes",
    is_flag=True,
    help="Do not ask: make a Python environment if none can train. The host key still needs --fingerprint.",
)
@json_option
def add_node(
    app: App,
    target: str,
    name: str | None,
    port: int | None,
    key: str | None,
    password_file: str | None,
    fingerprint: str | None,
    follow_link: bool,
    links: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Add a machine: host key, key login, check, inventory.

    Shows the host key's fingerprint and asks. Where your key does not log in: asks for the password once, installs your
    public key, and proves it by a new connection. Then finds the Python that can train there, checks the machine,
    measures links and adds its line to the inventory; every other byte of the file stays.

    Each step can be repeated: run the same command again after correcting what it reported. `ugro node remove` undoes
    all of it. Nothing runs as root there.

    \b
    Example: ugro node add ob@192.168.1.103 --name gpu3
    """
    app.answer_logins(LoginAnswers(password_file))
    plan = app.call(PlanAddNode(target=target, name=name, port=port, identity_file=key))
    settings = Settings(follow_link=follow_link or yes, make_python=yes, links=links)
    done = carry_out(app, plan, fingerprint, settings, ask=not (as_json or yes))
    if as_json:
        print_json(done.as_json())
    else:
        tell_added(done)


class Settings(TypedDict, total=False):
    """What a request to add a machine may say beside the plan."""

    follow_link: bool
    make_python: bool
    links: bool


def carry_out(app: App, plan: AddNodePlan, fingerprint: str | None, settings: Settings, ask: bool) -> AddedNode:
    """Show the host keys, ask about them, and add the machine."""
    if not plan.trusted and fingerprint is None and ask:
        for key in plan.keys:
            print_hanging("", f"{plan.node} ({plan.account}) offers {key.algorithm} {key.fingerprint}", err=True)
        click.echo("compare with the machine's own: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub", err=True)
    said = answers(plan.questions, ask=ask) if fingerprint is None else {}
    return app.call(AddNode(plan=plan, answers=said, fingerprint=fingerprint, **settings))


def add_all(app: App, targets: Sequence[str], ask: LoginAnswers, fingerprints: Sequence[str]) -> int:
    """Add machines one after the other; one that cannot be added stops no other. Return the exit code.

    The links are measured once, with the last one.
    """
    app.answer_logins(ask)
    failed: dict[str, int] = {}
    for number, target in enumerate(targets, 1):
        click.echo(f"{target} ({number} of {len(targets)})", err=True)
        try:
            plan = app.call(PlanAddNode(target=target))
            known = next((key.fingerprint for key in plan.keys if key.fingerprint in fingerprints), None)
            tell_added(carry_out(app, plan, known, Settings(links=number == len(targets)), ask=True))
        except UgroError as error:
            report(error.as_dict(), as_json=False)
            failed[target] = error.exit_code
    for target in failed:
        click.echo(f"not added; again: ugro node add {shlex.quote(target)}")
    if targets[-1] in failed:
        words = f"no link was measured, since {printable(targets[-1])} was not added; later: ugro check --network"
        print_hanging("", words)
    return max(failed.values(), default=EXIT_OK)


def tell_added(done: AddedNode) -> None:
    """Print what became of a machine."""
    wrong = [finding for finding in done.findings if finding.level in ("problem", "warning")]
    for finding in wrong:
        if finding.hint:
            print_hanging("  ", f"{finding.subject}: {finding.hint}")
    end = f", with {count(len(wrong), 'thing')} to correct; then: ugro check --on {done.node}" if wrong else ""
    print_hanging("", f"{done.node} is in {done.inventory}{end}")


@command(name="remove")
@click.argument("name", metavar="NODE", shell_complete=complete_node)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--takeover", is_flag=True, help="Also remove what another master has there.")
@json_option
def remove_node(app: App, name: str, yes: bool, takeover: bool, as_json: bool) -> int:
    """Remove a node: UGRO's folder and key there, its inventory entry.

    Removes the line of authorized_keys that `ugro node add` added, and no other. Refused while a job is on the node or
    waits for it by name. If the machine cannot be reached, its entry is removed, and what stays there is listed.
    """
    plan = app.call(PlanRemoveNode(node=name))
    given = {"takeover": True} if takeover else {}
    said = answers(plan.questions, given | ({"remove": True} if yes else {}), ask=not as_json)
    done = app.call(RemoveNode(plan=plan, answers=said))
    if as_json:
        print_json(done.as_json())
    else:
        click.echo(f"{name} was removed from {printable(done.inventory)}")
        for owed in done.owed:
            print_hanging("still there: ", owed)
    return EXIT_NODES if done.owed else EXIT_OK


@command(name="rename")
@click.argument("name", metavar="NODE", shell_complete=complete_node)
@click.argument("to", metavar="NEW_NAME")
@json_option
def rename_node(app: App, name: str, to: str, as_json: bool) -> None:
    """Give a node another name.

    Changes the name in the inventory and in what UGRO knows of the node: drain, last observation, history, links. Ended
    jobs keep the name that the node had. Refused while a job is on the node or waits for it by name.
    """
    done = app.call(RenameNode(node=name, to=to))
    if as_json:
        print_json(done.as_json())
        return
    also = f"; with it: {', '.join(done.moved)}" if done.moved else ""
    click.echo(f"{done.before} is {done.node} now in {printable(done.inventory)}{also}")
