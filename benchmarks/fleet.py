"""Nodes to measure against: one real sshd on a loopback port for each, with a host key and an nvidia-smi of its own."""

from __future__ import annotations

import getpass
import re
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import asyncssh

from benchmarks.report import Unavailable, program
from ugro.common.config import Inventory, NodeConfig

ADDRESS = "127.0.0.1"
START_TIMEOUT = 30.0

QUERY = (
    "nvidia-smi --query-gpu=index,name,uuid,memory.total,memory.used,utilization.gpu,temperature.gpu"
    " --format=csv,noheader,nounits"
)
"""What every contender asks of every node."""

EXPECTED = b"Benchmark GPU"

SSHD_CONFIG = """\
ListenAddress {address}
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {authorized}
PidFile none
LogLevel ERROR
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
SetEnv PATH={folder}/bin:/usr/local/bin:/usr/bin:/bin HOME={folder}/home
"""

# It takes no time of its own, so that what remains is the way there and back.
NVIDIA_SMI = """\
#!/bin/sh
case "$*" in
*query-compute-apps*) echo 'gpu_uuid, pid, used_gpu_memory [MiB], process_name' ;;
*noheader*)
    for i in 0 1 2 3; do
        echo "$i, Benchmark GPU, GPU-{node:08x}-0000-0000-0000-00000000000$i, 24576, 300, 0, 40"
    done ;;
*)
    echo 'index, uuid, memory.total [MiB], memory.used [MiB], memory.free [MiB], utilization.gpu [%],' \\
        'temperature.gpu, driver_version, power.draw [W], mig.mode.current, name'
    for i in 0 1 2 3; do
        echo "$i, GPU-{node:08x}-0000-0000-0000-00000000000$i, 24576, 300, 24276, 0, 40, 550.54, 20.00, Disabled," \\
            "Benchmark GPU"
    done ;;
esac
"""


@dataclass
class Fleet:
    """So many sshd in one folder; `with` starts and ends them. A host key is made once.

    Entering it raises `Unavailable` where this machine has no sshd that starts.
    """

    folder: Path
    size: int
    ports: list[int] = field(default_factory=list)
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def client_key(self) -> Path:
        """The one key that all nodes accept."""
        return self.folder / "client_key"

    @property
    def known_hosts(self) -> Path:
        """The keys of all nodes."""
        return self.folder / "known_hosts"

    @property
    def ssh_config(self) -> Path:
        """The file that names the known_hosts file to UGRO, as a user's ~/.ssh/config would."""
        return self.folder / "ssh_config"

    def inventory(self) -> Inventory:
        """Return the nodes as UGRO knows them."""
        nodes = {
            f"n{number:02}": NodeConfig(
                name=f"n{number:02}",
                address=ADDRESS,
                port=port,
                user=getpass.getuser(),
                identity_file=str(self.client_key),
                ssh_config=str(self.ssh_config),
            )
            for number, port in enumerate(self.ports)
        }
        return Inventory(nodes=nodes)

    def __enter__(self) -> Fleet:
        self.folder.mkdir(parents=True, exist_ok=True)
        key = asyncssh.generate_private_key("ssh-ed25519")
        _write_key(key, self.client_key)
        key.write_public_key(self.folder / "authorized_keys")
        self.ports = _free_ports(self.size)
        known = []
        for number, port in enumerate(self.ports):
            host_key = self._prepare(number, port)
            known.append(f"[{ADDRESS}]:{port} {host_key.export_public_key().decode().strip()}\n")
        self.known_hosts.write_text("".join(known))
        self.ssh_config.write_text(f"Host *\n    UserKnownHostsFile {self.known_hosts}\n")
        sshd = _working_sshd(self.folder / "0" / "sshd_config")
        for number in range(self.size):
            with open(self.folder / f"{number}" / "log", "wb") as log:
                argv = [sshd, "-D", "-e", "-f", str(self.folder / f"{number}" / "sshd_config")]
                self._processes.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        try:
            self._await_start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _prepare(self, number: int, port: int) -> asyncssh.SSHKey:
        folder = self.folder / str(number)
        for name in ("bin", "home"):
            (folder / name).mkdir(parents=True)
        key = asyncssh.generate_private_key("ssh-ed25519")
        _write_key(key, folder / "host_key")
        program = folder / "bin" / "nvidia-smi"
        program.write_text(NVIDIA_SMI.format(node=number))
        program.chmod(0o755)
        authorized = self.folder / "authorized_keys"
        text = SSHD_CONFIG.format(address=ADDRESS, port=port, folder=folder, authorized=authorized)
        (folder / "sshd_config").write_text(text)
        return key

    def _await_start(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        for number, port in enumerate(self.ports):
            while True:
                try:
                    with socket.create_connection((ADDRESS, port), timeout=1):
                        break
                except OSError:
                    if self._processes[number].poll() is not None or time.monotonic() > deadline:
                        said = (self.folder / str(number) / "log").read_text()
                        raise RuntimeError(f"sshd {number} does not start: {said.strip()}") from None
                    time.sleep(0.02)

    def _end(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(timeout=10)
        self._processes.clear()


def _working_sshd(config: Path) -> str:
    """The path of sshd, once it has accepted its configuration.

    Raises:
        Unavailable: it is not there, or does not; the text says what helps.
    """
    sshd = program("sshd", "openssh-server")
    tried = subprocess.run([sshd, "-t", "-f", str(config)], capture_output=True, text=True)
    if tried.returncode:
        lacking = re.search(r"Missing privilege separation directory: (\S+)", tried.stderr)
        helps = f"; make it: sudo mkdir -p {lacking[1]}" if lacking else ""
        raise Unavailable(f"sshd does not start: {tried.stderr.strip()}{helps}")
    return sshd


def _write_key(key: asyncssh.SSHKey, path: Path) -> None:
    path.touch(mode=0o600)
    key.write_private_key(path)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((ADDRESS, 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
