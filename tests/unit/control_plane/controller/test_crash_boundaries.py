"""One job, one node, one table that meets a bug: it is logged, reported, and everything else continues."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from ugro.common import troubles
from ugro.common.errors import InternalError, NodeRefused, UgroError
from ugro.common.log import path_of
from ugro.common.models.event_kind import EventKind
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.control_plane.controller import placing, tick
from ugro.control_plane.controller.job_steps import JobSteps
from ugro.control_plane.controller.tick import Controller
from ugro.control_plane.failure_handler.handler import FailureHandler
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.cleanup import Cleanup
from ugro.control_plane.metadata_store.decisions import Decisions
from ugro.control_plane.metadata_store.job_registry import JobRegistry
from ugro.control_plane.resource_manager import monitor
from ugro.control_plane.scheduler import tracker
from ugro.control_plane.scheduler.launcher import Launcher
from ugro.engines.ssh import observer
from ugro.engines.ssh.engine import SshEngine
from ugro.testing import builders
from ugro.testing.cluster import STARTED, Bed, Master, controller_over, write_python
from ugro.testing.commands import until

FAILS = "import sys; sys.exit(3)\n"


@pytest.fixture(autouse=True)
def nothing_was_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(troubles, "_logged", set())


def is_about(job_id: str, values: tuple[Any, ...]) -> bool:
    """Whether a call is about a job: its first argument that is one, or an id of one."""
    about = [getattr(value, "job", value) for value in values[:4]]
    return any(job_id in (value, getattr(value, "id", None)) for value in about)


def break_for(job: Job, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[str]:
    """Make a function raise when it is about a job. Returns a list that shows whether it was called."""
    act: Callable[..., Any] = getattr(owner, name)
    called: list[str] = []

    def broken(*args: Any, **options: Any) -> Any:
        if is_about(job.id, args):
            called.append(name)
            raise RuntimeError("a bug")
        return act(*args, **options)

    monkeypatch.setattr(owner, name, broken)
    return called


async def ticks(bed: Bed, until: Callable[[], object], told: list[UgroError] | None = None) -> list[UgroError]:
    """Tick until something is so. Returns what the ticks complained of, which is in `told` at once."""
    store, told = MetadataStore(bed.store.home), [] if told is None else told
    controller = controller_over(store, bed.inventory, bed.pool)
    async with asyncio.timeout(60):
        while not until():
            try:
                await controller.tick()
            except UgroError as error:
                told.append(error)
            told += store.bus.troubles
            store.bus.end_round()
            await controller.rest(within=0.3)
    await controller.close()
    return told


STEPS = [
    (Controller, "_plan", STARTED),
    (JobSteps, "act", STARTED),
    (JobSteps, "_launch", STARTED),
    (JobSteps, "_succeed", STARTED),
    (JobSteps, "_fail", FAILS),
    (JobSteps, "_end_on_nodes", STARTED),
    (JobSteps, "end", STARTED),
    (Launcher, "launch", STARTED),
    (SshEngine, "stop", FAILS),
    (placing, "_place", STARTED),
    (Controller, "_watch", STARTED),
    (tracker, "assess", STARTED),
    (FailureHandler, "_decide", FAILS),
    (FailureHandler, "_is_decided", FAILS),
    (JobRegistry, "_catch_up", STARTED),
]


@pytest.mark.parametrize(("owner", "name", "text"), STEPS, ids=[name for _, name, _ in STEPS])
async def test_a_bug_in_one_jobs_step_keeps_no_other_job_waiting(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, owner: Any, name: str, text: str
) -> None:
    one, other = bed.submit(text, nodes=("a",)), bed.submit(text, nodes=("b",))
    called = break_for(one, monkeypatch, owner, name)
    told: list[UgroError] = []

    def served() -> bool:
        decided = other.id not in bed.store.decisions.undecided()
        return bool(called and told) and decided and bed.store.jobs.job(other.id).state.ended

    with caplog.at_level(logging.ERROR, "ugro"):
        await ticks(bed, served, told)
    bugs = {error.message for error in told if isinstance(error, InternalError)}
    assert bugs and all(one.id in message for message in bugs)
    assert not any(other.id in error.message for error in told)
    assert any(record.exc_info for record in caplog.records)
    with contextlib.suppress(UgroError):
        monkeypatch.undo()
        builders.change(bed.store, one.id, EventKind.RANKS)
    await ticks(bed, lambda: bed.store.jobs.job(one.id).state.ended)


async def test_a_node_whose_answer_is_a_surprise_hides_no_other(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    act = observer.observer.observe

    async def observe(transport: Any, *args: Any, **options: Any) -> Any:
        if transport.name == "a":
            raise KeyError("a key that a driver of next year leaves out")
        return await act(transport, *args, **options)

    monkeypatch.setattr(observer.observer, "observe", observe)
    job = bed.submit(STARTED, nodes=("b",))
    await ticks(bed, lambda: bed.store.jobs.job(job.id).state == JobState.SUCCEEDED)
    assert bed.store.config.silences()["a"].problem == "its answer cannot be used (KeyError)"
    seen = await controller_over(bed.store, bed.inventory, bed.pool).observe([])
    assert isinstance(seen.views["a"], NodeRefused)


BESIDE_JOBS = {
    "the steps": (
        [
            (monitor, "looks"),
            (tick.node_watch, "drain_departed"),
            (tick.node_watch, "remember"),
            (Controller, "_end_leftovers"),
            (Controller, "_remove_owed"),
            (Controller, "_handle_failures"),
            (JobRegistry, "_let_go_of_failed_submissions"),
        ],
        {
            "a: the history of its GPUs", "b: the history of its GPUs", "nodes that left the inventory",
            "what the nodes said", "what ended jobs left", "what removed jobs left", "what is done about failures",
            "interrupted submissions",
        },
    ),
    "what they read": (
        [(monitor, "news"), (Cleanup, "leftovers"), (Cleanup, "removals"), (Decisions, "undecided")],
        {
            "a: what is new there", "b: what is new there", "what ended jobs left", "what removed jobs left",
            "what is done about failures",
        },
    ),
}  # fmt: skip
"""What a tick does that is about no job, and what it is called where it fails: each is tried although others fail."""


@pytest.mark.parametrize(("broken", "names"), BESIDE_JOBS.values(), ids=BESIDE_JOBS)
async def test_bugs_in_what_a_tick_does_beside_jobs_keep_none_waiting(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, broken: list[tuple[Any, str]], names: set[str]
) -> None:
    called: set[str] = set()

    def fail(name: str, *args: Any, **options: Any) -> Any:
        called.add(name)
        raise RuntimeError("a bug")

    for owner, name in broken:
        monkeypatch.setattr(owner, name, functools.partial(fail, name))
    jobs = [bed.submit(STARTED, nodes=(node,)) for node in ("a", "b")]
    told = await ticks(bed, lambda: all(bed.store.jobs.job(job.id).state == JobState.SUCCEEDED for job in jobs))
    assert called == {name for _, name in broken}
    assert {str(error) for error in told if isinstance(error, InternalError)} == {
        f"{name}: unexpected RuntimeError" for name in names
    }


async def test_a_timeline_that_cannot_be_read_stops_its_own_job_alone(bed: Bed) -> None:
    one, other = bed.submit(STARTED, nodes=("a",)), bed.submit(STARTED, nodes=("b",))
    events = bed.store.jobs.files(one.id).events
    events.unlink()
    events.mkdir()
    told = await ticks(bed, lambda: bed.store.jobs.job(other.id).state == JobState.SUCCEEDED)
    assert any(str(events) in error.message for error in told)


# The resident itself, as a process

FAULTS = """
import sys
from ugro.control_plane.controller.tick import Controller
plan = Controller._plan
def broken(self, job, seen):
    if job.id == "job-001":
        raise RuntimeError("a bug at https://user:hunter2@example.org")
    return plan(self, job, seen)
Controller._plan = broken
sys.argv = ["ugro", "serve", "--every", "0.2"]
from ugro.cli.main import main
main()
"""


@pytest.mark.long
def test_a_resident_outlives_bugs_and_broken_files(master: Master) -> None:
    master.describe(keys=f"python: {write_python(master.root / 'python')}")
    store = MetadataStore(master.home)

    def state(name: str) -> JobState:
        return store.jobs.find(name).state

    for name in ("one", "two"):
        master.ugro("launch", "t.py", "--hold", "--name", name)
    command, log = [sys.executable, "-c", FAULTS], path_of(master.home)
    with subprocess.Popen(command, cwd=master.root, env=master.env, stdout=-1, stderr=-1, text=True) as serving:
        try:
            master.ugro("release", "two")
            until(lambda: state("two") == JobState.SUCCEEDED)
            master.ugro("release", "one")  # which holds the node from now on
            until(lambda: "in broken" in log.read_text())
            cluster = master.home / "cluster.json"
            sound = cluster.read_text()
            for damage in ("[", '{"proposals": {"1": {"job": 5}}, "meta": 7}', ""):
                said_before = log.stat().st_size  # each trouble is logged once: before it can be
                cluster.write_text(damage)
                until(lambda before=said_before: log.stat().st_size > before)  # type: ignore[misc]
                assert serving.poll() is None
            cluster.write_text(sound)
            master.ugro("state", "rebuild")
            master.ugro("launch", "t.py", "--hold", "--name", "three")
            master.ugro("cancel", "three")
            until(lambda: state("three") == JobState.CANCELLED)
        finally:
            serving.send_signal(signal.SIGTERM)
            said, complained = serving.communicate(timeout=60)
    assert serving.returncode == 0, complained
    assert said.count("job-001: its next step: unexpected RuntimeError") >= 1 and "stopped; jobs keep running" in said
    logged = log.read_text()
    assert logged.count("Traceback") >= 1 and "in broken" in logged and "hunter2" not in logged + said


def test_a_resident_whose_lines_nobody_reads_goes_on(master: Master) -> None:
    with master.resident("--every", "0.2") as serving:
        assert serving.stdout
        serving.stdout.close()
        serving.stdout = None
        master.ugro("launch", "t.py", "--hold")
        master.ugro("cancel", "job-001")
        until(lambda: MetadataStore(master.home).jobs.job("job-001").state == JobState.CANCELLED)
        until(lambda: "printing stopped" in path_of(master.home).read_text())
        assert serving.poll() is None
