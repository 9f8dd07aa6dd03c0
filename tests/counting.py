"""What tests of long lives share on the testbed: a job that counts until it is let go, and a `serve` that is heard.

A node's torchrun starts one rank without torch, which is quick.
"""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from places import QUICK

from ugro.testing.cluster import PYTHON
from ugro.testing.commands import Ask, Ugro, document, until
from ugro.testing.testbed.bed import Testbed
from ugro.testing.testbed.machine import ForkedProcess, HostProcess

MASTER = "  gpu-master: {address: 10.213.7.1, local: true}\n"
GPU1 = "  gpu1: {address: 10.213.7.2, user: testbed-ob}\n"
GPU2 = "  gpu2: {address: 10.213.7.3, user: testbed-ollie}\n"


def inventory(*nodes: str, more: str = "") -> str:
    return f"defaults: {{python: ~/python, min_disk: 0{more}}}\nnodes:\n{''.join(nodes)}"


# Says where it started, then counts until it is let go.
SCRIPT = """\
import os, time
home = os.path.expanduser("~/")
open(home + "started", "a").write(os.environ["RANK"])
count = 0
while not os.path.exists(home + "go"):
    count += 1
    print("line", count, flush=True)
    time.sleep(0.02)
print("last line", count, flush=True)
"""


WITH_TORCH = f"""#!/bin/sh
OMP_NUM_THREADS=1 PYTHONPATH={QUICK} exec {sys.executable} "$@"
"""
"""A node's python whose torchrun is the real one. torchrun leaves a single rank a thread for each processor."""


STAND_IN = "__version__ = '2.9.0'\nclass version: cuda = None\nclass distributed: is_available = lambda: True\n"
"""A torch that says what `ugro check` asks it on every node, and no more."""


@pytest.fixture
def bed(testbed: Testbed) -> Testbed:
    return made_up(testbed)


def made_up(testbed: Testbed) -> Testbed:
    """The bed as it was when new, with what jobs need."""
    testbed.reset()
    testbed.master.write("inventory.yaml", inventory(MASTER, GPU1, GPU2))
    testbed.master.write("project/t.py", SCRIPT)
    for host in testbed.hosts.values():
        host.write("python", PYTHON, 0o755)
    return testbed


def stand_in_for_torch(bed: Testbed) -> None:
    """Spare every node the import of torch, for tests that check what has nothing to do with it."""
    for host in bed.hosts.values():
        host.write("stand-in/torch.py", STAND_IN)
        host.write("python", PYTHON.replace("#!/bin/sh\n", "#!/bin/sh\nexport PYTHONPATH=~/stand-in\n"), 0o755)


@pytest.fixture
def ugro_of(bed: Testbed, forked: Ugro) -> Callable[[str], Ugro]:
    """The `ugro` of a state folder in the master's home."""

    return partial(on_master, bed, forked)


def on_master(bed: Testbed, forked: Ugro, home: str = ".ugro") -> Ugro:
    """That `ugro`, with a state folder in the master's home."""
    env = bed.master.environment() | environment(bed, home)
    return partial(forked, cwd=f"{bed.master.home}/project", env=env, place=bed.master.place)


@pytest.fixture
def ugro_at_home(bed: Testbed, forked: Ugro) -> Ugro:
    """`ugro` as the master's user starts it after a login."""
    return partial(forked, cwd=bed.master.home, env=bed.master.environment(), place=bed.master.place)


@pytest.fixture
def ugro(ugro_of: Callable[[str], Ugro]) -> Ugro:
    return ugro_of(".ugro")


def environment(bed: Testbed, home: str) -> dict[str, str]:
    return {"UGRO_INVENTORY": f"{bed.master.home}/inventory.yaml", "UGRO_HOME": f"{bed.master.home}/{home}"}


Start = Callable[..., HostProcess]


@pytest.fixture
def start(bed: Testbed, forks: Ask) -> Start:
    """Starts a `ugro` that is not waited for."""

    return partial(begun_on_master, bed, forks, ".ugro")


def begun_on_master(bed: Testbed, forks: Ask, home: str, *args: str) -> HostProcess:
    """A `ugro` that is not waited for, with a state folder in the master's home."""
    env = bed.master.environment() | environment(bed, home)
    process = ForkedProcess(forks, args, cwd=f"{bed.master.home}/project", env=env, place=bed.master.place)
    bed.master.expect(process)
    return process


class Serve:
    """A running `ugro serve`, and what it says."""

    def __init__(self, process: HostProcess) -> None:
        self.process = process
        self.said: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._lines.put(line)

    def hear(self, *words: str, seconds: float = 30) -> str:
        """Wait for a line with all these words; returns it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(queue.Empty):
                self.said.append(self._lines.get(timeout=0.2))
                if all(word in self.said[-1] for word in words):
                    return self.said[-1]
            if self.process.poll() is not None and self._lines.empty():
                break
        raise AssertionError(f"{words} was not said (exit code {self.process.returncode}): {self.said}")

    def end(self, sig: int = signal.SIGTERM) -> int:
        """Have it end; returns its exit code, and again when asked again."""
        assert self.process.stdout and self.process.stderr
        if self.process.poll() is None:
            self.process.send_signal(sig)
        self.process.wait(timeout=30)
        self._reader.join()
        self.process.stdout.close()
        self.process.stderr.close()
        return self.process.returncode


@pytest.fixture
def serve(bed: Testbed, forks: Ask) -> Iterator[Callable[..., Serve]]:
    made: list[Serve] = []

    def make(home: str = ".ugro", every: float = 0.3) -> Serve:
        made.append(Serve(begun_on_master(bed, forks, home, "serve", "--every", str(every))))
        made[-1].hear("watching")
        return made[-1]

    yield make
    for each in made:
        each.end(signal.SIGKILL)


def launched(bed: Testbed, ugro: Ugro, *options: str) -> str:
    """A job that runs, with all its ranks started."""
    job = document(ugro("launch", "t.py", "--json", *options))
    nodes = document(ugro("status", job["id"], "--json"))["placement"]["shares"]
    until(lambda: all(bed[share["node"]].path("started").exists() for share in nodes))
    return str(job["id"])


def let_go(bed: Testbed) -> None:
    for host in bed.hosts.values():
        host.write("go", "")


def state(ugro: Ugro, job: str) -> str:
    return str(document(ugro("status", job, "--json"))["state"])


def recorded(bed: Testbed, job: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(bed.master.path(f".ugro/jobs/{job}/job.json").read_text())
    return found


def started(bed: Testbed) -> list[str]:
    """The ranks that started, once for each time they did."""
    files = [host.path("started") for host in bed.hosts.values()]
    return sorted("".join(path.read_text() for path in files if path.exists()))
