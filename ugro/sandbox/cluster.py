"""Start and stop the sandbox, and return its status."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from ugro.common.errors import InputError, StateError
from ugro.common.models.record import Record
from ugro.sandbox import processes
from ugro.sandbox.files import PACKAGE_ROOT, Files, check_root, prepare, write
from ugro.sandbox.machines import MACHINES, MARK, READY

START_TIMEOUT = 30.0
"""Seconds until the daemon has to be ready."""

REWIRE_TIMEOUT = 10.0
"""Seconds that the daemon may take to take nodes off the network, or back."""


class SandboxNode(Record):
    """One node of the sandbox. It has a port only while the sandbox is up."""

    name: str
    """Its name."""
    address: str
    """Its address."""
    port: int | None
    """Its SSH port."""
    gpu: str
    """Model of its GPU."""
    home: Path
    """Its home directory."""


class SandboxStatus(Record):
    """Whether the sandbox is up, with its paths and nodes."""

    running: bool
    """Whether it runs."""
    pid: int | None
    """Process id of the sandbox."""
    root: Path
    """Its directory."""
    inventory: Path
    """Path of its inventory."""
    nodes: tuple[SandboxNode, ...]
    """Its nodes."""


class Sandbox:
    """A simulated cluster of three SSH nodes on loopback, in one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()
        self._files = Files(self.root)

    def up(self) -> None:
        """Start the sandbox, unless it is up.

        Raises:
            InputError: the folder's name cannot be used.
            StateError: a file cannot be written, or the daemon did not start.
        """
        check_root(self.root)
        with _explained():
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                if self._daemon() is None:
                    prepare(self._files)
                    self._start()

    def down(self) -> None:
        """End the daemon and every process started through it. Keep homes, keys and state.

        Raises:
            StateError: a process cannot be ended.
        """
        if not self.root.exists():
            return
        with _explained(), self._locked():
            self._end_members()
            self._files.daemon.unlink(missing_ok=True)
            for machine in MACHINES:
                self._files.samples(machine.node).unlink(missing_ok=True)

    def status(self) -> SandboxStatus:
        """Return the status of the sandbox.

        Raises:
            StateError: a file cannot be read.
        """
        with _explained():
            daemon = self._daemon()
        where = daemon["nodes"] if daemon else {machine.node: (machine.address, None) for machine in MACHINES}
        nodes = tuple(
            SandboxNode(
                name=machine.node,
                address=where[machine.node][0],
                port=where[machine.node][1],
                gpu=machine.gpu,
                home=self._files.home(machine.node),
            )
            for machine in MACHINES
        )
        return SandboxStatus(
            running=daemon is not None,
            pid=daemon["pid"] if daemon else None,
            root=self.root,
            inventory=self._files.inventory,
            nodes=nodes,
        )

    @property
    def inventory(self) -> Path:
        """Return the path of its inventory."""
        return self._files.inventory

    def environment(self) -> dict[str, str]:
        """Return the variables that make every `ugro` command use the sandbox, `ugro sandbox` included."""
        return {
            "UGRO_HOME": str(self._files.state),
            "UGRO_INVENTORY": str(self._files.inventory),
            "UGRO_SANDBOX_DIR": str(self.root),
        }

    def unplug(self, *names: str) -> None:
        """Take these nodes off the network (connections break, new ones are refused) and put all others back on.

        Their processes continue.

        Raises:
            InputError: there is no such node. StateError: the sandbox is not up, or does not do it.
        """
        if unknown := set(names) - {machine.node for machine in MACHINES}:
            raise InputError(f"no node of the sandbox is called {min(unknown)!r}")
        with _explained(), self._locked():
            daemon = self._daemon()
            if daemon is None:
                raise StateError(f"the sandbox in {self.root} is not up", "start it: ugro sandbox up")
            write(self._files.unplugged, json.dumps(sorted(names)))
            os.kill(daemon["pid"], signal.SIGHUP)
            deadline = time.monotonic() + REWIRE_TIMEOUT
            while daemon is None or daemon["unplugged"] != sorted(names):
                if time.monotonic() > deadline:
                    raise StateError(f"the daemon of the sandbox in {self.root} does nothing", f"see {self._files.log}")
                time.sleep(0.01)
                daemon = self._daemon()

    def _daemon(self) -> dict[str, Any] | None:
        """Return the daemon's own record if it still runs: its pid alone may have been reused."""
        try:
            daemon: dict[str, Any] = json.loads(self._files.daemon.read_text(encoding="utf-8"))
            same = processes.start_time(daemon["pid"]) == daemon["started"]
            return daemon if same and processes.belongs(psutil.Process(daemon["pid"]), self.root) else None
        except (FileNotFoundError, psutil.NoSuchProcess):
            return None

    def _start(self) -> None:
        with (
            open(self._files.log, "wb") as log,
            subprocess.Popen(
                [sys.executable, "-m", "ugro.sandbox.server", str(self.root)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                # `-m` looks here first: a folder of the person's may hold a module called like one of Python's.
                cwd=PACKAGE_ROOT,
                env={**os.environ, MARK: str(self.root)},
                start_new_session=True,
            ) as launcher,
            selectors.DefaultSelector() as selector,
        ):
            assert launcher.stdout
            selector.register(launcher.stdout, selectors.EVENT_READ)
            if not selector.select(START_TIMEOUT) or os.read(launcher.stdout.fileno(), len(READY)) != READY:
                self._end_members()
                raise self._not_started()

    def _not_started(self) -> StateError:
        said = self._files.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        problem = said[-1] if said else f"it was not ready within {START_TIMEOUT:g} s"
        return StateError(f"the sandbox in {self.root} did not start: {problem}", f"see {self._files.log}")

    def _end_members(self) -> None:
        # The daemon is one of them; what it started meanwhile is ended in the next round.
        for _ in range(3):
            processes.end(processes.members(self.root))
        if members := processes.members(self.root):
            pids = ", ".join(str(process.pid) for process in members)
            raise StateError(f"processes of the sandbox do not end: {pids}", "look at them with: ps -fp PID")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self._files.lock, "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StateError(f"{error.filename or 'the sandbox'}: {error.strerror or error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StateError(f"a file of the sandbox is broken: {error}") from error
