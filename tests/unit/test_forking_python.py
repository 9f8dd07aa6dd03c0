"""The `python` of simulated nodes whose scripts are forked: a script sees and shows what it would under Python."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ugro.testing.cluster import write_forking_python
from ugro.testing.forking_python import client

SAYS = """\
import json, os, sys
said = [sys.argv, os.getcwd(), os.environ["SAID"], sys.path[:1] == [""], os.umask(0), __name__, sys.stdin.read()]
print(json.dumps(said))
print("why", file=sys.stderr)
sys.exit(3)
"""


@pytest.fixture
def python(tmp_path: Path) -> str:
    return str(write_forking_python(tmp_path / "python"))


@pytest.mark.parametrize(
    ("words", "given"), [(["-", "a b", "c"], SAYS), (["-I", "-S", "-c", SAYS, "a b", "c"], "data"), (["-", "x"], "1/0")]
)
def test_runs_a_script_as_python_does(python: str, tmp_path: Path, words: list[str], given: str) -> None:
    env = os.environ | {"SAID": "one=two\nthree"}
    forked, real = (
        subprocess.run(
            [program, *words], cwd=tmp_path, env=env, umask=0o077, input=given, capture_output=True, text=True
        )
        for program in (python, sys.executable)
    )
    last = [done.stderr.splitlines()[-1] for done in (forked, real)]
    assert (forked.returncode, forked.stdout, last[0]) == (real.returncode, real.stdout, last[1])
    assert forked.stdout == "" or json.loads(forked.stdout)[4] == 0o077


def test_a_script_ends_with_the_process_that_asked_for_it(python: str) -> None:
    waits = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with subprocess.Popen([python, "-I", "-S", "-c", waits], stdin=-1, stdout=-1) as asker:
        assert asker.stdout
        script = os.pidfd_open(int(asker.stdout.readline()))
        asker.send_signal(signal.SIGTERM)
        assert select.select([script], [], [], 60)[0]
    os.close(script)


def test_an_asker_that_was_killed_leaves_no_process(python: str) -> None:
    folder = Path(client().partition("mkfifo ")[2].split("/$$")[0].strip("'"))
    answers = psutil.Process(children_of(folder))
    os.mkfifo(folder / "4194304")
    with open(folder / "asked", "w") as asked:
        asked.write("4194304\n")
    done = subprocess.run([python, "-"], input="print(1)", capture_output=True, text=True, timeout=60)
    assert done.stdout == "1\n", "it still answers"
    assert psutil.wait_procs(answers.children(), timeout=60)[1] == [] and not (folder / "4194304").exists()


def children_of(folder: Path) -> int:
    """The process that answers in a folder."""
    here = psutil.Process().children()
    return next(process.pid for process in here if process.cmdline()[-1:] == [str(folder)])


def test_what_only_python_itself_can_do_it_does(python: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"import os; print(os.readlink('/proc/self/fd/0')[:6])\n")
        ours.shutdown(socket.SHUT_WR)
        said = subprocess.run([python, "-"], stdin=theirs, capture_output=True, text=True, timeout=60)
    assert (said.returncode, said.stdout, said.stderr) == (0, "socket\n", "")
    assert subprocess.run([python, "-c", "raise SystemExit(4)"]).returncode == 4


STARTS = """\
import os, subprocess, sys
rank = subprocess.Popen([sys.executable, "-u", sys.argv[1], "a b"], env=os.environ | {"SAID": "it"}, stdin=-3)
print(rank.wait(), flush=True)
sys.exit("no more")
"""

RANK = """\
import atexit, os, sys
import helper
atexit.register(print, "at the end")
print(sys.argv[1:], os.environ["SAID"], __name__, helper.word, sys.stdin.read())
sys.stdout.flush()
if "die" in os.environ:
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("die", [{}, {"die": ""}])
def test_runs_a_file_and_what_it_starts_as_python_does(tmp_path: Path, die: dict[str, str]) -> None:
    forking = tmp_path / "forking"
    forking.write_text(f"#!/bin/sh\n{client('wave')}exit 99\n")  # a module that nothing else here imports
    forking.chmod(0o755)
    for name, text in {"starts.py": STARTS, "rank.py": RANK, "helper.py": "word = 'helps'\n"}.items():
        (tmp_path / name).write_text(text)
    forked, real = (
        subprocess.run(
            [program, "starts.py", "rank.py"], cwd=tmp_path, env=os.environ | die, capture_output=True, text=True
        )
        for program in (forking, sys.executable)
    )
    assert (forked.returncode, forked.stdout, forked.stderr) == (real.returncode, real.stdout, real.stderr)
    assert forked.stdout.splitlines()[-1] == ("-9" if die else "0")
