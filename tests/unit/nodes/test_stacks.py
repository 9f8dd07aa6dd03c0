"""Where ranks stand: real processes that are stopped, busy, asleep or wait; and answers that are not to be believed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from envelopes import envelope

from ugro.cli.main import cli
from ugro.common.errors import EXIT_INPUT, InputError, NodeRefused
from ugro.common.models.job import Job, Rank
from ugro.common.models.job_state import JobState
from ugro.common.models.stacks import RankStack, Thread
from ugro.common.paths import RunPaths
from ugro.control_plane.metadata_store import MetadataStore
from ugro.nodes.remote.stacks.stacks import own_py_spy, stacks, waits_in
from ugro.nodes.transport import LocalTransport, Outcome
from ugro.testing import builders
from ugro.testing.commands import until

PATHS = RunPaths("~/.ugro", "job-001", 1, 0)
SCRIPTS = {
    "stopped": "import time\nprint('up', flush=True)\ntime.sleep(600)",
    "busy": "print('up', flush=True)\nwhile True: pass",
    "asleep": "import threading, time\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    "print('up', flush=True)\ntime.sleep(600)",
    "waiting": "import os, socket\nhere, there = socket.socketpair()\nprint('up', flush=True)\nhere.recv(1)",
}
Start = Callable[..., list[int]]


@pytest.fixture
def folder(home: Path) -> Path:
    made = home / ".ugro/jobs/job-001/1/node-0"
    made.mkdir(parents=True)
    return made


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Starts processes as the ranks of a run, and waits until each has said so."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*names: str) -> list[int]:
        for rank, name in enumerate(names):
            process = subprocess.Popen([sys.executable, "-c", SCRIPTS[name]], stdout=subprocess.PIPE)
            started.append(process)
            assert process.stdout and process.stdout.readline() == b"up\n"
            since = fields(process.pid)[19]
            (folder / f"rank-{rank}.pid").write_text(f"{process.pid} {since}\n")
        return [process.pid for process in started]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
async def node() -> AsyncIterator[LocalTransport]:
    transport = LocalTransport(builders.this_machine(python=sys.executable))
    yield transport
    await transport.close()


def fields(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def main_thread(rank: RankStack) -> Thread:
    return next(thread for thread in rank.threads if thread.tid == rank.pid)


async def test_says_what_each_rank_does(start: Start, node: LocalTransport) -> None:
    stopped, busy, asleep, _ = start("stopped", "busy", "asleep", "waiting")
    os.kill(stopped, signal.SIGSTOP)
    until(lambda: fields(stopped)[0] == "T")
    until(lambda: int(fields(busy)[11]) > 20)
    seen = (await stacks(node, PATHS)).ranks
    assert [rank.rank for rank in seen] == [0, 1, 2, 3]
    assert [rank.state for rank in seen] == ["T", "R", "S", "S"]
    assert main_thread(seen[0]).waits_in == "is stopped by a signal"
    assert main_thread(seen[1]).waits_in == "runs" and (seen[1].cpu_seconds or 0) >= 0.2
    assert main_thread(seen[2]).waits_in == "sleeps"
    assert seen[2].cpu_seconds is not None and seen[2].cpu_seconds < 5
    assert main_thread(seen[3]).waits_in == "waits for data of another process (recv)"
    [other] = [thread for thread in seen[2].threads if thread.tid != asleep]
    assert other.waits_in == "waits for another thread or a lock (futex)"
    assert fields(stopped)[0] == "T", "what was stopped is so still"
    assert [rank.rank for rank in (await stacks(node, PATHS, [2])).ranks] == [2]


async def test_a_process_that_ended_or_only_has_the_pid_is_no_rank(
    start: Start, folder: Path, node: LocalTransport
) -> None:
    [pid] = start("asleep")
    (folder / "rank-0.pid").write_text(f"{pid} 1\n")
    (folder / "rank-1.pid").write_text("999999999 1\n")
    (folder / "rank-2.pid").write_text("")
    (folder / "rank-x.pid").write_text(f"{pid} 1\n")
    seen = (await stacks(node, PATHS)).ranks
    assert [(rank.rank, rank.state, rank.threads) for rank in seen] == [(0, None, ()), (1, None, ()), (2, None, ())]


FAKE = """\
#!/bin/sh
# Answers as py-spy 0.4 does; the pid is the last word.
for pid in "$@"; do :; done
[ "$*" = "dump --nonblocking --json --pid $pid" ] || { echo "unexpected: $*" >&2; exit 2; }
echo '[{"pid": 1, "thread_id": 7, "thread_name": "MainThread", "os_thread_id": '$pid', "active": false,
  "owns_gil": false, "process_info": null, "frames": [
  {"name": "step", "filename": "/x/train.py", "module": null, "short_filename": "train.py", "line": 42, "locals": null,
   "is_entry": false, "is_shim_entry": false}]}]'
"""
no_py_spy = pytest.mark.skipif(own_py_spy() is not None, reason="this machine has a py-spy, which counts first")


@no_py_spy
async def test_a_py_spy_that_the_node_lacks_is_sent_and_removed(
    start: Start, folder: Path, node: LocalTransport, tmp_path: Path
) -> None:
    (tmp_path / "py-spy").write_text(FAKE)
    start("asleep", "stopped")
    before = sorted(folder.iterdir())
    seen = (await stacks(node, PATHS, py_spy=tmp_path / "py-spy")).ranks
    for rank in seen:
        [frame] = main_thread(rank).frames
        assert (frame.function, frame.file, frame.line) == ("step", "/x/train.py", 42) and rank.problem is None
        assert main_thread(rank).name == "MainThread"
    assert sorted(folder.iterdir()) == before


@no_py_spy
async def test_why_there_is_no_python_stack(start: Start, folder: Path, node: LocalTransport, tmp_path: Path) -> None:
    start("asleep")
    [rank] = (await stacks(node, PATHS)).ranks
    assert "there is no py-spy" in (rank.problem or "")
    (tmp_path / "py-spy").write_text(
        "#!/bin/sh\necho 'Error: Permission Denied: Try running again with sudo' >&2; exit 1\n"
    )
    [rank] = (await stacks(node, PATHS, py_spy=tmp_path / "py-spy")).ranks
    assert (rank.problem or "").startswith("py-spy: Error: Permission Denied") and main_thread(
        rank
    ).waits_in == "sleeps"
    (tmp_path / "py-spy").write_text("#!/bin/sh\necho '[{}]'\n")
    [rank] = (await stacks(node, PATHS, py_spy=tmp_path / "py-spy")).ranks
    assert "it cannot be used" in (rank.problem or "")
    assert [path.name for path in folder.iterdir()] == ["rank-0.pid"]


@pytest.mark.parametrize(
    ("greeting", "report"), [(b"SERVER PROTOCOL 2\n", "Job summary\n 1 rank"), (b"HTTP/1.1 400\n", "")]
)
async def test_the_report_of_nccl_is_added_where_it_answers(
    greeting: bytes, report: str, start: Start, node: LocalTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in (greeting, b"OK\n", b"Job summary\n 1 rank"):
            asked.append(await reader.readline())
            writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        monkeypatch.setenv("NCCL_RAS_ADDR", f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        start("asleep")
        assert (await stacks(node, PATHS)).nccl == report
    assert asked[0] == b"CLIENT PROTOCOL 2\n"
    assert asked[1:] == ([b"TIMEOUT 5\n", b"VERBOSE STATUS\n"] if report else [b"", b""])


@pytest.mark.skipif(own_py_spy() is None, reason="needs py-spy on this machine")
async def test_a_real_py_spy_shows_the_line_and_pauses_nothing(start: Start, node: LocalTransport) -> None:
    [pid] = start("stopped")
    os.kill(pid, signal.SIGSTOP)
    [rank] = (await stacks(node, PATHS, py_spy=own_py_spy())).ranks
    assert main_thread(rank).frames[-1].function == "<module>" and main_thread(rank).frames[-1].line in (2, 3)
    assert fields(pid)[0] == "T"


@pytest.mark.parametrize(
    ("thread", "machine", "words"),
    [
        ({"state": "R"}, "x86_64", "runs"),
        ({"state": "S", "wchan": "futex_wait_queue"}, "x86_64", "lock (futex)"),
        ({"state": "S", "syscall": 232}, "x86_64", "(poll)"),
        ({"state": "S", "syscall": 22}, "aarch64", "(poll)"),
        ({"state": "S", "syscall": 22}, "riscv64", "waits"),
        ({"state": "S"}, "x86_64", "waits"),
        ({"state": "D"}, "x86_64", "cannot be interrupted"),
        ({"state": "D", "kernel": ["rpc_wait_bit_killable", "nfs_wb_all"]}, "x86_64", "network file system"),
        ({"state": "\x1b[2J"}, "x86_64", "not known"),
        ({"state": None}, "x86_64", "not known"),
    ],
)
def test_kernel_states_in_words(thread: dict[str, Any], machine: str, words: str) -> None:
    assert words in waits_in(Thread(tid=1, name="x", **thread), machine)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", "null", '{"machine": "x", "py_spy": false, "ptrace_scope": "", "ranks": [{"rank": "x"}]}',
        '{"machine": "x", "py_spy": false, "ptrace_scope": "", "ranks": [{"rank": 0, "more": 1}]}',
        '{"machine": "x", "py_spy": false, "ptrace_scope": "", "ranks": [{"rank": 0, "threads": [{"tid": 1}]}]}',
    ],
)  # fmt: skip
async def test_an_answer_that_makes_no_sense_is_refused(
    text: str, node: LocalTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    for answer in (text.encode(), envelope("stacks", text or "5")):

        async def run(*_: object, answer: bytes = answer, **__: object) -> Outcome:
            return Outcome(0, answer)

        monkeypatch.setattr(node, "run", run)
        with pytest.raises(NodeRefused, match="cannot be understood"):
            await stacks(node, PATHS)


@pytest.fixture
def running(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A record of a job that runs on this machine, as its only rank."""
    (tmp_path / "inventory.yaml").write_text(
        f"nodes:\n  here: {{address: 127.0.0.1, local: true, python: {sys.executable}}}\n"
    )
    monkeypatch.setenv("UGRO_INVENTORY", str(tmp_path / "inventory.yaml"))
    ranks = (Rank(rank=0, local_rank=0, node="here"),)
    return builders.job(JobState.RUNNING, name="job-001", ranks=ranks, placement=builders.placement("here"))


def keep(job: Job) -> Path:
    path = MetadataStore(Path(os.environ["UGRO_HOME"])).jobs.files(job.id).record
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(job.model_dump_json())
    return path


def test_the_command_shows_it_and_changes_no_record(start: Start, running: Job) -> None:
    [pid] = start("asleep")
    path = keep(running)
    before = {file: file.read_bytes() for file in path.parent.rglob("*") if file.is_file()}
    shown = CliRunner().invoke(cli, ["stacks", "job-001"])
    assert shown.exit_code == 0, shown.output
    assert shown.output.startswith(f"rank 0 on here: waits (pid {pid}), ")
    assert f"({pid}) sleeps" in shown.output
    document = json.loads(CliRunner().invoke(cli, ["stacks", "job-001", "--rank", "0", "--json"]).stdout)
    assert document["errors"] == [] and document["ranks"][0]["node"] == "here"
    assert document["ranks"][0]["threads"][0]["waits_in"] == "sleeps"
    assert {file: file.read_bytes() for file in path.parent.rglob("*") if file.is_file()} == before


def test_only_a_running_job_stands_somewhere(running: Job) -> None:
    keep(running.model_copy(update={"state": JobState.SUCCEEDED}))
    failed = CliRunner().invoke(cli, ["stacks", "job-001"])
    assert isinstance(failed.exception, InputError) and failed.exception.exit_code == EXIT_INPUT
    assert "job-001 has succeeded; only a running job" in failed.exception.message
    keep(running)
    failed = CliRunner().invoke(cli, ["stacks", "job-001", "--rank", "5"])
    assert isinstance(failed.exception, InputError) and "job-001 has no rank 5" in failed.exception.message
