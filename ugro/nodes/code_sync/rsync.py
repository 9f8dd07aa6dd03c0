"""rsync over its own SSH connection, with the settings that the node's transport has."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from ugro.common.config import NodeConfig
from ugro.common.text import printable
from ugro.nodes import children
from ugro.nodes.transport import LocalTransport, Transport
from ugro.nodes.transport.ssh_config import SshSettings, config_arguments

READ_SIZE = 64 * 1024
_PROGRESS = re.compile(rb"(\d+) +\d+%")


def usable(transport: Transport) -> bool:
    """Whether this machine can reach the node with rsync; whether the node has it is for the node to say."""
    return not isinstance(transport, LocalTransport) and bool(shutil.which("rsync") and shutil.which("ssh"))


STRICT = ("BatchMode=yes", "StrictHostKeyChecking=yes")
"""It asks nothing, and trusts no key that is not known; a jump host's no more than the node's."""

OWN = {
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "SessionType": "default",
    "StdinNull": "no",
    "ForkAfterAuthentication": "no",
    "PermitLocalCommand": "no",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "Tunnel": "no",
    "ClearAllForwardings": "yes",
    "KnownHostsCommand": "none",
    "VerifyHostKeyDNS": "no",
    "NoHostAuthenticationForLocalhost": "no",
    "UpdateHostKeys": "no",
}
"""What the transport does not do either, whatever ssh_config says. An older ssh does not know all of them."""


def ssh_command(node: NodeConfig, route: Sequence[SshSettings] = ()) -> list[str]:
    """The OpenSSH client with a node's settings, on the way that its transport takes."""
    last = route[-1] if route else SshSettings(node.address, node.address, {})
    command = ["ssh", *config_arguments(node), *_options(*STRICT)]
    # A master connection started here would live on and hold our pipes open; one that runs already is used.
    command += _options(f"ConnectTimeout={last.get('connecttimeout') or 8}", "ControlMaster=no")
    command += _options("ServerAliveInterval=5", "ServerAliveCountMax=3", *_own(last))
    if jumps := route[:-1]:
        command += _options(f"ProxyCommand={_through(jumps)}")
    if node.port:
        command += ["-p", str(node.port)]
    if node.identity_file:
        command += ["-i", os.path.expanduser(node.identity_file), "-o", "IdentitiesOnly=yes"]
    if node.user:
        command += ["-l", node.user]
    return command


def _options(*options: str) -> list[str]:
    return [word for option in options for word in ("-o", option)]


def _own(settings: SshSettings) -> list[str]:
    return [f"{name}={value}" for name, value in OWN.items() if settings.all(name.lower())]


def _through(jumps: Sequence[SshSettings]) -> str:
    """A ProxyCommand over these hosts. What ProxyJump starts would check their host keys as the file likes."""
    *before, last = jumps
    command = ["ssh", *last.arguments, *_options(*STRICT, *_own(last))]
    if before:
        command += _options(f"ProxyCommand={_through(before)}")
    return f"{shlex.join(command).replace('%', '%%')} -W '[%h]:%p' -- {shlex.quote(last.asked)}"


def rsync_command(
    node: NodeConfig, snapshot: Path, tree: str, sources: Sequence[str], route: Sequence[SshSettings] = ()
) -> list[str]:
    """Sends the files named on stdin into `tree`, and of a file that `sources` have in another version what differs.

    Without --ignore-times a source file of the same size and second would be taken for the wanted one.
    """
    host = f"[{node.address}]" if ":" in node.address and not node.address.startswith("[") else node.address
    return [
        "rsync",
        "--protect-args",
        "--rsh",
        shlex.join(ssh_command(node, route)),
        "--from0",
        "--files-from=-",
        "--ignore-times",
        # Not in the tree: what an rsync that broke off leaves would become part of the code.
        f"--temp-dir={os.path.dirname(tree)}",
        *(f"--copy-dest={source}" for source in sources),
        "--info=progress2",
        "--no-human-readable",
        f"{snapshot.resolve()}/",
        f"{host}:{tree}/",
    ]


async def send(command: Sequence[str], names: Sequence[str], on_bytes: Callable[[int], None], seconds: float) -> str:
    """Run rsync for at most `seconds`; `on_bytes` hears how many bytes are done. Returns why it failed, or ""."""
    # "./": a name that begins with # or ; would be a comment, even with --from0.
    listing = b"".join(b"./" + os.fsencode(name) + b"\0" for name in names)
    async with children.started(*command) as child:
        try:
            async with asyncio.timeout(seconds):
                _, _, complaint = await asyncio.gather(
                    children.give(child.stdin, listing), _follow(child.stdout, on_bytes), child.stderr.read()
                )
                status = await child.wait()
        except TimeoutError:
            return f"it took longer than {seconds:.0f} s"
    said = complaint.decode("utf-8", "replace").strip().splitlines()
    return f"exit {status}: {printable(said[0]) if said else 'no message'}" if status else ""


async def _follow(stdout: asyncio.StreamReader, on_bytes: Callable[[int], None]) -> None:
    while chunk := await stdout.read(READ_SIZE):
        if done := _PROGRESS.findall(chunk):
            on_bytes(int(done[-1]))
