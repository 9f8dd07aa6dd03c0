"""Clusters of this machine alone: two simulated nodes under a controller, and one node under `ugro` commands."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import UgroError
from ugro.common.job_spec import JobSpec
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.control_plane.controller.tick import Controller
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.scheduler.pending_words import reason_in_words
from ugro.control_plane.scheduler.queue import read_queue
from ugro.control_plane.scheduler.scheduling import why
from ugro.control_plane.scheduler.submission import choose_code, submit
from ugro.engines.ssh.engine import SshEngine
from ugro.nodes.pool import Pool
from ugro.sandbox.cluster import Sandbox
from ugro.testing.commands import Ask, ugro_of, until
from ugro.testing.forking_python import client
from ugro.testing.testbed.machine import ForkedProcess
from ugro.testing.transport import Silencing

RANKS = f"{sys.executable} -S"
"""Runs rank.py, which needs the standard library alone; the script that it starts gets all of Python."""

PYTHON = f"""\
#!/bin/sh
# A node's python; as torchrun it starts one rank without torch, in a session of its own as torchrun does.
[ "$1" = -m ] || exec {sys.executable} "$@"
export LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 TORCHELASTIC_RUN_ID=none
for option in "$@"; do case $option in
    --node-rank=*) export RANK="${{option#*=}}" GROUP_RANK="${{option#*=}}" ;;
    --nnodes=*) export WORLD_SIZE="${{option#*=}}" GROUP_WORLD_SIZE="${{option#*=}}" ;;
    --master-addr=*) export MASTER_ADDR="${{option#*=}}" ;;
    --master-port=*) export MASTER_PORT="${{option#*=}}" ;;
esac; done
while [ "${{1%rank.py}}" = "$1" ]; do shift; done
setsid --wait {RANKS} "$@"
"""


def write_python(path: Path, before: str = "", ranks: str = RANKS) -> Path:
    """A `python` for nodes with which a job starts in a moment: PYTHON, in that file, and `before` it other lines.

    `ranks` is the Python that runs ranks.
    """
    first, rest = PYTHON.replace(RANKS, ranks).split("\n", 1)
    path.write_text(f"{first}\n{before}{rest}")
    path.chmod(0o755)
    return path


def write_forking_python(path: Path) -> Path:
    """The same for nodes in this very process namespace: their scripts are forked, which is quicker still."""
    return write_python(path, client())


def fork_nvidia_smi(sandbox: Sandbox, python: Path) -> None:
    """Let the nodes of a sandbox that is up run nvidia-smi with a python that forks it."""
    for program in sandbox.root.glob("bin/*/nvidia-smi"):
        program.write_text(program.read_text().replace(sys.executable, str(python), 1))


STARTED = "import os; open(os.environ['HOME'] + '/started', 'a').write(os.environ['RANK'])\n"
"""A script whose ranks say that they started, and end."""

STAY = STARTED + "import time; time.sleep(600)\n"

WAITS = "import os, time\nwhile not os.path.exists(os.environ['HOME'] + '/go'): time.sleep(0.02)\n"
"""The lines after it run once `go` is in the home: a tick that repeats until nothing changes would see an end."""


def pauses_between_ticks() -> Iterator[float]:
    """Yield seconds: a tick starts many processes, and what is waited for is often one of them, or takes long."""
    pause = 0.1
    yield 0.0
    while True:
        yield pause
        pause = min(0.5, 1.5 * pause)


def controller_over(store: MetadataStore, inventory: Inventory, pool: Pool) -> Controller:
    """Return a controller that runs jobs over the transports of this pool."""
    return Controller(store, SshEngine(inventory, pool, store.clock, store.config.master), pool)


class Bed:
    """A state directory, two nodes, a project, and controllers that come and go: real processes, no SSH, no torch."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.store = MetadataStore(home / "state")
        self.project = home / "project"
        self.project.mkdir()
        python = str(write_forking_python(home / "python"))
        nodes = {
            name: NodeConfig(name=name, address="127.0.0.1", python=python, base_dir=f"{home}/{name}")
            for name in ("a", "b")
        }
        self.inventory = Inventory(nodes=nodes)
        self.nodes = {name: Silencing(config) for name, config in nodes.items()}

    def submit(self, text: str, **fields: Any) -> Job:
        """A job of a script with that text."""
        (self.project / "t.py").write_text(text)
        spec = JobSpec(script="t.py", workdir=str(self.project), **fields)
        return submit(self.store, spec, choose_code(spec))

    @property
    def pool(self) -> Pool:
        """Connections to the nodes."""
        return Pool(self.inventory, lambda config: self.nodes[config.name])

    @asynccontextmanager
    async def controller(self) -> AsyncIterator[tuple[Controller, MetadataStore]]:
        """A controller that has just been started, and its store."""
        store = MetadataStore(self.store.home, self.store.clock)
        controller = controller_over(store, self.inventory, self.pool)
        try:
            yield controller, store
        finally:
            await controller.close()

    async def tick(self) -> list[UgroError]:
        """Run one tick of a controller that has just been started. Return the errors that it recorded."""
        async with self.controller() as (controller, store):
            await controller.complete()
        return store.bus.troubles

    async def looked_at(self, job: Job) -> Job:
        """The job as its nodes show it; nothing is changed."""
        controller = controller_over(self.store, self.inventory, self.pool)
        job = self.store.jobs.job(job.id)
        return await controller.live(job, await controller.observe([job]))

    async def until(self, job: Job, *states: JobState) -> Job:
        """Let one controller tick until the job is in one of these states; returns it."""
        pauses = pauses_between_ticks()
        async with asyncio.timeout(30), self.controller() as (controller, _):
            while (now := self.store.jobs.job(job.id)).state not in states:
                await asyncio.sleep(next(pauses))
                await controller.complete()
        return now

    def why(self, job: Job) -> tuple[str, ...]:
        """Why the job waits."""
        live, views = self.store.jobs.live(), self.store.config.remembered_nodes()
        queue = read_queue(self.store, self.inventory, live, views, time.time())
        return tuple(reason_in_words(reason, queue.now) for reason in why(queue, job.id))

    def kinds(self, job: Job) -> list[str]:
        """Return the kinds of the job's events, without those of its ranks."""
        return [event.kind for event in self.store.timeline.of_job(job.id) if event.kind != "ranks"]


NVIDIA_SMI = """#!/bin/sh
case $* in *query-gpu*)
    cat << .
index, uuid, memory.total [MiB], memory.used [MiB], memory.free [MiB], name
0, GPU-00000000-1111-2222-3333-444444444444, 8192, 10, 8182, NVIDIA RTX 3070 Ti
.
    ;;
*) echo 'gpu_uuid, pid, used_gpu_memory [MiB], process_name' ;;
esac
"""


class Master:
    """A state directory, one local node, and a project with a script, as on a user's machine, but without torch."""

    def __init__(self, root: Path, forks: Ask) -> None:
        self.root, self._forks, self._path = root, forks, os.environ["PATH"]
        self._ugro = ugro_of(forks)
        self.home = root / "state"
        self._python = write_forking_python(root / "python")
        self.describe()
        (root / "t.py").write_text("print('fine')\n")

    def describe(self, node: str = "here", keys: str = "", others: str = "") -> None:
        """Write the inventory: the node of that name, with these keys added, and more lines for others."""
        known = f"address: 127.0.0.1, local: true, base_dir: {self.root}/node"
        if "python:" not in keys:
            known += f", python: {self._python}"
        text = f"nodes:\n  {node}: {{{known}{keys and ', '}{keys}}}\n{others}"
        (self.root / "inventory.yaml").write_text(text)

    @property
    def env(self) -> dict[str, str]:
        """The environment of commands."""
        return os.environ | {"UGRO_HOME": str(self.home), "HOME": str(self.root), "PATH": self._path}

    def ugro(self, *words: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        """One command, which has to end with that exit code."""
        done = self._ugro(*words, cwd=self.root, env=self.env | env)
        assert done.returncode == code, (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    def json(self, *words: str) -> Any:
        """The document that one command prints."""
        return json.loads(self.ugro(*words, "--json").stdout)

    @contextmanager
    def gpu(self) -> Iterator[None]:
        """While this lasts the node has a GPU."""
        programs, path = self.root / "bin", self._path
        programs.mkdir()
        (programs / "nvidia-smi").write_text(NVIDIA_SMI)
        (programs / "nvidia-smi").chmod(0o755)
        self._path = f"{programs}:{path}"
        try:
            yield
        finally:
            self._path = path

    @contextmanager
    def resident(self, *options: str) -> Iterator[ForkedProcess]:
        """A `ugro serve` that has begun."""
        with ForkedProcess(self._forks, ["serve", *options], cwd=str(self.root), env=self.env) as serving:
            try:
                lock = self.home / "serve.lock"
                until(lambda: (lock.exists() and lock.read_text()) or serving.poll() is not None)
                assert serving.poll() is None, serving.communicate()
                yield serving
            finally:
                serving.terminate()
                serving.communicate(timeout=30)
