"""Name and create the files of a sandbox. Keys and homes stay from one run to the next."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

import ugro
from ugro.common.errors import InputError
from ugro.sandbox.machines import MACHINES

PACKAGE_ROOT = Path(ugro.__file__).parents[1]

NVIDIA_SMI = (
    "import sys; sys.path.append(sys.argv[1]); from ugro.sandbox.nvidia_smi import main; sys.exit(main(*sys.argv[2:]))"
)
"""Imported, not run as a file, so that its compiled form is kept; isolated, so that no module in the way is taken."""

Where = Mapping[str, tuple[str, int]]
"""Address and port of each node."""


@dataclass(frozen=True)
class Files:
    """The only place that knows the names of a sandbox's files."""

    root: Path

    @property
    def inventory(self) -> Path:
        """The inventory that UGRO reads."""
        return self.root / "inventory.yaml"

    @property
    def ssh_config(self) -> Path:
        """The configuration for `ssh -F …/ssh_config gpu1`."""
        return self.root / "ssh_config"

    @property
    def client_key(self) -> Path:
        """The one key that may log in."""
        return self.root / "client_key"

    @property
    def known_hosts(self) -> Path:
        """The nodes' host keys, with their ports."""
        return self.root / "known_hosts"

    @property
    def gpus(self) -> Path:
        """The UUIDs of the GPUs."""
        return self.root / "gpus.json"

    @property
    def state(self) -> Path:
        """UGRO_HOME of the sandbox."""
        return self.root / "state"

    @property
    def daemon(self) -> Path:
        """The daemon's record: pid and ports; only while it runs."""
        return self.root / "daemon.json"

    @property
    def unplugged(self) -> Path:
        """The nodes that the daemon has to take off the network."""
        return self.root / "unplugged.json"

    @property
    def log(self) -> Path:
        """The daemon's log since its last start."""
        return self.root / "daemon.log"

    @property
    def lock(self) -> Path:
        """Held by the process that starts or stops the sandbox."""
        return self.root / "lock"

    def home(self, node: str) -> Path:
        """A node's home folder."""
        return self.root / "home" / node

    def programs(self, node: str) -> Path:
        """The folder that is first on a node's PATH."""
        return self.root / "bin" / node

    def host_key(self, node: str) -> Path:
        """A node's private host key."""
        return self.root / "host_keys" / node

    def samples(self, node: str) -> Path:
        """The last CPU times sampled by a node's nvidia-smi."""
        return self.root / "bin" / node / "samples"


def check_root(root: Path) -> None:
    """Check that every file can contain the folder's name.

    Raises:
        InputError: ssh_config has no way to write `%` or `${`, PATH none to write `:`.
    """
    if found := re.search(r"[\x00-\x1f\x7f%:]|\$\{", str(root)):
        raise InputError(
            f"the sandbox cannot live in {str(root)!r}: {found.group()!r} cannot be written in ssh_config or PATH",
            "choose another folder",
        )


def prepare(files: Files) -> None:
    """Create missing keys, homes and GPUs, and each node's nvidia-smi.

    Raises:
        OSError: a file cannot be written.
    """
    kept = json.loads(files.gpus.read_text()) if files.gpus.exists() else {}
    gpus = {machine.node: kept.get(machine.node, f"GPU-{uuid.uuid4()}") for machine in MACHINES}
    write(files.gpus, json.dumps(gpus, indent=2) + "\n")
    _make_key(files.client_key)
    files.state.mkdir(mode=0o700, exist_ok=True)
    for node, gpu in gpus.items():
        _make_key(files.host_key(node))
        files.home(node).mkdir(mode=0o700, parents=True, exist_ok=True)
        known = PACKAGE_ROOT, files.root, node, gpu, files.samples(node)
        command = shlex.join([sys.executable, "-I", "-S", "-c", NVIDIA_SMI, *map(str, known)])
        write(files.programs(node) / "nvidia-smi", f'#!/bin/sh\nexec {command} "$@"\n', mode=0o755)


def write_connections(files: Files, where: Where) -> None:
    """Write what clients read: inventory, ssh_config and known_hosts.

    Raises:
        OSError: a file cannot be written.
    """
    defaults = {"python": sys.executable, "ssh_config": str(files.ssh_config), "base_dir": "~/.ugro"}
    nodes = {node: {"address": address, "port": port} for node, (address, port) in where.items()}
    inventory = {"defaults": {**defaults, "script": "train_production.py"}, "nodes": nodes}
    text = yaml.safe_dump(inventory, sort_keys=False, allow_unicode=True)
    write(files.inventory, f"# The UGRO sandbox. Written each time it starts.\n{text}")
    write(files.ssh_config, _ssh_config(files, where))
    import asyncssh  # here, since commands that only find the sandbox start sooner without it

    keys = {node: asyncssh.read_private_key(files.host_key(node)).export_public_key().decode() for node in where}
    write(files.known_hosts, "".join(f"[{address}]:{port} {keys[node]}" for node, (address, port) in where.items()))


def user() -> str:
    """Return the login name: the user of this process."""
    return psutil.Process().username()


def write(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file completely or not at all.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.touch(mode=mode)
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _make_key(path: Path) -> None:
    import asyncssh

    if not path.exists():
        write(path, asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode())


def _ssh_config(files: Files, where: Where) -> str:
    blocks = [
        f"Host {node} {address}\n    HostName {address}\n    Port {port}\n" for node, (address, port) in where.items()
    ]
    common = {
        "User": user(),
        "IdentityFile": _quoted(files.client_key),
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": _quoted(files.known_hosts),
    }
    return "\n".join([*blocks, "Host *\n" + "".join(f"    {key} {value}\n" for key, value in common.items())])


def _quoted(path: Path) -> str:
    """Return a path in quotes that ssh and asyncssh read alike."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
