"""rsync over its own SSH connection, with the settings that the node's transport has."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from ugro.common.config import NodeConfig
from ugro.common.text import printable
from ugro.nodes.transport import LocalTransport, Transport

READ_SIZE = 64 * 1024
_PROGRESS = re.compile(rb"(\d+) +\d+%")


def usable(transport: Transport) -> bool:
    """Whether this machine can reach the node with rsync; whether the node has it is for the node to say."""
    return not isinstance(transport, LocalTransport) and bool(shutil.which("rsync") and shutil.which("ssh"))


def ssh_command(node: NodeConfig) -> list[str]:
    """The OpenSSH client with a node's settings. It asks nothing, and trusts no key that is not known."""
    config = os.path.expanduser(node.ssh_config)
    command = ["ssh", *(("-F", config) if os.path.exists(config) else ())]
    # A master connection started here would live on and hold our pipes open; one that runs already is used.
    for option in ("BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=8", "ControlMaster=no"):
        command += ["-o", option]
    command += ["-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"]
    if node.port:
        command += ["-p", str(node.port)]
    if node.identity_file:
        command += ["-i", os.path.expanduser(node.identity_file), "-o", "IdentitiesOnly=yes"]
    if node.user:
        command += ["-l", node.user]
    return command


def rsync_command(node: NodeConfig, snapshot: Path, tree: str, sources: Sequence[str]) -> list[str]:
    """Sends the files named on stdin into `tree`, and of a file that `sources` have in another version what differs.

    Without --ignore-times a source file of the same size and second would be taken for the wanted one.
    """
    host = f"[{node.address}]" if ":" in node.address and not node.address.startswith("[") else node.address
    return [
        "rsync",
        "--protect-args",
        "--rsh",
        shlex.join(ssh_command(node)),
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
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin and process.stdout and process.stderr
    # "./": a name that begins with # or ; would be a comment, even with --from0.
    listing = b"".join(b"./" + os.fsencode(name) + b"\0" for name in names)
    try:
        async with asyncio.timeout(seconds):
            _, _, complaint = await asyncio.gather(
                _write(process.stdin, listing), _follow(process.stdout, on_bytes), process.stderr.read()
            )
            status = await process.wait()
    except TimeoutError:
        return f"it took longer than {seconds:.0f} s"
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    said = complaint.decode("utf-8", "replace").strip().splitlines()
    return f"exit {status}: {printable(said[0]) if said else 'no message'}" if status else ""


async def _write(stdin: asyncio.StreamWriter, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        stdin.write(data)
        await stdin.drain()
    stdin.close()


async def _follow(stdout: asyncio.StreamReader, on_bytes: Callable[[int], None]) -> None:
    while chunk := await stdout.read(READ_SIZE):
        if done := _PROGRESS.findall(chunk):
            on_bytes(int(done[-1]))
