"""A machine of its own as far as its processes can tell: network, PID, mount, UTS and IPC namespaces."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import psutil

from ugro.testing.testbed.errors import TestbedError

Stream = int | IO[Any]

# The first process ends when its stdin does: should the tests die, the machine goes with them, and all that runs on it.
# Ignoring SIGCHLD makes it reap the orphans, as an init must.
INIT = "\necho ready\nexec env --ignore-signal=CHLD cat >/dev/null 2>&1\n"

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
"""Of the first process: a folder of the tests' own PATH may be one that it covers."""


class ProcessView(NamedTuple):
    """A process as its own machine sees it."""

    pid: int
    command: list[str]
    environ: dict[str, str]


class HostProcess(subprocess.Popen[str]):
    """A process on a machine. Signals go to it, not to the nsenter that carried it there."""

    @property
    def carried(self) -> list[psutil.Process]:
        """The process on the machine; none before it is there, and after its end."""
        try:
            return psutil.Process(self.pid).children()
        except psutil.NoSuchProcess:
            return []

    def send_signal(self, sig: int) -> None:
        carried = self.carried
        for child in carried:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.send_signal(sig)
        if not carried or sig == signal.SIGCONT:  # nsenter stops itself along with a stopped child
            super().send_signal(sig)


# Ends as the process that it carries, whose end it reads from stdin.
CARRIER = 'read status || exit 1; [ "$status" -ge 0 ] && exit "$status"; kill "$status" $$'


class ForkedProcess(HostProcess):
    """A `ugro` that was forked from a process of ours, which is asked for it, and went to its place by itself."""

    def __init__(self, ask: Callable[..., dict[str, Any]], args: Sequence[str], **command: Any) -> None:
        self._goes = "place" in command
        reading, writing = os.pipe()
        pipe = subprocess.PIPE
        try:
            super().__init__(["sh", "-c", CARRIER], stdin=reading, stdout=pipe, stderr=pipe, text=True)
            self._watcher = ask(carrier=self.pid, args=args, **command)["watcher"]
        finally:
            os.close(reading)
            os.close(writing)

    @property
    def carried(self) -> list[psutil.Process]:
        try:
            forked = psutil.Process(self._watcher).children()
            return [there for way in forked for there in way.children()] if self._goes else forked
        except psutil.NoSuchProcess:
            return []


Begun = Callable[..., ForkedProcess]
"""Begins a `ugro` with these words, which is not waited for."""


class Machine:
    """Namespaces that live as long as their first process."""

    def __init__(self, network: Path, setup: str) -> None:
        flags = ("--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc")
        self._init = subprocess.Popen(
            ["nsenter", f"--net={network}", "unshare", *flags, "sh", "-c", setup + INIT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        assert self._init.stdout and self._init.stderr
        if self._init.stdout.readline() != "ready\n":
            complaint = self._init.stderr.read()
            self.close()
            raise TestbedError(f"the namespaces of {network.name} cannot be set up: {complaint.strip()}")
        self._started: list[HostProcess] = []
        pid_file = f"/proc/{self._init.pid}/ns/pid_for_children"
        self._pid_namespace = os.readlink(pid_file)
        self._enter = ["nsenter", "-t", str(self._init.pid), "-m", "-u", "-i", "-n", f"--pid={pid_file}"]
        own = [f"/proc/{self._init.pid}/ns/{kind}" for kind in ("uts", "ipc", "net", "mnt")]
        self.namespaces = [pid_file, *own]  # the last one takes away the others' files

    def close(self) -> None:
        """End the machine with everything that runs on it."""
        assert self._init.stdin and self._init.stdout and self._init.stderr
        self._init.stdin.close()
        self._init.wait(timeout=10)
        self._init.stdout.close()
        self._init.stderr.close()

    def start(
        self,
        argv: Sequence[str],
        uid: int,
        *,
        env: Mapping[str, str],
        cwd: str,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = subprocess.PIPE,
        stderr: Stream = subprocess.PIPE,
    ) -> HostProcess:
        """Start a program as a user, in a session of its own."""
        carrier = [*self._enter, "-S", str(uid), "-G", str(uid), "--", "setsid", "env", f"--chdir={cwd}", "--"]
        process = HostProcess([*carrier, *argv], env=env, stdin=stdin, stdout=stdout, stderr=stderr, text=True)
        self.expect(process)
        return process

    def expect(self, process: HostProcess) -> None:
        """Know of a process that is on its way here."""
        self._started = [*(one for one in self._started if one.poll() is None), process]

    def processes(self) -> list[ProcessView]:
        """Return the processes here, without the first one."""
        found = []
        for pid, process in self.members():
            with contextlib.suppress(psutil.NoSuchProcess):
                if pid != 1 and (command := process.cmdline()):
                    found.append(ProcessView(pid, command, process.environ()))
        return found

    def kill(self, pid: int, sig: int = signal.SIGKILL) -> None:
        """Signal a process by the pid it has here.

        Raises:
            ProcessLookupError: there is none.
        """
        for inner, process in self.members():
            if inner == pid:
                return process.send_signal(sig)
        raise ProcessLookupError(pid)

    def end_all(self) -> None:
        """Kill every process, also one that was just started, and return when they are gone."""
        for begun in self._started:
            while begun.poll() is None and not begun.carried:
                time.sleep(0.005)  # its carrier would bring it here after the end
        for _ in range(5):  # what was just being forked shows at the next look
            doomed = [process for pid, process in self.members() if pid != 1]
            if not doomed:
                return
            for process in doomed:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(doomed, timeout=5)
        raise TestbedError(f"will not die: {doomed}")

    def members(self) -> Iterator[tuple[int, psutil.Process]]:
        """Every process here, with the pid it has here."""
        for process in psutil.process_iter():
            with contextlib.suppress(OSError):  # gone, or more privileged than we are and so no process of ours
                if os.readlink(f"/proc/{process.pid}/ns/pid") == self._pid_namespace:
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    pids = next(line for line in status.splitlines() if line.startswith("NSpid:"))
                    yield int(pids.split()[-1]), process
