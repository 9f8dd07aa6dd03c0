"""Entering a job of the sandbox, over real SSH: a command, a terminal, a port."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from ugro.sandbox.cluster import Sandbox
from ugro.sandbox.files import Files
from ugro.testing.commands import Ugro, document, until
from ugro.testing.testbed.machine import Begun

CLUSTER = ("gpu1", "gpu2")

SERVES = """\
import http.server, os, time
if os.environ["RANK"] == "1":
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    open("port", "w").write(str(server.server_port))
    server.serve_forever()
time.sleep(600)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "serves.py").write_text(SERVES)
    (folder / "page.txt").write_text("a page of the job")
    return folder


@pytest.fixture(scope="module")
def job(ugro: Ugro, sandbox: Sandbox) -> Iterator[str]:
    ugro("launch", "serves.py", "--nodes", "gpu1,gpu2", "--env", "FLAVOUR=a b'c", "--name", "serves")
    until((Files(sandbox.root).home("gpu2") / ".ugro/jobs/job-001/code/port").exists)
    yield "serves"
    ugro("cancel", "serves")


def test_runs_a_command_where_a_rank_runs(ugro: Ugro, sandbox: Sandbox, job: str) -> None:
    line = 'pwd; echo "$FLAVOUR $CUDA_VISIBLE_DEVICES"; echo problem >&2; exit 7'
    done = ugro("exec", job, "--rank", "1", "--", line)
    assert done.returncode == 7, done.stderr
    folder, said = done.stdout.splitlines()
    assert folder == str(Files(sandbox.root).home("gpu2") / ".ugro/jobs/job-001/code")
    gpu = document(ugro("status", job, "--json"))["ranks"][1]["gpu"]
    assert said == f"a b'c {gpu}" and done.stderr == "problem\n"
    told = document(ugro("exec", job, "--json", "--", "printf", "%s|", "it's", "$HOME"))
    assert told == {"node": "gpu1", "exit_code": 0, "stdout": "it's|$HOME|", "stderr": "", "truncated": False,
                    "error": None}  # fmt: skip


@pytest.mark.long
def test_passes_on_what_is_piped_into_it(sandbox: Sandbox, project: Path, job: str, tmp_path: Path) -> None:
    env, data = os.environ | sandbox.environment(), os.urandom(1_000_000)
    (tmp_path / "data").write_bytes(data)

    def command(*words: str) -> list[str]:
        return [sys.executable, "-m", "ugro", "exec", job, "--rank", "1", "--", *words]

    piped = subprocess.run(command("cat"), cwd=project, env=env, input=data, capture_output=True, timeout=60)
    assert (piped.returncode, piped.stderr, piped.stdout == data) == (0, b"", True)
    with (tmp_path / "data").open("rb") as file:
        read = subprocess.run(
            command("wc -c; exit 5"), cwd=project, env=env, stdin=file, capture_output=True, timeout=60
        )
    assert (read.returncode, read.stdout.split()) == (5, [b"1000000"])
    ours, theirs = os.pipe()  # never written to, and never closed
    with os.fdopen(ours), os.fdopen(theirs, "w"):
        waits = subprocess.run(command("echo", "a"), cwd=project, env=env, stdin=ours, capture_output=True, timeout=60)
    assert (waits.returncode, waits.stdout) == (0, b"a\n")


def test_opens_a_terminal_where_a_job_runs(sandbox: Sandbox, project: Path, job: str) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "ugro", "ssh", job, "--", "sh", "-c", 'test -t 0 && echo "$FLAVOUR"; pwd; exit 5']
    with subprocess.Popen(
        command, cwd=project, env=os.environ | sandbox.environment(), stdin=theirs, stdout=theirs, stderr=theirs
    ) as opened:
        os.close(theirs)
        said = b""
        try:
            while chunk := os.read(ours, 4096):
                said += chunk
        except OSError:  # how a terminal ends
            pass
        os.close(ours)
    assert opened.returncode == 5
    lines = said.decode().splitlines()
    assert "a b'c" in lines and str(Files(sandbox.root).home("gpu1") / ".ugro/jobs/job-001/code") in lines


def test_forwards_a_port_of_a_job_until_it_is_interrupted(sandbox: Sandbox, begun: Begun, job: str) -> None:
    port = (Files(sandbox.root).home("gpu2") / ".ugro/jobs/job-001/code/port").read_text()
    with begun("forward", job, f"0:{port}", "--rank", "1", "--json") as forwarding:
        assert forwarding.stdout
        leads = json.loads(forwarding.stdout.readline())
        assert (leads["node"], leads["problem"]) == ("gpu2", None)
        for _ in range(2):
            with urllib.request.urlopen(f"http://127.0.0.1:{leads['local_port']}/page.txt", timeout=20) as page:
                assert page.read() == b"a page of the job"
        forwarding.send_signal(signal.SIGINT)
        _, problems = forwarding.communicate(timeout=30)
    assert forwarding.returncode == 0 and problems.strip() == ""
