"""`ugro trust`: a node's host key is recorded when a person has seen its fingerprint and agreed."""

from __future__ import annotations

import asyncio
import sys

import asyncssh
import click

from ugro.cli.app import App, command
from ugro.cli.complete import complete_node
from ugro.common.config import NodeConfig
from ugro.common.errors import Declined, HostKeyChanged, InputError
from ugro.common.text import printable
from ugro.nodes.transport.host_keys import HostKeyCheck, record_host_keys, writable_known_hosts
from ugro.nodes.transport.link import open_link
from ugro.nodes.transport.ssh import limits
from ugro.nodes.transport.ssh_config import Settings


@command()
@click.argument("node", shell_complete=complete_node)
@click.option("--fingerprint", metavar="SHA256:…", help="Agree without being asked, if one of its keys has this one.")
@click.option("--replace", is_flag=True, help="Replace the key on record, e.g. after the machine was reinstalled.")
def trust(app: App, node: str, fingerprint: str | None, replace: bool) -> None:
    """Show the host keys of NODE and record them once you agree.

    Compare the fingerprint with what the machine itself says: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub
    """
    config = app.inventory.node(node)
    if config.local:
        raise InputError(f"{node} is this machine; there is no host key to trust")
    target, keys = asyncio.run(_fetch(config))
    check, path = HostKeyCheck(node, target, is_jump=False), writable_known_hosts(target)
    recorded = check.recorded
    if set(keys) & set(check.revoked):
        raise check.error("revoked")
    prints = {key.get_fingerprint(): key for key in keys}
    if set(prints) & {key.get_fingerprint() for key in recorded}:
        click.echo(f"{node} is trusted already: {path} has {', '.join(set(prints))}")
        return
    if recorded and not replace:
        old = ", ".join(key.get_fingerprint() for key in recorded)
        raise HostKeyChanged(
            node,
            f"the host key has changed: it offers {', '.join(prints)}, on record is {old}",
            f"if the machine was reinstalled: ugro trust {node} --replace",
        )
    for key in keys:
        click.echo(f"{node} ({config.address}) offers {printable(key.get_algorithm())} {key.get_fingerprint()}")
    _agree(node, set(prints), fingerprint)
    record_host_keys(path, target.known_as, keys, replace)
    click.echo(f"recorded in {path} as {target.known_as}")


async def _fetch(config: NodeConfig) -> tuple[Settings, list[asyncssh.SSHKey]]:
    link = await open_link(config, limits())
    return link.target, await link.host_keys()


def _agree(node: str, offered: set[str], fingerprint: str | None) -> None:
    if fingerprint is not None:
        if fingerprint not in offered:
            raise HostKeyChanged(node, f"no key it offers has the fingerprint {fingerprint}", "nothing was recorded")
        return
    if not sys.stdin.isatty():
        raise InputError(
            "nobody is there to agree", f"say which key is right: ugro trust {node} --fingerprint SHA256:…"
        )
    if not click.confirm("Is this what the machine itself says, and shall it be trusted?"):
        raise Declined(f"{node} is not trusted; nothing was recorded")
