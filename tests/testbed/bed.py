"""The bed: three hosts on one switch, and the master's view of them."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from .errors import TestbedError, system
from .hosts import Host
from .network import Network, claim, reap_leftovers, remove

PACKAGES = {
    "sshd": "openssh-server",
    "ip": "iproute2",
    "rsync": "rsync",
    "fish": "fish",
    "tcsh": "tcsh",
    "busybox": "busybox",
}

INVENTORY = """\
defaults:
  python: {python}
nodes:
  gpu-master: {{address: 10.213.7.1, local: true}}
  gpu1: {{address: 10.213.7.2, user: ob}}
  gpu2: {{address: 10.213.7.3, user: ollie}}
"""


class Testbed:
    """Hosts gpu-master, gpu1 and gpu2. `run` and `popen` are the master's, as its user `owner`."""

    __test__ = False

    def __init__(self) -> None:
        install_missing()
        reap_leftovers()
        self._tag = secrets.token_hex(2)
        self.root = claim(self._tag)
        self.hosts: dict[str, Host] = {}
        try:
            network = Network(self._tag)
            self.master = self._host(network, "gpu-master", "10.213.7.1", "owner", 21371)
            self.gpu1 = self._host(network, "gpu1", "10.213.7.2", "ob", 21372)
            self.gpu2 = self._host(network, "gpu2", "10.213.7.3", "ollie", 21373)
            system("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "owner", "-f", str(self.root / "id_ed25519"))
            self._write_homes()
        except BaseException:
            self.close()
            raise
        self.run, self.popen = self.master.run, self.master.popen

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def __enter__(self) -> Testbed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything that runs on the hosts and leave nothing behind."""
        with ExitStack() as stack:
            stack.callback(remove, self._tag)
            for host in self.hosts.values():
                stack.callback(host.close)

    def reset(self) -> None:
        """All hosts as they were when new, and trusted by the master; for the start of a test."""
        for host in self.hosts.values():
            host.reset()
        self._write_homes()

    def ugro(self, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run `ugro …` on the master; options are those of `run`."""
        return self.run([sys.executable, "-m", "ugro", *args], **options)

    def trust(self) -> None:
        """Write the hosts' present keys into the master's known_hosts."""
        lines = [f"{host.address} {host.host_key}\n" for host in self.hosts.values()]
        self.master.write(".ssh/known_hosts", "".join(lines), 0o600)

    def _host(self, network: Network, name: str, address: str, user: str, uid: int) -> Host:
        self.hosts[name] = host = Host(self.root, network, name, address, user, uid)
        host.new_host_key()
        host.reset()
        return host

    def _write_homes(self) -> None:
        self.trust()
        self.master.write("inventory.yaml", INVENTORY.format(python=sys.executable))
        self.master.write(".ssh/id_ed25519", (self.root / "id_ed25519").read_text(), 0o600)
        public = (self.root / "id_ed25519.pub").read_text()
        self.master.write(".ssh/id_ed25519.pub", public)
        for host in self.hosts.values():
            host.write(".ssh/authorized_keys", public, 0o600)


def install_missing() -> None:
    """Install with apt what the bed needs and this machine lacks.

    Raises:
        TestbedError: it cannot be installed here.
    """
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [package for program, package in PACKAGES.items() if not shutil.which(program, path=path)]
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise TestbedError(f"please install {' '.join(missing)}: the testbed knows only apt-get")
    print(f"testbed: installing {' '.join(missing)} with apt-get", file=sys.stderr, flush=True)
    system("apt-get", "update", "-q")
    system("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-qy", "--no-install-recommends", *missing)
