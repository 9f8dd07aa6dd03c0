"""Ansible as a contender: `ansible all -m raw`, cold and over the connections that ControlPersist keeps."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.fleet import ADDRESS, EXPECTED, QUERY, Fleet
from benchmarks.report import child_seconds

PROGRAM = Path(sys.executable).with_name("ansible")


class Ansible:
    """Runs the program; what it keeps open is closed by `close`."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet, self._rounds = fleet, 0
        self._own = fleet.folder / "ansible"
        self._own.mkdir()
        self._sockets = self._own / "0"
        lines = [f"n{number:02} ansible_port={port}" for number, port in enumerate(fleet.ports)]
        common = f"ansible_host={ADDRESS} ansible_user={getpass.getuser()} ansible_python_interpreter=/usr/bin/python3"
        text = "[all]\n" + "\n".join(f"{line} {common}" for line in lines) + "\n"
        (self._own / "hosts").write_text(text)
        (self._own / "ansible.cfg").touch()

    def round(self, how: str, _: str) -> tuple[float, float]:
        """One run of the program, in seconds and seconds of CPU; a cold one finds no open connection."""
        if how == "cold":
            self.close()
            self._rounds += 1
            self._sockets = self._own / str(self._rounds)
        begin, used = time.perf_counter(), child_seconds()
        argv = [
            str(PROGRAM),
            "all",
            "-i",
            str(self._own / "hosts"),
            "-f",
            str(self._fleet.size),
            "-m",
            "raw",
            "-a",
            QUERY,
        ]
        done = subprocess.run(argv, env=self._environment(), cwd=self._own, capture_output=True)
        times = time.perf_counter() - begin, child_seconds() - used
        if done.stdout.count(b"CHANGED") != self._fleet.size or EXPECTED not in done.stdout:
            raise RuntimeError(f"ansible: {(done.stderr or done.stdout).decode()[-500:]}")
        return times

    def close(self) -> None:
        """End the ssh processes that keep connections."""
        for socket in self._sockets.glob("*") if self._sockets.exists() else ():
            argv = ["ssh", "-F", "/dev/null", "-o", f"ControlPath={socket}", "-O", "exit", "x"]
            subprocess.run(argv, capture_output=True)

    def _environment(self) -> dict[str, str]:
        ssh = {
            "UserKnownHostsFile": self._fleet.known_hosts,
            "IdentityFile": self._fleet.client_key,
            "IdentitiesOnly": "yes",
            "ControlMaster": "auto",
            "ControlPersist": "300s",
        }
        environment = {key: value for key, value in os.environ.items() if key != "SSH_AUTH_SOCK"}
        return environment | {
            "ANSIBLE_HOME": str(self._own / "home"),
            "ANSIBLE_CONFIG": str(self._own / "ansible.cfg"),
            "ANSIBLE_LOCALHOST_WARNING": "0",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_SSH_ARGS": "-F /dev/null " + " ".join(f"-o {key}={value}" for key, value in ssh.items()),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self._sockets),
            "ANSIBLE_SSH_CONTROL_PATH": "%(directory)s/%%p",
        }
