"""`ugro serve` on the sandbox."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ugro.sandbox.cluster import Sandbox
from ugro.testing.commands import Ugro, document, until
from ugro.testing.testbed.machine import Begun, ForkedProcess

CLUSTER = ("gpu-master", "gpu1")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "brief.py").write_text("")
    counting = "import time\nfor n in range(1000):\n    print('line', n, flush=True)\n    time.sleep(0.002)\n"
    (folder / "counting.py").write_text(counting)
    return folder


@pytest.fixture
def serving(begun: Begun) -> Iterator[ForkedProcess]:
    """`ugro serve` on the sandbox."""
    with begun("--log-level", "debug", "serve", "--every", "0.5") as process:
        try:
            assert process.stdout and "watching gpu-master, gpu1" in process.stdout.readline()
            yield process
        finally:
            process.kill()
            process.communicate()


@pytest.mark.long
def test_serves_the_sandbox_and_finishes_its_tick_at_sigterm(
    serving: ForkedProcess, sandbox: Sandbox, ugro: Ugro
) -> None:
    job = document(ugro("launch", "brief.py", "--nodes", "2", "--hold", "--json"))["id"]
    document(ugro("release", job, "--json"))
    until(lambda: document(ugro("status", job, "--json"))["state"] == "succeeded", 120)
    serving.send_signal(signal.SIGTERM)
    said, complained = serving.communicate(timeout=60)
    assert serving.returncode == 0 and complained == ""
    assert f"{job} succeeded" in said and said.rstrip().endswith("stopped; jobs keep running")
    logged = Path(sandbox.environment()["UGRO_HOME"], "log", "ugro.log").read_text()
    assert "connected to gpu1" in logged and f"{job} succeeded" in logged and "tick 1 took" in logged


@pytest.mark.long
def test_following_continues_where_the_resident_is_killed(serving: ForkedProcess, begun: Begun, ugro: Ugro) -> None:
    job = document(ugro("launch", "counting.py", "--nodes", "2", "--json"))["id"]
    with begun("logs", "-f", job) as following:
        assert following.stdout and following.stderr
        lines = [following.stdout.readline() for _ in range(100)]
        serving.kill()
        lines += following.stdout.readlines()
        complained = following.stderr.read()
    for rank in {line.partition("]")[0] for line in lines}:
        assert [line.split()[-1] for line in lines if line.startswith(rank)] == [str(n) for n in range(1000)]
    assert complained == "note: the resident controller ended; this command continues by itself\n"
    assert following.returncode == 0
