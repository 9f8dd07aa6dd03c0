"""The bed: three hosts on one switch, and the master's view of them."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from filelock import FileLock

from ugro.testing.testbed.errors import TestbedError, system
from ugro.testing.testbed.etc import User, free_uids
from ugro.testing.testbed.hosts import Host
from ugro.testing.testbed.network import Network, claim, reap_leftovers, remove

PACKAGES = {
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "ip": "iproute2",
    "ps": "procps",
    "rsync": "rsync",
    "fish": "fish",
    "tcsh": "tcsh",
    "busybox": "busybox",
}

LOGIN_TIMEOUT = 20
"""Seconds in which a host of a new bed accepts logins."""

LOOK = "import os, pwd, ugro; print(pwd.getpwuid(os.getuid()).pw_name, os.getuid(), os.getcwd())"

INVENTORY = """\
defaults:
  python: {python}
nodes:
  gpu-master: {{address: 10.213.7.1, local: true}}
  gpu1: {{address: 10.213.7.2, user: testbed-ob}}
  gpu2: {{address: 10.213.7.3, user: testbed-ollie}}
"""


class Testbed:
    """Hosts gpu-master, gpu1 and gpu2. `run` and `popen` are the master's, as its user `testbed-owner`."""

    __test__ = False

    def __init__(self) -> None:
        reap_leftovers()
        self._tag = secrets.token_hex(2)
        self.root = claim(self._tag)
        self.hosts: dict[str, Host] = {}
        try:
            network, uids = Network(self._tag), free_uids()
            self.master = self._host(network, "gpu-master", "10.213.7.1", User("testbed-owner", next(uids)))
            self.gpu1 = self._host(network, "gpu1", "10.213.7.2", User("testbed-ob", next(uids)))
            self.gpu2 = self._host(network, "gpu2", "10.213.7.3", User("testbed-ollie", next(uids)))
            system("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "owner", "-f", str(self.root / "id_ed25519"))
            self._write_homes()
            self.run, self.popen = self.master.run, self.master.popen
            self.log_in_everywhere()
        except BaseException:
            self.close()
            raise

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

    def reset(self, *hosts: Host) -> None:
        """These hosts, or all, as they were when new, and trusted by the master; for the start of a test."""
        with ThreadPoolExecutor(len(self.hosts)) as together:
            list(together.map(Host.reset, hosts or self.hosts.values()))
        self._write_homes()

    def log_in_everywhere(self) -> None:
        """Have each host answer a login, so that a broken one is reported once and not by every test that waits for it.

        Raises:
            TestbedError: a host does not answer, or otherwise than its user would.
        """
        ssh = ["timeout", f"{LOGIN_TIMEOUT}", "ssh", "-o", "BatchMode=yes"]
        look = shlex.join([sys.executable, "-c", LOOK])
        logins = {host: self.popen([*ssh, f"{host.user}@{host.address}", look]) for host in self.hosts.values()}
        answers = {host: login.communicate() for host, login in logins.items()}
        for host, (said, complaint) in answers.items():
            if said.split() != (wanted := [host.user, str(host.uid), host.home]):
                answer = complaint.strip().rpartition("\n")[2] or said.strip() or f"nothing within {LOGIN_TIMEOUT} s"
                raise TestbedError(f"{host.name} is broken: a login answers {answer!r} instead of {' '.join(wanted)!r}")

    def ugro(self, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run `ugro …` on the master; options are those of `run`."""
        return self.run([sys.executable, "-m", "ugro", *args], **options)

    def trust(self) -> None:
        """Write the hosts' present keys into the master's known_hosts."""
        lines = [f"{host.address} {host.host_key}\n" for host in self.hosts.values()]
        self.master.write(".ssh/known_hosts", "".join(lines), 0o600)

    def _host(self, network: Network, name: str, address: str, user: User) -> Host:
        self.hosts[name] = host = Host(self.root, network, name, address, user)
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


def install_missing(environ: Mapping[str, str] = os.environ) -> None:
    """Install with apt what the bed needs and this machine lacks; `environ` may name the proxies.

    Raises:
        TestbedError: it cannot be installed here.
    """
    install(missing_packages, environ, "testbed")


def install(missing: Callable[[], str], environ: Mapping[str, str], what: str) -> None:
    """Install with apt the Debian packages that are missing, with blanks between them, if any are; `what` needs them.

    Raises:
        TestbedError: they cannot be installed here.
    """
    with FileLock("/run/ugro-testbed.lock"):  # two sessions may start at once
        if not (packages := missing()):
            return
        if not shutil.which("apt-get"):
            raise TestbedError(f"the {what} needs {packages}: please install what this system has in their place")
        print(f"{what}: installing {packages} with apt-get", file=sys.stderr, flush=True)
        env = {**environ, "DEBIAN_FRONTEND": "noninteractive"}
        try:
            system("apt-get", "update", "-q", env=env)
            system("apt-get", "install", "-qy", "--no-install-recommends", *packages.split(), env=env)
        except TestbedError as error:
            why = str(error).splitlines()[-1]
            raise TestbedError(f"the {what} needs {packages}, which apt-get could not install ({why})") from None


def missing_packages(programs: Mapping[str, str] = PACKAGES) -> str:
    """The Debian packages of programs that this machine lacks, with blanks between them; by default the bed's."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return " ".join(sorted({package for program, package in programs.items() if not shutil.which(program, path=path)}))
