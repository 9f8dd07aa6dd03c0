"""What `ugro resume` asks, refuses and waits for, on the sandbox and a pseudo terminal."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from code_folders import plant

from ugro.common.errors import EXIT_DECLINED
from ugro.sandbox.cluster import Sandbox
from ugro.sandbox.simulation import MARK, NODE_MARK
from ugro.testing.commands import Ugro, document, until

CLUSTER = ("gpu1",)

FAILS_ONCE = """\
import argparse, os
parser = argparse.ArgumentParser()
parser.add_argument("--batch-size", type=int, default=4)
batch = parser.parse_args().batch_size
if batch > 2:
    raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
"""
HOLDS = "x = bytearray(300 << 20); x[::4096] = b'x' * len(x[::4096]); print(1, flush=True); input()"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("project"), {"train.py": FAILS_ONCE})


@pytest.fixture(scope="module")
def job(ugro: Ugro) -> str:
    """A job on gpu1 that ran out of memory."""
    made = document(ugro("launch", "train.py", "--nodes", "gpu1", "--json"))
    failed = ugro("wait", made["id"])
    assert failed.returncode == 1 and f"proposed: ugro approve {made['id']}" in failed.stderr
    return str(made["id"])


def attempt(ugro: Ugro, job: str) -> int:
    return int(document(ugro("status", job, "--json"))["attempt"])


def on_terminal(sandbox: Sandbox, project: Path, answers: dict[str, str], *words: str) -> tuple[int, str]:
    """Run `ugro` on a terminal and type each answer once its question is there. Returns its exit code and output."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(project)
        os.execve(sys.executable, [sys.executable, "-m", "ugro", *words], os.environ | sandbox.environment())
    shown, left = "", dict(answers)
    while True:
        try:
            shown += os.read(terminal, 4096).decode(errors="replace")
        except OSError:  # the other side is closed
            break
        for question in [question for question in left if question in shown]:
            until(lambda: state_of(pid) == "S")  # a signal on the way into the wait would come too early
            os.write(terminal, left.pop(question).encode())
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


def state_of(pid: int) -> str:
    """The kernel's letter for a process: S while it waits."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("question", ["batch size?", "Resume?"])
def test_ctrl_c_at_a_question_ends_it_and_changes_nothing(
    ugro: Ugro, sandbox: Sandbox, project: Path, job: str, question: str
) -> None:
    answers = {"batch size?": "n\n"} | {question: "\x03"}
    code, shown = on_terminal(sandbox, project, answers, "resume", job, "--from", "0")
    assert code == 128 + signal.SIGINT, shown
    assert attempt(ugro, job) == 1


def test_no_is_an_answer_and_changes_nothing(ugro: Ugro, sandbox: Sandbox, project: Path, job: str) -> None:
    answers = {"batch size?": "n\n", "Resume?": "n\n"}
    code, shown = on_terminal(sandbox, project, answers, "resume", job, "--from", "0")
    assert code == EXIT_DECLINED and shown.rstrip().endswith("nothing was changed") and "error" not in shown
    assert attempt(ugro, job) == 1


def test_nobody_agrees_by_asking_for_json(ugro: Ugro, job: str) -> None:
    refused = ugro("resume", job, "--from", "0", "--json")
    assert refused.returncode == 2 and attempt(ugro, job) == 1
    assert json.loads(refused.stderr)["error"]["message"] == "confirmation needed, but stdin is not a terminal"
    refused = ugro("resume", job, "--json")
    assert refused.returncode == 2 and "--from 0" in json.loads(refused.stderr)["error"]["hint"]


def test_what_could_never_run_is_refused_at_once(ugro: Ugro, job: str) -> None:
    for nodes, said in (("nosuch", "nosuch"), ("9", "9 nodes are requested and the inventory has 1")):
        refused = ugro("resume", job, "--nodes", nodes, "--from", "0", "--yes")
        assert refused.returncode == 2 and said in refused.stderr and attempt(ugro, job) == 1


def test_two_answers_to_one_proposal_are_one_answer(ugro: Ugro, job: str) -> None:
    [proposal] = document(ugro("proposals", "--json"))
    assert proposal["what"] == "begin again; --batch-size (not given) → 2" and not proposal["checkpoint"]
    assert document(ugro("deny", job, "--json"))["denied"]
    again = ugro("approve", job)
    assert again.returncode == 2 and "nothing is proposed" in again.stderr and attempt(ugro, job) == 1


@pytest.mark.long
def test_a_gpu_that_is_held_is_waited_for_and_told(ugro: Ugro, sandbox: Sandbox, job: str) -> None:
    placed = document(ugro("status", job, "--json"))
    [gpu] = [rank["gpu"] for rank in placed["ranks"]]
    marks = {MARK: str(sandbox.root), NODE_MARK: "gpu1", "CUDA_VISIBLE_DEVICES": gpu, "RANK": "0", "LOCAL_RANK": "0"}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS], env=os.environ | marks, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout and holder.stdout.readline()
        resumed = ugro("resume", job, "--set", "batch_size=1", "--from", "0", "--yes")
        assert "waiting up to 15s for GPUs: gpu1: " in resumed.stderr and str(holder.pid) in resumed.stderr
        assert "they are not free: the job waits for them in the queue" in resumed.stderr
        assert document(ugro("status", job, "--json"))["state"] == "queued"
    finally:
        holder.communicate(b"\n")
    done = ugro("wait", job)
    assert done.returncode == 0, done.stderr
