"""The cables: a switch in a network namespace of its own, and one link from it to each host's namespace.

The machine's own network namespace gets no address, no route and no interface.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil

from ugro.testing.testbed.errors import TestbedError, system

NETNS = Path("/run/netns")
ROOTS = Path("/tmp")
PREFIX = "ugro-testbed-"
INTERFACE = "train0"


class Network:
    """A switch and its cables. Its names carry the bed's tag, so that beds side by side never meet."""

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._switch = self._namespace("sw")
        system("ip", "-n", self._switch, "link", "add", "switch", "up", "type", "bridge")

    def plug(self, host: str, address: str) -> Path:
        """A new namespace with an address on the switch; returns the file that stands for it."""
        name = self._namespace(host)
        system("ip", "-n", self._switch, "link", "add", host, "type", "veth", "peer", INTERFACE, "netns", name)
        system("ip", "-n", self._switch, "link", "set", host, "up", "master", "switch")
        system("ip", "-n", name, "address", "add", f"{address}/24", "dev", INTERFACE)
        system("ip", "-n", name, "link", "set", INTERFACE, "up")
        return NETNS / name

    def cable(self, host: str, state: str) -> None:
        """Pull a host's cable out of the switch ("down") or put it back ("up"): packets vanish, nothing is reset."""
        system("ip", "-n", self._switch, "link", "set", host, state)

    def limit_rate(self, host: str, mbit_per_s: float | None) -> None:
        """Let no more than that through to a host; None: whatever comes."""
        device = ("dev", host, "root")
        if mbit_per_s is None:
            with suppress(TestbedError):  # there is no limit
                system("ip", "netns", "exec", self._switch, "tc", "qdisc", "del", *device)
            return
        limit = ("tbf", "rate", f"{mbit_per_s}mbit", "burst", "32kbit", "latency", "400ms")
        system("ip", "netns", "exec", self._switch, "tc", "qdisc", "replace", *device, *limit)

    def _namespace(self, host: str) -> str:
        name = f"ugro-{self._tag}-{host}"
        system("ip", "netns", "add", name)
        system("ip", "-n", name, "link", "set", "lo", "up")
        return name


def claim(tag: str) -> Path:
    """The bed's own folder, marked with who made it."""
    root = ROOTS / f"{PREFIX}{tag}"
    root.mkdir(mode=0o755)
    unfinished = root / "owner.new"
    unfinished.write_text(f"{os.getpid()} {psutil.Process().create_time()}")
    unfinished.rename(root / "owner")
    return root


def remove(tag: str) -> None:
    """End what still runs in the bed's namespaces, then take away the namespaces and last the folder.

    Raises:
        TestbedError: a process would not die.
    """
    for namespace in NETNS.glob(f"ugro-{tag}-*"):
        deadline = time.monotonic() + 10
        while pids := system("ip", "netns", "pids", namespace.name).split():
            if time.monotonic() > deadline:
                raise TestbedError(f"{namespace.name}: still running: {' '.join(pids)}")
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.02)
        system("ip", "netns", "delete", namespace.name)
    shutil.rmtree(ROOTS / f"{PREFIX}{tag}")


def reap_leftovers() -> None:
    """Take away the beds whose makers are dead. Several sessions may do so at once."""
    for owner in ROOTS.glob(f"{PREFIX}????/owner"):
        with suppress(FileNotFoundError), owner.open() as file:
            if not _alive(file.read()):
                fcntl.flock(file, fcntl.LOCK_EX)
                if owner.exists():
                    remove(owner.parent.name.removeprefix(PREFIX))


def _alive(owner: str) -> bool:
    pid, born = owner.split()
    try:
        return psutil.Process(int(pid)).create_time() == float(born)
    except psutil.NoSuchProcess:
        return False
