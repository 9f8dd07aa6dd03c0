"""The setup of an environment as its script on a node does it: real processes of this machine."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ugro.common.config import NodeConfig
from ugro.common.errors import NodeRefused
from ugro.common.paths import RunPaths
from ugro.nodes.remote.run.process_manager import run_token, stop
from ugro.nodes.remote.setup.setup import NodeSetup, SetupSeen, find_python, look_at_setup
from ugro.nodes.transport import LocalTransport, Outcome

WAITS = 'echo "$UGRO_JOB"; until [ -e "$GO" ]; do sleep 0.02; done 2>/dev/null; echo "$UGRO_JOB went on"'
"""A shell whose sleep is ended before the shell itself says "Terminated" on stderr: not what these tests are about."""


class Node:
    """A node, and what jobs set up on it."""

    def __init__(self, base: Path, name: str = "a") -> None:
        self.base = base
        self.transport = LocalTransport(NodeConfig(name=name, address="127.0.0.1", base_dir=str(base)))
        self.have: dict[str, int] = {}
        self.output: dict[str, str] = {}

    def setup(self, job: str, command: str = WAITS, **more: Any) -> NodeSetup:
        paths = RunPaths(str(self.base), job, 1, 0)
        code = Path(paths.job_dir) / "code"
        code.mkdir(parents=True, exist_ok=True)
        env = {"GO": str(self.base / "go")}
        run = run_token(f"uid-{job}", paths)
        return NodeSetup("digest", paths, run, command, more.get("timeout", 60.0), more.get("python", ""), env)

    async def look(self, setup: NodeSetup, start: bool = True) -> SetupSeen:
        job = setup.paths.job
        seen = await look_at_setup(self.transport, setup, self.have.get(job, 0), start=start)
        self.have[job] = self.have.get(job, 0) + len(seen.output)
        self.output[job] = self.output.get(job, "") + seen.output.decode()
        return seen

    async def until(self, setup: NodeSetup, state: str) -> SetupSeen:
        async with asyncio.timeout(20):
            while (seen := await self.look(setup)).state != state:
                await asyncio.sleep(0.02)
        return seen

    async def printed(self, setup: NodeSetup, text: str) -> None:
        async with asyncio.timeout(20):
            while text not in self.output.get(setup.paths.job, ""):
                await self.look(setup)
                await asyncio.sleep(0.02)

    async def stop(self, setup: NodeSetup) -> bool:
        return (await stop(self.transport, setup.paths, f"uid-{setup.paths.job}", 2.0)).proved


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path / "base")
    made.base.mkdir()
    yield made
    (made.base / "go").touch()
    for number in (1, 2):
        await made.stop(made.setup(f"job-00{number}"))
    await made.transport.close()


def claim(where: Node, **changed: Any) -> None:
    """Change what a claim says of its owner."""
    path = where.base / "setups/digest/claim/owner"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


async def test_only_looks_where_nothing_is_to_be_started(node: Node) -> None:
    assert (await node.look(node.setup("job-001"), start=False)).state == "free"
    assert not node.base.joinpath("setups").exists()


async def test_another_job_waits_and_takes_over_what_a_cancelled_one_began(node: Node) -> None:
    first, second = node.setup("job-001"), node.setup("job-002")
    await node.printed(first, "job-001\n")
    seen = await node.look(second)
    assert (seen.state, seen.job) == ("running", "job-001")
    assert await node.stop(first), "the end of the setup is proved"
    await node.printed(second, "job-002\n")
    (node.base / "go").touch()
    assert (await node.until(second, "done")).job == "job-002"
    assert node.output["job-002"] == "job-001\njob-002\njob-002 went on\n", "what the other one printed, then its own"


async def test_two_that_begin_at_once_run_it_once(node: Node) -> None:
    setups = [node.setup(f"job-00{number}", "echo ran >> $GO; sleep 0.2") for number in (1, 2)]
    await asyncio.gather(*(node.look(setup) for setup in setups for _ in range(3)))
    await asyncio.gather(*(node.until(setup, "done") for setup in setups))
    assert (node.base / "go").read_text() == "ran\n"


async def test_a_daemon_of_the_setup_is_ended_with_the_job(node: Node) -> None:
    setup = node.setup("job-001", "setsid env -i /bin/sleep 600 &")
    await node.until(setup, "done")
    assert not (node.base / "jobs/job-001/1/node-0/setup.gone").exists()
    assert await node.stop(setup)


@pytest.mark.parametrize(
    ("command", "words"),
    [("exit 3", "ended with exit code 3"), ("kill -9 $$", "was ended by SIGKILL"), ("", "ended with exit code 126")],
)
async def test_says_how_it_failed(node: Node, command: str, words: str) -> None:
    setup = node.setup("job-001", command)
    if not command:
        (node.base / "jobs/job-001/code").rmdir()
    assert (await node.until(setup, "failed")).ended == words
    assert (await node.look(setup)).state == "failed", "the same run does not try it again"


async def test_removes_what_an_earlier_try_left_half_done(node: Node) -> None:
    await node.until(node.setup("job-001", 'touch "$UGRO_ENV_DIR/half"; exit 1'), "failed")
    done = await node.until(node.setup("job-002", 'test ! -e "$UGRO_ENV_DIR/half"'), "done")
    assert Path(done.env).is_dir()


async def test_waits_for_another_machine_as_long_as_it_gives_signs_of_life(node: Node) -> None:
    first, second = node.setup("job-001"), node.setup("job-002")
    await node.printed(first, "job-001\n")
    claim(node, boot="another", node="b", id="another")
    assert (await node.look(second)).state == "running"
    beat = node.base / "setups/digest/claim/beat"
    os.utime(beat, (time.time() - 600, time.time() - 600))
    assert (await node.look(second, start=False)).state == "free"


async def test_takes_over_after_the_machine_was_started_again(node: Node) -> None:
    await node.printed(node.setup("job-001"), "job-001\n")
    claim(node, boot="the one before")
    assert (await node.look(node.setup("job-001"), start=False)).state == "free"


async def test_finds_first_in_path_what_runs_the_job(node: Node, tmp_path: Path) -> None:
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.symlink_to(os.path.realpath("/proc/self/exe"))
    setup = node.setup("job-001", "command -v python; echo $UGRO_PYTHON", python=str(python))
    await node.until(setup, "done")
    assert node.output["job-001"] == f"{python}\n{python}\n"


async def test_refuses_an_answer_that_makes_no_sense(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    fine = {
        "state": "done",
        "env": "/e",
        "job": "",
        "code": None,
        "signal": None,
        "late": False,
        "log": "",
        "more": False,
    }
    setup = node.setup("job-001")
    for wrong in ({"env": "relative"}, {"env": "/a\nb"}, {"log": "§"}, {"state": "perhaps"}, {"code": 10**9}):
        line = json.dumps({"ugro": 1, "kind": "setup", "payload": fine | wrong})

        async def answer(*_: Any, said: str = line, **__: Any) -> Outcome:
            return Outcome(0, said.encode(), b"")

        monkeypatch.setattr(node.transport, "run", answer)
        with pytest.raises(NodeRefused, match="the answer cannot be understood"):
            await look_at_setup(node.transport, setup, 0, start=False)


async def test_finds_a_python_by_path_program_and_conda_environment(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    made = {name: tmp_path / name / "bin/python" for name in ("own", "miniconda3", "anaconda3/envs/train", "far/other")}
    for path in made.values():
        path.parent.mkdir(parents=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    (tmp_path / ".conda").mkdir()
    (tmp_path / ".conda/environments.txt").write_text(f"{tmp_path}/far/other\n")
    found = {python: await find_python(node.transport, python) for python in ("~/own/bin/python", "base", "train")}
    assert list(found.values()) == [str(made[name]) for name in ("own", "miniconda3", "anaconda3/envs/train")]
    assert await find_python(node.transport, "conda:other") == str(made["far/other"])
    assert (await find_python(node.transport, "python3")).endswith("/python3")


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("~/envs/x/bin/python", r"python ~/envs/x/bin/python is not there; looked for ~/envs/x/bin/python$"),
        ("python9.99", r"python python9.99 is not there; looked for PATH=/"),
        (
            "none",
            r"the conda environment none is not there; looked for envs/none/bin/python in ~/miniconda3, ~/anaconda3, ",
        ),
    ],
)
async def test_says_where_it_looked_for_a_python(node: Node, python: str, words: str) -> None:
    with pytest.raises(NodeRefused, match=words) as refused:
        await find_python(node.transport, python)
    assert refused.value.hint == "make it on a, or name another one: --python PATH"
