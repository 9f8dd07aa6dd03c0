"""The sandbox under fire: carries out faults, checks the state after each, and at the end reports what is wrong."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO

import yaml

from chaos import invariants, processes
from chaos.faults import NODES, Fault, written
from chaos.processes import Process
from chaos.training import SCRIPT, trace_of
from ugro.control_plane.metadata_store import RESIDENT_LOCK, MetadataStore
from ugro.sandbox.cluster import Sandbox
from ugro.testing.cluster import fork_nvidia_smi, write_forking_python
from ugro.testing.commands import Ugro, commands, document, until

SPEED = 40.0
"""How much faster than in its schedule a fault follows another."""

MEETS_WITHIN = 5.0
"""Seconds in which a tick that writes is waited for, before the controller is killed."""

LOOK_EVERY = 0.2
"""Seconds between two looks while no fault is due."""

PATIENCE = 180.0
"""Seconds in which every job has to end once the faults are over."""

VICTIM_WITHIN = 3.0
"""Seconds that a fault waits for something to hit."""

STATE_LOCKED = 4
"""The exit code of a command that did not get its turn."""

RESIDENT_GONE = "the resident controller ended before it answered"
"""What a command reports whose resident controller was killed in the middle of its answer."""

JOB = """\
script: train.py
args: ["{steps}"]
nodes: {ranks}
on_failure: {{default: {policy}, max_retries: 100, backoff: 0.2}}
"""


class World:
    """A sandbox with a controller, and one person who types commands, one after the other."""

    def __init__(self, root: Path, sandbox: Sandbox, ugro: Ugro, person: ThreadPoolExecutor, log: IO[str]) -> None:
        self.wrong: list[str] = []
        self._root = root
        self._sandbox = sandbox
        self._ugro = ugro
        self._person = person
        self._log = log
        self._store = MetadataStore(Path(sandbox.environment()["UGRO_HOME"]))
        self._homes = {node.name: node.home for node in sandbox.status().nodes}
        self._typed: list[Future[None]] = []
        self._kills: dict[str, list[Fault]] = defaultdict(list)
        self._cuts: list[Fault] = []
        self._off: set[str] = set()
        self._serve = self._served()

    def play(self, faults: Sequence[Fault], speed: float) -> None:
        """Let the faults happen, then repair what can be repaired, and wait until every job has ended."""
        began = time.monotonic()
        for fault in faults:
            while (left := began + fault.at / speed - time.monotonic()) > 0:
                self._look()
                time.sleep(min(left, LOOK_EVERY))
            did = getattr(self, f"_{fault.kind}")(fault)
            self._write(written(fault, did))
            self._look()
        self._mend()
        with contextlib.suppress(AssertionError):
            until(self._all_ended, PATIENCE)
        self._judge()

    def close(self) -> None:
        """End the controller."""
        self._serve.send_signal(signal.SIGTERM)
        self._serve.wait(30)

    # --- what is seen ------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        self._blame(invariants.together(processes.of_jobs(self._sandbox.root)))

    def _all_ended(self) -> bool:
        self._look()
        return not self._store.jobs.live() and not self._store.decisions.undecided()

    def _blame(self, wrong: Sequence[str]) -> None:
        for problem in wrong:
            if problem not in self.wrong:
                self.wrong.append(problem)
                self._write(json.dumps({"wrong": problem}))

    def _write(self, line: str) -> None:
        self._log.write(line + "\n")  # at once, since the person's thread writes, too
        self._log.flush()

    def _judge(self) -> None:
        jobs = [document(self._ugro("status", folder.name, "--json")) for folder in self._job_folders()]
        traces = {job["id"]: trace_of(self._homes, job["id"]) for job in jobs}
        for job in jobs:
            events = document(self._ugro("events", job["id"], "--json"))
            told = [f"{event['at'][11:19]} {event['kind']} {event['message']}" for event in events]
            self._write(json.dumps({"job": job["id"], "state": job["state"], "attempts": job["attempt"], "told": told}))
            self._blame(invariants.ends_honestly(job, self._kills[job["id"]], self._cuts))
            self._blame(invariants.counted(job, traces[job["id"]], int(job["command"][1])))
            recorded = [event.model_dump() for event in self._store.timeline.of_job(job["id"])]
            self._blame(invariants.told_in_order(job, recorded))
            listing = document(self._ugro("checkpoints", job["id"], "--json"))
            self._blame(invariants.kept(job["id"], traces[job["id"]], listing))
        self._blame(invariants.alone(traces))
        self._blame([f"{process} is left" for process in processes.of_jobs(self._sandbox.root)])
        self._blame([f"{path} is left" for path in self._leftovers()])
        self._blame(
            [f"{job_id} of {nodes} is still to be cleared" for job_id, nodes in self._store.cleanup.leftovers().items()]
        )
        if not self.wrong:
            self._blame(self._another())

    def _job_folders(self) -> list[Path]:
        """Those of jobs: a submission that was cut short before its record has a folder, and no job."""
        none = self._store.jobs.cut_short()
        return [folder for folder in sorted(self._store.home.glob("jobs/job-*")) if folder.name not in none]

    def _leftovers(self) -> Iterator[Path]:
        """Files that were written halfway, but for what a killed controller leaves to `ugro gc`."""
        for root in (self._store.home, *(home / ".ugro" for home in self._homes.values())):
            for path in root.rglob("*"):
                halfway = path.name.endswith((".tmp", ".partial", ".parts")) or path.name.startswith(".")
                if halfway and not path.name.endswith(".lock") and not path.name.startswith(".tmp-"):
                    yield path

    def _another(self) -> list[str]:
        """Every GPU is free for one more job."""
        self._launch(Fault(0.0, "submit", ranks=len(NODES), steps=1, policy="fail")).result()
        last = self._job_folders()[-1].name
        ended = document(self._ugro("wait", last, "--json"))
        return [] if ended["state"] == "succeeded" else [f"afterwards a job did not succeed: {ended['reason']}"]

    # --- what happens to processes and nodes -------------------------------------------------------------------------

    def _running(self, role: str, node: str = "") -> list[Process]:
        return [one for one in processes.of_jobs(self._sandbox.root) if one.role == role and node in ("", one.node)]

    def _kill(self, fault: Fault, victims: Sequence[Process]) -> str:
        for process in victims:
            if process.job:
                self._kills[process.job].append(fault)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        return "killed " + (", ".join(f"{one.role} {one.pid} of {one.job or one.node}" for one in victims) or "nothing")

    def _one(self, fault: Fault, role: str) -> list[Process]:
        there: list[Process] = []
        with contextlib.suppress(AssertionError):
            there = until(lambda: self._running(role), VICTIM_WITHIN)
        return [there[fault.pick % len(there)]] if there else []

    def _kill_rank(self, fault: Fault) -> str:
        return self._kill(fault, self._one(fault, "rank"))

    def _kill_torchrun(self, fault: Fault) -> str:
        return self._kill(fault, self._one(fault, "torchrun"))

    def _kill_run(self, fault: Fault) -> str:
        """All that a job has on one node, at once."""
        chosen = self._one(fault, "launch")
        there = processes.of_jobs(self._sandbox.root)
        return self._kill(fault, [one for one in there if (one.job, one.node) in {(c.job, c.node) for c in chosen}])

    def _pause_rank(self, fault: Fault) -> str:
        chosen = self._one(fault, "rank")
        for process in chosen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGSTOP)
        return f"paused {chosen}"

    def _continue_ranks(self, fault: Fault) -> str:
        for process in self._running("rank"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
        return "continued every rank"

    def _tear_checkpoint(self, fault: Fault) -> str:
        """Have rank 0 of a job killed in the middle of its next save."""
        chosen = self._one(fault, "rank")
        for process in chosen:
            self._kills[process.job].append(fault)
            for home in self._homes.values():
                (home / f"tear-{process.job}").touch()
        return f"the next save of {[process.job for process in chosen]} is torn"

    def _unplug(self, fault: Fault) -> str:
        self._cuts.append(fault)
        self._off.add(fault.node)
        self._sandbox.unplug(*self._off)
        return f"off the network: {sorted(self._off)}"

    def _plug(self, fault: Fault) -> str:
        self._off.discard(fault.node)
        self._sandbox.unplug(*self._off)
        return f"off the network: {sorted(self._off)}"

    def _drop_connections(self, fault: Fault) -> str:
        self._cuts.append(fault)
        self._sandbox.unplug(*self._off, fault.node)
        self._sandbox.unplug(*self._off)
        return "for a moment"

    def _crash(self, fault: Fault) -> str:
        """As when the power goes: off the network, and nothing runs there any more."""
        off = self._unplug(fault)
        there = [one for one in processes.everything(self._sandbox.root) if one.node == fault.node]
        return f"{off}; {self._kill(fault, there)}"

    # --- what happens to the controller ------------------------------------------------------------------------------

    def _served(self) -> subprocess.Popen[bytes]:
        with open(self._root / "serve.log", "ab") as said:
            serve = subprocess.Popen(
                [sys.executable, "-m", "ugro", "serve", "--every", "0.5"],
                env=_environment(self._root, self._sandbox), stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            )  # fmt: skip
        until(lambda: self._store.is_locked(RESIDENT_LOCK))
        return serve

    def _kill_controller(self, fault: Fault) -> str:
        """While a command or the controller acts, which is mostly the controller itself, in the middle of a tick.

        A tick that has little to write holds the lock for a moment only: where none is met, it is killed between two.
        """
        end = time.monotonic() + MEETS_WITHIN
        while not self._store.is_locked("lock") and time.monotonic() < end:
            time.sleep(0.005)
        self._serve.kill()
        self._serve.wait()
        self._serve = self._served()
        return f"started again as {self._serve.pid}"

    # --- what the user does ------------------------------------------------------------------------------------------

    def _type(self, *words: str) -> Future[None]:
        """Have the person type a command when the one before has ended."""

        def run() -> None:
            done = self._ugro(*words)
            said = {"typed": words, "status": done.returncode, "stderr": done.stderr}
            self._write(json.dumps(said))
            no_turn = done.returncode == STATE_LOCKED and RESIDENT_GONE not in done.stderr
            if no_turn or "Traceback" in done.stderr:
                self._blame([f"`ugro {' '.join(words)}` broke: {done.stderr}"])

        typed = self._person.submit(run)
        self._typed.append(typed)
        return typed

    def _about(self, fault: Fault, jobs: Sequence[str], *words: str) -> str:
        if not jobs:
            return "there is no such job"
        job = jobs[fault.pick % len(jobs)]
        self._type(*words, job)
        return " ".join([*words, job])

    def _live(self, *states: str) -> list[str]:
        return [job.id for job in self._store.jobs.live() if not states or job.state in states]

    def _submit(self, fault: Fault) -> str:
        self._launch(fault)
        return "submitted"

    def _launch(self, fault: Fault) -> Future[None]:
        path = self._root / "project" / f"{fault.ranks}-{fault.steps}-{fault.policy}.yaml"
        path.write_text(JOB.format(steps=fault.steps, ranks=fault.ranks, policy=fault.policy))
        return self._type("launch", path.name, "--yes", "--json")

    def _cancel(self, fault: Fault) -> str:
        return self._about(fault, self._live(), "cancel")

    def _hold(self, fault: Fault) -> str:
        return self._about(fault, self._live("queued"), "hold")

    def _release(self, fault: Fault) -> str:
        return "; ".join(self._about(Fault(0.0, "", pick=0), [job], "release") for job in self._live("held"))

    def _drain(self, fault: Fault) -> str:
        self._type("drain", fault.node, "--reason", "chaos")
        return "nothing new starts there"

    def _undrain(self, fault: Fault) -> str:
        self._type("undrain", fault.node)
        return "it takes jobs again"

    def _resume(self, fault: Fault) -> str:
        ended = [summary.id for summary in self._store.jobs.summaries() if summary.state in ("failed", "cancelled")]
        return self._about(fault, ended, "resume", "--yes")

    def _approve(self, fault: Fault) -> str:
        return self._about(fault, sorted(self._store.decisions.proposals()), "approve")

    def _deny(self, fault: Fault) -> str:
        return self._about(fault, sorted(self._store.decisions.proposals()), "deny")

    def _mend(self) -> None:
        """The faults are over: nodes are back, ranks continue, nothing is held or drained."""
        self._off.clear()
        self._sandbox.unplug()
        self._continue_ranks(Fault(0.0, ""))
        for typed in self._typed:
            typed.result()
        for node in self._store.config.drains():
            self._type("undrain", node).result()
        for job in self._live("held"):
            self._type("release", job).result()


def _environment(root: Path, sandbox: Sandbox) -> dict[str, str]:
    return {**os.environ, **sandbox.environment(), "UGRO_INVENTORY": str(root / "inventory.yaml")}


@contextlib.contextmanager
def world(root: Path, log: IO[str]) -> Iterator[World]:
    """A world in a folder of its own. Its nodes train without torch, and fork their short scripts."""
    project = root / "project"
    project.mkdir(parents=True)
    (project / "train.py").write_text(SCRIPT)
    python = write_forking_python(root / "python")
    sandbox = Sandbox(root / "sandbox")
    sandbox.up()
    fork_nvidia_smi(sandbox, python)
    try:
        inventory = yaml.safe_load(sandbox.status().inventory.read_text())
        inventory["defaults"]["python"] = str(python)
        (root / "inventory.yaml").write_text(yaml.safe_dump(inventory))
        with commands(project, _environment(root, sandbox)) as ugro, ThreadPoolExecutor(1) as person:
            made = World(root, sandbox, ugro, person, log)
            try:
                yield made
            finally:
                made.close()
    finally:
        sandbox.down()
