"""`kill -9` of `ugro` at every step of launch, cancel and sweep: the next plain sweeps bring everything to its end.

UGRO_CRASH_STRIDE=1 tries every step; without it every few, so that it stays quick.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ugro.testing.cluster import PYTHON
from ugro.testing.commands import answering, until
from ugro.testing.testbed.bed import Testbed
from ugro.testing.testbed.hosts import Host

pytestmark = pytest.mark.timeout(900)

STRIDE = int(os.environ.get("UGRO_CRASH_STRIDE", "20"))

INVENTORY = """\
defaults: {python: ~/python, min_disk: 0}
nodes:
  gpu-master: {address: 10.213.7.1, local: true}
  gpu1: {address: 10.213.7.2, user: testbed-ob}
"""

SCRIPT = """\
import os, time
home = os.path.expanduser("~/")
open(home + "started", "a").write(os.environ["RANK"] + "\\n")
while os.path.exists(home + "stay"): time.sleep(0.02)
"""

ENDED = ("succeeded", "failed", "cancelled")


class Crashing:
    """Two hosts, a job that says where it started, and a `ugro` that dies at a given step."""

    def __init__(self, bed: Testbed, ask: Callable[..., dict[str, Any]]) -> None:
        self._ask = ask
        self.hosts = (bed.master, bed.gpu1)
        self.home = bed.master.path(".ugro")

    def new(self, *, staying: bool) -> None:
        """No state anywhere; scripts end at once unless they are `staying`."""
        for host in self.hosts:
            host.run(["rm", "-rf", ".ugro", "started", "stay"])
            if staying:
                host.write("stay", "")

    def let_end(self) -> None:
        for host in self.hosts:
            host.path("stay").unlink()

    def ugro(self, *args: str, at: int = 0) -> dict[str, Any]:
        return self._ask(args=args, at=at)

    def jobs(self) -> dict[str, dict[str, Any]]:
        done = self.ugro("status", "--json")
        assert done["status"] == 0, done["stderr"]
        return {job["id"]: job for job in json.loads(done["stdout"])["jobs"]}

    def sweep_until_quiet(self) -> None:
        """Sweeps until two in a row had nothing to tell and nothing is under way."""
        for _ in range(40):
            done = self.ugro("sweep")
            assert done["status"] == 0, done["stderr"]
            if not done["stdout"] and all(state in ENDED for state in self.recorded().values()):
                return
        raise AssertionError(f"still not quiet: {self.jobs()}")

    def recorded(self) -> dict[str, str]:
        """The state of each job that has a record."""
        records = self.home.glob("jobs/*/job.json")
        return {path.parent.name: json.loads(path.read_text())["state"] for path in records}

    def started(self) -> list[str]:
        """The ranks that started, once for each time they did."""
        return sorted("".join(host.path("started").read_text() for host in self.hosts if has(host, "started")).split())

    def processes(self) -> list[list[str]]:
        """What still runs of any job."""
        return [p.command for host in self.hosts for p in host.processes() if "UGRO_RUN" in p.environ]

    def run_to(self, *states: str) -> None:
        """A job that stays, with its ranks started and as `recorded` by a sweep."""
        self.new(staying=True)
        assert self.ugro("launch", "t.py")["status"] == 0
        until(lambda: self.started() == ["0", "1"])
        self.ugro("sweep")
        assert set(self.recorded().values()) == set(states)

    def check(self) -> None:
        """What has to be so after any crash and the sweeps that follow it."""
        recorded = self.recorded()
        assert {name: job["state"] for name, job in self.jobs().items()} == recorded, "listed is what is recorded"
        assert all(count == 1 for count in Counter(self.started()).values()), "no rank started twice"
        assert not self.processes(), "no rank is left"
        json.loads((self.home / "cluster.json").read_text())
        for path in self.home.glob("jobs/*/*.json"):
            json.loads(path.read_text())
        for name in recorded:
            done = self.ugro("status", name, "--json")
            assert done["status"] == 0, done["stderr"]
            assert self.ugro("events", name)["status"] == 0
        index = json.loads((self.home / "cluster.json").read_text()).get("jobs", {})
        assert not {row["id"] for row in index.values()} & recorded.keys(), "ended jobs left the index of live ones"
        done = self.ugro("status", "--all", "--json")
        assert {job["id"] for job in json.loads(done["stdout"])["jobs"]} == recorded.keys(), "and are in the other one"


def has(host: Host, name: str) -> bool:
    return host.path(name).exists()


@pytest.fixture(scope="module")
def cluster(testbed: Testbed) -> Iterator[Crashing]:
    """One for all: each pass begins with `new`, and starting such a `ugro` takes longer than a pass."""
    testbed.reset()
    testbed.master.write("inventory.yaml", INVENTORY)
    testbed.master.write("project/t.py", SCRIPT)
    for host in (testbed.master, testbed.gpu1):
        host.write("python", PYTHON, 0o755)
    program = [sys.executable, str(Path(__file__).with_name("crash.py"))]
    env = {"UGRO_INVENTORY": f"{testbed.master.home}/inventory.yaml"}
    ugro = testbed.popen(program, cwd=f"{testbed.master.home}/project", env=env, stdin=-1, stderr=None)
    with answering(ugro) as ask:
        yield Crashing(testbed, ask)


def crashes() -> Iterator[int]:
    """The numbers of the steps to die at; a test stops at the first that the command survives."""
    return iter(range(1 + STRIDE // 2, 1000, STRIDE))


@pytest.mark.long
def test_a_launch_that_is_killed_anywhere_is_continued_or_was_never_there(cluster: Crashing) -> None:
    for at in crashes():
        cluster.new(staying=False)
        done = cluster.ugro("launch", "t.py", at=at)
        where = f"killed at step {at}: {done['steps'][-1]}"
        was = cluster.recorded()
        cluster.sweep_until_quiet()
        assert cluster.recorded() == dict.fromkeys(was, "succeeded"), where
        assert cluster.started() == (["0", "1"] if was else []), where
        cluster.check()
        if done["status"] != -9:
            assert done["status"] == 0 and was, done["stderr"]
            return


@pytest.mark.long
def test_a_launch_that_is_killed_before_it_claims_its_nodes_claims_them_when_it_is_continued(cluster: Crashing) -> None:
    cluster.new(staying=False)
    steps = cluster.ugro("launch", "t.py")["steps"]
    cluster.sweep_until_quiet()
    assert [has(host, ".ugro/owner") for host in cluster.hosts] == [True, True]
    claiming = min(at for at, step in enumerate(steps, 1) if step.startswith("before run"))
    cluster.new(staying=False)
    assert cluster.ugro("launch", "t.py", at=claiming)["status"] == -9
    assert cluster.recorded() == {"job-001": "starting"}
    cluster.sweep_until_quiet()
    assert cluster.started() == ["0", "1"]
    assert [has(host, ".ugro/owner") for host in cluster.hosts] == [True, True]


@pytest.mark.long
def test_a_cancel_that_is_killed_anywhere_is_finished(cluster: Crashing) -> None:
    for at in crashes():
        cluster.run_to("running")
        done = cluster.ugro("cancel", "job-001", at=at)
        where = f"killed at step {at}: {done['steps'][-1]}"
        record = json.loads((cluster.home / "jobs/job-001/job.json").read_text())
        if record["state"] == "running" and not record["wish"]:
            assert cluster.processes(), f"{where}: without the wish on record nothing is ended"
            assert cluster.ugro("cancel", "job-001")["status"] == 0
        cluster.sweep_until_quiet()
        assert cluster.recorded() == {"job-001": "cancelled"}, where
        assert cluster.started() == ["0", "1"]
        cluster.check()
        if done["status"] != -9:
            assert done["status"] == 0, done["stderr"]
            return


@pytest.mark.long
def test_a_sweep_that_is_killed_while_it_ends_a_job_is_finished(cluster: Crashing) -> None:
    for at in crashes():
        cluster.run_to("running")
        cluster.let_end()
        until(lambda: not cluster.processes())
        done = cluster.ugro("sweep", at=at)
        where = f"killed at step {at}: {done['steps'][-1]}"
        cluster.sweep_until_quiet()
        assert cluster.recorded() == {"job-001": "succeeded"}, where
        cluster.check()
        if done["status"] != -9:
            assert done["status"] == 0, done["stderr"]
            return


@pytest.mark.long
def test_an_end_that_was_recorded_but_not_told_is_told_by_the_next_sweep(cluster: Crashing) -> None:
    def ready() -> None:
        cluster.run_to("running")
        cluster.let_end()
        until(lambda: not cluster.processes())

    ready()
    steps = cluster.ugro("sweep")["steps"]
    ready()
    recorded = max(at for at, step in enumerate(steps, 1) if step == "after replace job.json")
    assert cluster.ugro("sweep", at=recorded)["status"] == -9
    assert cluster.recorded() == {"job-001": "succeeded"}
    cluster.sweep_until_quiet()
    assert "succeeded" in cluster.ugro("events", "job-001")["stdout"]
