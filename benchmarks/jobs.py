"""Whole jobs on three nodes, with real sshd and real torchrun: the launch next to a loop of `ssh`, and how soon it is
known that a rank died and that a cancelled job is gone.

The ranks compute nothing. Each says in a FIFO when its first line ran, and waits until another FIFO lets it go.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import select
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.cuts import event_after
from benchmarks.fleet import ADDRESS, Fleet
from benchmarks.report import Row, in_ms, program, timed
from ugro.common.config import Inventory
from ugro.common.job_spec import job_spec
from ugro.common.paths import RunPaths
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.scheduler.submission import choose_code, submit
from ugro.nodes.pool import Pool
from ugro.nodes.remote.run.launchers import torchrun_options
from ugro.nodes.remote.run.on_node.prepare import free_port
from ugro.nodes.remote.run.process_manager import NodeLaunch
from ugro.testing.cluster import controller_over

NODES = 3
ROUNDS = 7
DEATHS = 5
CANCELS = 3
STUBBORN_CANCELS = 1
PATIENCE = 120.0
PEER_PORT = 31000
"""Where the ssh loop looks for its rendezvous: above UGRO's own range, below those that connections get."""

SOURCE = Path(__file__).parent.parent
SCRIPT = "rank.py"
SCRIPT_TEXT = """\
import time
began = time.time()
import os, signal, sys
stage, *stubborn = sys.argv[1:]
if stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(stage + "/go") as go:
    with open(stage + "/begun", "w") as begun:
        begun.write(f"{os.environ['RANK']} {os.getpid()} {os.getppid()} {began}\\n")
    go.read()
"""


@dataclass(frozen=True)
class Begun:
    """What a rank said when it began; `at` is in seconds since the epoch."""

    rank: int
    pid: int
    parent: int
    at: float


class Stage:
    """A folder in which the ranks of one job say that they began, and wait to be let go."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        for name in ("begun", "go"):
            os.mkfifo(folder / name)
        self.folder = folder
        # Open for both, so that no side waits for the other one to open, and no reader sees an end before its time.
        self._begun, self._go = (os.open(folder / name, os.O_RDWR) for name in ("begun", "go"))

    def ranks(self) -> list[Begun]:
        """All ranks, once the last one has begun."""
        said, end = b"", time.monotonic() + PATIENCE
        while (count := said.count(b"\n")) < NODES:
            if not select.select([self._begun], [], [], max(0.0, end - time.monotonic()))[0]:
                raise RuntimeError(f"{count} of {NODES} ranks began within {PATIENCE:.0f} s")
            said += os.read(self._begun, 4096)
        found = [line.split() for line in said.decode().splitlines()]
        return sorted((Begun(int(r), int(p), int(up), float(at)) for r, p, up, at in found), key=lambda one: one.rank)

    def let_go(self) -> None:
        """Let the ranks end, with success."""
        for descriptor in (self._begun, self._go):
            os.close(descriptor)


class Bench:
    """The nodes, the code that is on them, and the ways to start it. `close` ends what was kept open."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet, self._home = fleet, fleet.folder / "master"
        self.project = fleet.folder / "project"
        self.store = MetadataStore(self._home)
        for folder in (self.project, *(self._node(number) for number in range(fleet.size))):
            folder.mkdir()
            (folder / SCRIPT).write_text(SCRIPT_TEXT)
        nodes = {
            name: node.model_copy(update={"python": sys.executable, "env": _blas_settings()})
            for name, node in fleet.inventory().nodes.items()
        }
        self._inventory = Inventory(nodes=nodes)
        plain = {name: node.model_dump(mode="json", exclude_defaults=True) for name, node in nodes.items()}
        for node in plain.values():
            del node["name"]
        (fleet.folder / "inventory.yaml").write_text(json.dumps({"nodes": plain}))
        self._runner = asyncio.Runner()
        self._pool = Pool(self._inventory)
        self._stages = 0

    def close(self) -> None:
        """End what was kept open, and whatever still runs on the nodes."""
        self._runner.run(self._pool.__aexit__(None, None, None))
        self._runner.close()
        for process in psutil.process_iter(["cmdline"]):  # ssh's masters, and what a round that broke off left
            if any(str(self._fleet.folder) in word for word in process.info["cmdline"] or ()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    def stage(self) -> Stage:
        """A new one."""
        self._stages += 1
        return Stage(self._fleet.folder / f"stage-{self._stages}")

    def ugro(self, command: str, *argv: str) -> Any:
        """Run `ugro COMMAND --json …` as a process of its own; the document it printed."""
        done = subprocess.run(self.argv(command, "--json", *argv), **self.settings, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"ugro {command}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def argv(self, *words: str) -> list[str]:
        """The command line of `ugro …`."""
        return [sys.executable, "-m", "ugro", *words]

    @property
    def settings(self) -> dict[str, Any]:
        """Where such a process runs, and its environment."""
        own = {key: value for key, value in os.environ.items() if key not in ("SSH_AUTH_SOCK", "UGRO_INVENTORY")}
        where = {"UGRO_HOME": str(self._home), "UGRO_INVENTORY": str(self._fleet.folder / "inventory.yaml")}
        source = {"PYTHONPATH": str(SOURCE)}
        return {"env": own | where | source, "cwd": self.project, "stdin": subprocess.DEVNULL}

    def launch(self, stage: Stage, *more: str) -> str:
        """`ugro launch`; returns the job's id."""
        made = self.ugro("launch", SCRIPT, "--gpus-per-node", "1", "--", str(stage.folder), *more)
        if made["state"] != "running":
            raise RuntimeError(f"{made['id']} is {made['state']}: ugro launch starts nothing here")
        return str(made["id"])

    # The ways to start: each returns when it has, with what has to be called once the ranks were let go.

    def by_launch(self, stage: Stage) -> Callable[[], object]:
        """`ugro launch` as it is typed: a new process, new connections."""
        job = self.launch(stage)
        return lambda: self.ugro("wait", job)

    def by_resident(self, stage: Stage) -> Callable[[], object]:
        """A submission and a tick in a process that stays and has its connections open, as `ugro serve` has."""
        spec = job_spec(script=SCRIPT, args=(str(stage.folder),), gpus_per_node=1, workdir=str(self.project))
        job = submit(self.store, spec, choose_code(spec))
        self._runner.run(self._started(job.id))
        if (state := self.store.jobs.job(job.id).state) != "running":
            raise RuntimeError(f"{job.id} is {state.value}: {self.store.jobs.job(job.id).reason}")
        return lambda: self.ugro("wait", job.id)

    async def _started(self, job_id: str) -> None:
        controller = controller_over(self.store, self._inventory, self._pool)
        try:
            await controller.complete(job_id)
        finally:
            await controller.close()

    def by_ssh(self, stage: Stage, warm: bool) -> Callable[[], object]:
        """One `ssh` for each node, all at once, that leaves the same torchrun behind."""
        port = free_port(PEER_PORT + self._stages, PEER_PORT + 1000)
        assert port
        loop = []
        for number in range(self._fleet.size):
            torchrun = shlex.join([*self._torchrun(number, port), SCRIPT, str(stage.folder)])
            exports = "".join(f"export {key}={shlex.quote(value)}; " for key, value in _blas_settings().items())
            command = f"{exports}cd ~/project || exit; nohup setsid {torchrun} > log 2>&1 < /dev/null &"
            argv = [*self._ssh(self._fleet.ports[number], warm), ADDRESS, command]
            loop.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        if any([process.wait(PATIENCE) for process in loop]):
            raise RuntimeError("an ssh of the loop failed")
        return lambda: None

    def _torchrun(self, number: int, port: int) -> list[str]:
        paths = RunPaths("~/.ugro", "loop", 1, number)
        launch = NodeLaunch(paths, "", (SCRIPT,), NODES, 1, ADDRESS, port, sys.executable)
        return [launch.python, *torchrun_options(launch)]

    def _node(self, number: int) -> Path:
        return self._fleet.folder / str(number) / "home" / "project"

    def _ssh(self, port: int, warm: bool) -> list[str]:
        settings = {
            "UserKnownHostsFile": self._fleet.known_hosts,
            "IdentityFile": self._fleet.client_key,
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
        }
        if warm:
            settings |= {"ControlMaster": "auto", "ControlPersist": "600", "ControlPath": self._fleet.folder / "cm-%p"}
        options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        return ["ssh", "-F", "/dev/null", "-p", str(port), *options]


def _blas_settings() -> dict[str, str]:
    """What numpy needs to know on a machine whose processor OpenBLAS misjudges."""
    return {key: os.environ[key] for key in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE") if key in os.environ}


def measure() -> Iterator[Row]:
    """The launch in turns with its peers, then deaths and cancels.

    Raises:
        Unavailable: there is no ssh or no sshd here.
    """
    program("ssh", "openssh-client")
    with (
        tempfile.TemporaryDirectory(prefix="ugro-bench-") as folder,
        Fleet(Path(folder), NODES) as fleet,
        contextlib.closing(Bench(fleet)) as bench,
    ):
        yield from _launches(bench)
        yield from _deaths(bench)
        yield from _cancels(bench)


def _launches(bench: Bench) -> Iterator[Row]:
    group = f"launch, {NODES} nodes, code already there"
    ways: dict[str, Callable[[Stage], Callable[[], object]]] = {
        "ssh loop, cold": functools.partial(bench.by_ssh, warm=False),
        "ugro launch": bench.by_launch,
        "ssh loop, warm": functools.partial(bench.by_ssh, warm=True),
        "ugro resident": bench.by_resident,
    }
    alive, back = defaultdict(list), defaultdict(list)
    for number in range(-1, ROUNDS):  # the first round is not counted: it brings the code and opens what stays open
        turn = number % len(ways)
        for name in (*list(ways)[turn:], *list(ways)[:turn]):
            seconds = _start(bench.stage(), ways[name])
            if number >= 0:
                alive[name].append(seconds[0])
                back[name].append(seconds[1])
    for name in ways:
        yield timed(group, f"{name}: all ranks alive", alive[name], f"it returns after {in_ms(back[name])}")
    for first, second, limit in (
        ("ugro launch", "ssh loop, cold", 1.3),
        ("ugro resident", "ssh loop, warm", 1.3),
        ("ssh loop, warm", "ssh loop, cold", None),
    ):
        pairs = list(zip(alive[first], alive[second], strict=True))
        more = statistics.median(a - b for a, b in pairs) * 1000
        ratio = statistics.median(a / b for a, b in pairs)
        yield Row(group, f"{first} / {second}", ratio, "×", limit, note=f"{more:+.0f} ms")


def _start(stage: Stage, way: Callable[[Stage], Callable[[], object]]) -> tuple[float, float]:
    """Return the seconds until the last rank's script has begun, and until the call that started it returned."""
    begin = time.time()
    finish = way(stage)
    back = time.time() - begin
    ranks = stage.ranks()
    above = [psutil.Process(rank.parent) for rank in ranks]
    stage.let_go()
    finish()
    psutil.wait_procs(above, timeout=PATIENCE)
    return max(rank.at for rank in ranks) - begin, back


def _deaths(bench: Bench) -> Iterator[Row]:
    """A rank is killed while `ugro serve` watches."""
    verdicts, ends = [], []
    with subprocess.Popen(bench.argv("serve"), **bench.settings, stdout=subprocess.DEVNULL) as serve:
        try:
            for _ in range(DEATHS):
                job = bench.launch(stage := bench.stage())
                victim = stage.ranks()[1]
                os.kill(victim.pid, signal.SIGKILL)
                died = time.time()
                verdicts.append(event_after(bench.store, job, "failing", died) - died)
                ends.append(event_after(bench.store, job, "failed", died) - died)
                stage.let_go()
                failure = bench.store.jobs.job(job).first_failure
                if not failure or (failure.rank, failure.signal) != (victim.rank, "KILL"):
                    raise RuntimeError(f"rank {victim.rank} was killed, and the verdict is {failure}")
        finally:
            serve.terminate()
    group = "a rank is killed, `ugro serve` looks every 2 s"
    yield timed(group, "until the verdict: which rank, and how", verdicts)
    yield timed(group, "until the job is over: no processes of it remain", ends)


def _cancels(bench: Bench) -> Iterator[Row]:
    group = "`ugro cancel`"
    for what, more, repeats in (
        ("ranks that heed SIGTERM", (), CANCELS),
        ("ranks that ignore SIGTERM (killed after 10 s)", ("stubborn",), STUBBORN_CANCELS),
    ):
        gone, back = [], []
        for _ in range(repeats):
            job = bench.launch(stage := bench.stage(), *more)
            doomed = [psutil.Process(pid) for rank in stage.ranks() for pid in (rank.pid, rank.parent)]
            begin = time.time()
            with subprocess.Popen(bench.argv("cancel", job), **bench.settings, stdout=subprocess.DEVNULL) as cancel:
                psutil.wait_procs(doomed, timeout=PATIENCE)
                gone.append(time.time() - begin)
                status = cancel.wait()
            back.append(time.time() - begin)
            stage.let_go()
            if status or bench.store.jobs.job(job).state != "cancelled":
                raise RuntimeError(f"ugro cancel {job} ended with {status}")
        yield timed(group, f"{what}: until it says that none remain", back, f"the ranks are gone by {in_ms(gone)}")
