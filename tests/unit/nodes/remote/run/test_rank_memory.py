"""What shows that a rank was killed for lack of memory: what `rank.py` finds on its node, and what is made of it."""

from __future__ import annotations

import os
import resource
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.unit.control_plane.scheduler.test_tracker import OVER, done, failure, rank, runs
from tests.unit.nodes.remote.run.test_rank_limit import left, run
from ugro.common.models.run import RankFiles
from ugro.nodes.remote.run.on_node import rank as script
from ugro.nodes.remote.run.run_files import parse_look

V1, V2 = "/sys/fs/cgroup/memory", "/sys/fs/cgroup"
MEMINFO = "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: {} kB\n"


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The files of a simulated node by their paths; the most that a child held there is 500 KiB."""
    there: dict[str, str] = {"/proc/meminfo": MEMINFO.format(900)}
    monkeypatch.setattr(script, "text_of", lambda path: there.get(path, ""))
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=500))
    return there


@pytest.mark.parametrize(
    ("text", "folders"),
    [
        ("0::/user.slice/a.scope\n", [f"{V2}/user.slice/a.scope", f"{V2}/user.slice", V2]),
        ("4:cpuset,memory:/a\n0::/b\n", [f"{V1}/a", V1]),
        ("1:name=systemd:/a:b\n0::/\n", [f"{V2}/", V2]),
        ("", []),
    ],
)
def test_the_folders_of_a_memory_cgroup(files: dict[str, str], text: str, folders: list[str]) -> None:
    files["/proc/self/cgroup"] = text
    assert script.memory_cgroups() == folders


@pytest.mark.parametrize(
    ("cgroup", "folder", "events", "limit"),
    [
        ("0::/a/b\n", f"{V2}/a/b", "memory.events", "memory.max"),
        ("0::/not/here\n", V2, "memory.events", "memory.max"),  # as a container without a namespace for it sees it
        ("4:memory:/a\n", f"{V1}/a", "memory.oom_control", "memory.limit_in_bytes"),
    ],
)
def test_a_count_of_kills_that_rose_meanwhile(
    files: dict[str, str], cgroup: str, folder: str, events: str, limit: str
) -> None:
    files |= {"/proc/self/cgroup": cgroup, f"{folder}/{limit}": f"{600 * 1024}\n"}
    files[f"{folder}/{events}"] = "oom 9\noom_kill 2\noom_kill_disable 0\noom_group_kill 7\n"
    watch = script.OutOfMemory()
    assert watch.evidence(os.getpid()) is None
    files[f"{folder}/{events}"] = "oom_kill_disable 0\noom_kill 3\n"
    assert watch.evidence(os.getpid()) == "cgroup 500 600"
    files[f"{folder}/{limit}"] = "max\n"
    assert watch.evidence(os.getpid()) == "cgroup 500 1000"


@pytest.mark.parametrize(("available", "evidence"), [(599, "full 500 1000"), (600, None)])
def test_memory_that_was_nearly_full(files: dict[str, str], available: int, evidence: str | None) -> None:
    files["/proc/meminfo"] = MEMINFO.format(available)
    assert script.OutOfMemory().evidence(os.getpid()) == evidence


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("6,1,1,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),task=python3,pid=77,uid=0", True),
        ("3,1,1,-;Out of memory: Killed process 77 (python3) total-vm:1kB, anon-rss:1kB", True),
        ("3,1,1,-;Memory cgroup out of memory: Killed process 77 (python3)", True),
        ("3,1,1,-;Killed process 177 (python3)", False),
        ("6,1,1,-;oom-kill:constraint=CONSTRAINT_NONE,task=python3,pid=770,uid=0", False),
    ],
)
def test_recognizes_the_kernel_log_of_a_kill(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch, line: str, told: bool
) -> None:
    records = [b"6,0,0,-;usb 1-1: new device", BrokenPipeError(), line.encode(), BlockingIOError()]

    def read(_descriptor: int, _size: int) -> bytes:
        record = records.pop(0)
        if isinstance(record, Exception):
            raise record
        return record

    watch = script.OutOfMemory()
    watch.kernel_log = 99
    with monkeypatch.context() as patch:
        patch.setattr(os, "read", read)
        assert (watch.evidence(77) == "kernel 500 1000") is told


def test_a_rank_killed_by_a_signal_leaves_no_evidence_of_lacking_memory(tmp_path: Path) -> None:
    assert run(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)").returncode == -9
    assert left(tmp_path, "exit")[:2] == ["signal", "KILL"] and not (tmp_path / "rank-3.oom").exists()


def test_the_evidence_is_looked_at_and_nonsense_is_passed_over() -> None:
    text = "@n clock 10.5 boot\n@n run\nrank 0 9 ended signal KILL 9.5\n{}@n -\n"
    [first] = parse_look(text.format("oom 0 cgroup 204800 1048576\n"), "n")[0].ranks
    assert first.oom == "the kernel killed for lack of memory in its cgroup meanwhile; it held up to 200 MiB of 1.0 GiB"
    for lines in (
        "",
        "oom 0 cgroup 1\n",
        "oom 0 evil 1 1\n",
        "oom x full 1 1\noom 0 full -1 1\n",
        "oom 0 full 1 1 1\n",
    ):
        [first] = parse_look(text.format(lines), "n")[0].ranks
        assert first == RankFiles(0, 9, False, signal="KILL", ended_at=9.5), lines


def test_a_kill_with_evidence_is_host_oom_and_what_the_log_says_goes_before() -> None:
    killed = RankFiles(1, 1001, False, None, "KILL", 90.0, oom="it held up to 9 GiB of 9 GiB")
    seen = runs(done(0), OVER, done(2))
    for files, log, cause in (
        (killed, "epoch 1\n", "host_oom"),
        (killed, "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB.\n", "cuda_oom"),
        (rank(1, signal="KILL"), "epoch 1\n", "killed"),
    ):
        seen["gpu1"] = replace(OVER, ranks=(files,))
        found = failure(seen, {1: log})
        assert found.cause == cause and (found.message == killed.oom) is (cause == "host_oom")
