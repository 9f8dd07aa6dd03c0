"""One host: a machine with its own user, home and sshd, and the faults a test can make there."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from ugro.testing.entering import Entrance
from ugro.testing.testbed.errors import TestbedError, system
from ugro.testing.testbed.etc import User, write_etc, write_passwd
from ugro.testing.testbed.machine import HostProcess, Machine, Stream
from ugro.testing.testbed.mounts import OWN, setup_script
from ugro.testing.testbed.network import Network

SYSTEM_PATH = f"{OWN}/programs:/usr/local/bin:/usr/bin:/bin"
BOOT_ID = "/proc/sys/kernel/random/boot_id"

SSHD_CONFIG = """\
HostKey {own}/host_key
PidFile none
LogLevel VERBOSE
UsePAM no
StrictModes yes
PermitRootLogin no
KbdInteractiveAuthentication no
Subsystem sftp internal-sftp
SetEnv {environment}
"""


class Host(Machine):
    """A host of the bed. Paths of its home are relative to it; its folder in the bed holds `sshd.log` and the rest."""

    def __init__(self, root: Path, network: Network, name: str, address: str, user: User) -> None:
        self.name, self.address = name, address
        self.user, self.uid, self.home = user.name, user.uid, user.home
        self._account = user
        self._network = network
        self._folder = root / name
        self._sshd: HostProcess | None = None
        self._write_system_files()
        super().__init__(network.plug(name, address), setup_script(self._folder, name, self.home))

    def close(self) -> None:
        super().close()
        if self._sshd:
            self._sshd.wait(timeout=5)

    def reset(self) -> None:
        """Make it as when new, except the host key: rebooted, an empty home, bash, no programs, the cable in."""
        self.heal()
        self.limit_rate(None)
        self._accept_tcp()
        self.reboot()
        for folder in (self.path("."), self._folder / "programs"):
            for entry in folder.iterdir():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        self.set_shell("/bin/bash")

    # Files and programs

    def path(self, relative: str | Path) -> Path:
        """Return the real path of something in the home, to read it from outside."""
        return self._folder / "home" / relative

    def write(self, relative: str | Path, text: str, mode: int = 0o644) -> Path:
        """Write a file into the home, owned by the user like the folders that are made for it."""
        path = self.path(relative)
        made = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        for new in (*made, path):
            os.chown(new, self.uid, self.uid)
        return path

    def install_program(self, name: str, text: str) -> None:
        """Put a program (`nvidia-smi`, say) first in the PATH of SSH commands and of `run`."""
        program = self._folder / "programs" / name
        program.write_text(text)
        program.chmod(0o755)

    def set_shell(self, shell: str) -> None:
        """Give the user another login shell, from the next login on."""
        if not os.access(shell, os.X_OK):
            raise TestbedError(f"{shell} is not installed")
        write_passwd(self._folder / "etc", self._account, shell)

    # Running programs

    def run(
        self,
        argv: Sequence[str],
        *,
        user: bool = True,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as the user (or root) in a clean environment plus `env`; text in, text out.

        Raises:
            subprocess.TimeoutExpired: it ran too long and was killed.
        """
        stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
        with self.popen(argv, user=user, env=env, cwd=cwd, stdin=stdin) as process:
            try:
                stdout, stderr = process.communicate(input, timeout=timeout)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(list(argv), process.returncode, stdout, stderr)

    def popen(
        self,
        argv: Sequence[str],
        *,
        user: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = subprocess.PIPE,
        stderr: Stream = subprocess.PIPE,
    ) -> HostProcess:
        """Start a program as `run` does; signals sent to the result reach the program itself."""
        environment = self.environment(user) | dict(env or {})
        uid, folder = self.uid if user else 0, cwd or environment["HOME"]
        return self.start(argv, uid, env=environment, cwd=folder, stdin=stdin, stdout=stdout, stderr=stderr)

    @property
    def place(self) -> Entrance:
        """Return the place of a process of ours that enters this host, as the user."""
        return Entrance(namespaces=self.namespaces, uid=self.uid)

    def environment(self, user: bool = True) -> dict[str, str]:
        """What the user (or root) finds in it after a login, and no more."""
        name, home = (self.user, self.home) if user else ("root", "/root")
        clean = {"HOME": home, "USER": name, "LOGNAME": name, "PATH": SYSTEM_PATH, "LANG": "C.UTF-8"}
        return clean | {"UGRO_HOME": f"{home}/.ugro", "OMP_NUM_THREADS": "1"} | _blas_settings()

    # Faults

    def cut(self) -> None:
        """Pull the network cable: packets vanish both ways, so connections hang."""
        self._network.cable(self.name, "down")

    def heal(self) -> None:
        """Put the network cable back."""
        self._network.cable(self.name, "up")

    def limit_rate(self, mbit_per_s: float | None) -> None:
        """Let the network bring no more than that to this host; None: as fast as it goes."""
        self._network.limit_rate(self.name, mbit_per_s)

    def drop_tcp(self, first: int, last: int) -> None:
        """Answer nothing from these ports, as a firewall that drops what comes to them; until the host is reset."""
        rule = ["ip", "rule", "add", "ipproto", "tcp", "sport", f"{first}-{last}", "blackhole"]
        if (done := self.run(rule, user=False)).returncode:
            raise TestbedError(f"{self.name}: {done.stderr}")

    def _accept_tcp(self) -> None:
        while not self.run(["ip", "rule", "del", "blackhole"], user=False).returncode:
            continue

    def start_sshd(self) -> None:
        """Start the SSH server and wait until it listens."""
        with open(self._folder / "sshd.log", "a+") as log:
            begin = log.tell()
            argv = [shutil.which("sshd", path="/usr/sbin:/sbin:/usr/local/sbin") or "sshd", "-D", "-e", "-f"]
            self._sshd = self.popen([*argv, f"{OWN}/sshd_config"], user=False, stdout=log, stderr=log)
            deadline = time.monotonic() + 10
            while "Server listening on" not in (said := _since(log.name, begin)):
                if self._sshd.poll() is not None or time.monotonic() > deadline:
                    raise TestbedError(f"{self.name}: sshd does not start: {said.strip()}")
                time.sleep(0.01)

    def stop_sshd(self) -> None:
        """Stop the SSH server: new connections are refused, open ones and their processes stay."""
        if self._sshd:
            self._sshd.terminate()
            self._sshd.wait(timeout=5)
            self._sshd = None

    def end_sessions(self) -> None:
        """End every open SSH connection from this side, as an administrator's kill would; their commands stay."""
        for _, process in self.members():
            with contextlib.suppress(psutil.NoSuchProcess):  # short-lived ones come and go meanwhile
                if process.name().startswith("sshd") and self._sshd and process.ppid() != self._sshd.pid:
                    process.kill()

    def new_host_key(self) -> None:
        """Give the host another key, as a reinstallation does, and restart a running sshd."""
        running = self._sshd is not None
        self.stop_sshd()
        key = self._folder / "host_key"
        for old in (key, self._folder / "host_key.pub"):
            old.unlink(missing_ok=True)
        system("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", str(key))
        if running:
            self.start_sshd()

    @property
    def host_key(self) -> str:
        """The public host key, `ssh-ed25519 AAAA…`."""
        return " ".join((self._folder / "host_key.pub").read_text().split()[:2])

    @property
    def boot_id(self) -> str:
        """The boot id that the host reports."""
        return self.run(["cat", BOOT_ID]).stdout.strip()

    def set_boot_id(self, text: str) -> None:
        """Make /proc report another boot id."""
        bind = f'echo "$0" > /run/boot_id; umount {BOOT_ID} 2>/dev/null; mount --bind /run/boot_id {BOOT_ID}'
        done = self.run(["sh", "-c", bind, text], user=False)
        if done.returncode:
            raise TestbedError(f"{self.name}: no boot id: {done.stderr}")

    def reboot(self) -> None:
        """Kill everything, empty the folders for temporary files, and come back with another boot id."""
        self.end_all()
        self.stop_sshd()
        self.run(["find", "/tmp", "/var/tmp", "/dev/shm", "-xdev", "-mindepth", "1", "-delete"])
        self.set_boot_id(str(uuid.uuid4()))
        self.start_sshd()

    def _write_system_files(self) -> None:
        for folder in ("home", "programs"):
            (self._folder / folder).mkdir(parents=True)
        os.chown(self.path("."), self.uid, self.uid)
        write_etc(self._folder / "etc", self.name, self._account)
        environment = " ".join(f"{key}={value}" for key, value in ({"PATH": SYSTEM_PATH} | _blas_settings()).items())
        (self._folder / "sshd_config").write_text(SSHD_CONFIG.format(own=OWN, environment=environment))


def _blas_settings() -> dict[str, str]:
    """Return the settings that numpy needs on a machine whose processor OpenBLAS misjudges."""
    return {key: os.environ[key] for key in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE") if key in os.environ}


def _since(path: str, begin: int) -> str:
    with open(path) as log:
        log.seek(begin)
        return log.read()
