"""Writes a first inventory, from a request and what `~/.ssh/config` knows."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ugro.common.errors import InputError
from ugro.common.fields import is_node_name
from ugro.common.files import write_atomic
from ugro.common.inventory_edit import Fields, node_line
from ugro.common.inventory_file import parse_inventory
from ugro.common.text import printable

SAMPLE_SHA256 = "1510402c588c23f2394f9aa158eca09c93bff7785ea7cd149dc21a719a58922b"
"""Of the inventory.yaml at the top of the repository: an example, which `init` replaces unless it was edited."""

PYTHON_SECONDS = 20.0
"""For an interpreter to say whether it has torch: its start from a cold disk takes that long."""

_NODE = re.compile(r"(?:(?P<name>[^=@]+)=)?(?:(?P<user>[^@=]+)@)?(?P<address>\[[^\]]+\]|[^@:=\s]+)(?::(?P<port>\d+))?")


@dataclass(frozen=True)
class NamedHost:
    """A machine as the person named it, or as a `Host` of the ssh configuration."""

    name: str
    address: str
    user: str | None = None
    port: int | None = None

    @property
    def line(self) -> str:
        """The node's line in the inventory."""
        fields: dict[str, str | int | None] = {"address": self.address, "user": self.user, "port": self.port}
        return _line(self.name, {key: value for key, value in fields.items() if value is not None})


def _line(name: str, fields: Fields) -> str:
    return f"  {node_line(name, fields)}"


@dataclass(frozen=True)
class Written:
    """An inventory that was written: the names of its nodes, this machine first. `sample`: it replaced the example."""

    names: tuple[str, ...]
    sample: bool


def write_inventory(output: Path, machines: Sequence[str], name: str | None = None, force: bool = False) -> Written:
    """Write a first inventory: this machine, `machines`, and as comments the hosts of `~/.ssh/config`.

    No request: the file and the ssh configuration are where the asker is. `name` is that of this machine; None: its
    host name. `force` replaces an inventory.

    Raises:
        InputError: there is an inventory, a name cannot be a node's, or the file cannot be written.
    """
    sample = is_sample(output)
    if output.exists() and not (force or sample):
        raise InputError(
            f"{output} is there already", "to add a machine: ugro node add USER@ADDRESS; to replace the file: --force"
        )
    own = name or _own_name()
    if not is_node_name(own):
        hint = "letters, digits, '.', '_' and '-'; neither a number alone nor 'all'"
        raise InputError(f"{printable(own)!r} is no name for a machine", hint)
    hosts = [parse_host(text) for text in machines]
    names = (own, *(host.name for host in hosts))
    if twice := {n for n in names if names.count(n) > 1}:
        raise InputError(f"{twice.pop()} is named twice", "give one of them another name: NAME=USER@ADDRESS")
    known = hosts_of_ssh_config(Path("~/.ssh/config").expanduser())
    suggested = [host for host in known if host.name not in names]
    text = draft(own, own_address(), hosts, suggested, own_python())
    parse_inventory(text, output)
    try:
        write_atomic(output, text)
    except OSError as error:
        raise InputError(f"{output} cannot be written: {error.strerror}") from None
    return Written(names, sample)


def is_sample(path: Path) -> bool:
    """Whether this is the example that UGRO's repository has, as it was."""
    try:
        return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest() == SAMPLE_SHA256
    except OSError:
        return False


def parse_host(text: str) -> NamedHost:
    """A machine from `[NAME=][USER@]ADDRESS[:PORT]`.

    Raises:
        InputError: it is written differently.
    """
    match = _NODE.fullmatch(text)
    name = match and (match["name"] or match["address"].strip("[]").replace(":", "-"))
    if not match or not name or not is_node_name(name):
        raise InputError(
            f"{printable(text)!r} names no machine",
            "write NAME=USER@ADDRESS:PORT, or any part of it: gpu1=ob@192.168.1.101; "
            "a name is neither a number nor 'all'",
        )
    return NamedHost(name, match["address"].strip("[]"), match["user"], int(match["port"]) if match["port"] else None)


def hosts_of_ssh_config(path: Path) -> list[NamedHost]:
    """The hosts that an ssh configuration names without wildcards. Their details stay there, where ssh reads them."""
    if not path.is_file():
        return []
    names: list[str] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        key, *values = line.replace("=", " ", 1).split() or [""]
        if key.lower() == "host":
            names += [value for value in values if is_node_name(value)]
    return [NamedHost(name, name) for name in dict.fromkeys(names)]


def own_addresses() -> list[str]:
    """The IPv4 addresses of this machine that others could reach."""
    import psutil

    found = [(name, one) for name, addresses in psutil.net_if_addrs().items() for one in addresses]
    return [
        str(one.address)
        for name, one in found
        if one.family == socket.AF_INET and not one.address.startswith("127.") and name != "docker0"
    ]


def own_address() -> str:
    """The first address of this machine that others could reach."""
    return next(iter(own_addresses()), "127.0.0.1")


def own_python() -> str | None:
    """The absolute path of an interpreter of this machine that has torch: the `python3` of PATH, else UGRO's own.

    None where neither has it. A service and cron have another PATH, so the name alone would mean another one there.
    """
    found = shutil.which("python3")
    candidates = [os.path.abspath(found)] if found else []
    return next((path for path in (*candidates, sys.executable) if _has_torch(path)), None)


def _has_torch(python: str) -> bool:
    """Whether an interpreter finds torch, which is not imported: that takes seconds."""
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
    try:
        done = subprocess.run(
            [python, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, timeout=PYTHON_SECONDS, cwd="/"
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def draft(
    own_name: str,
    address: str,
    hosts: Sequence[NamedHost],
    suggested: Sequence[NamedHost],
    python: str | None = None,
) -> str:
    """The text of the inventory; `suggested` hosts stand in it as comments. `python` is that of this machine."""
    fields: dict[str, str | int | bool] = {"address": address, "local": True}
    own = _line(own_name, {**fields, "python": python} if python else fields)
    listed = "\n".join(host.line for host in hosts)
    comments = "\n".join(f"  # {host.line.strip()}" for host in suggested)
    known = f"  # In your ssh configuration there are also:\n{comments}\n" if suggested else ""
    return f"""# The machines of the cluster. Adding one is adding a line; `ugro check` then looks at it.
defaults:  # any key of a node may stand here
  python: python3            # the interpreter that has torch, e.g. ~/miniconda3/envs/train/bin/python
  # script: train_production.py   # what `ugro launch --model …` runs
  # base_dir: ~/.ugro        # where UGRO keeps a job's code and logs on a node
  # env: {{NCCL_DEBUG: WARN}}  # environment of every rank

# Other keys of a node: port, identity_file, ssh_config, interface (which network to train over), train_address (where
# the other nodes reach it, if not `address`), gpus (what is expected there), reserve_memory (MiB left to others).
nodes:  # the first one holds rank 0
{own}
{listed}{chr(10) if listed else ""}{known}"""


def _own_name() -> str:
    """This machine's host name, as far as it can be a node's."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).lstrip(".-")[:63]
    return name if is_node_name(name) else "master"
