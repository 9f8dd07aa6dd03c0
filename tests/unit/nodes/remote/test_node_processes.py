"""What several scripts on nodes know of processes and of the files in a run's folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ugro.nodes.remote.on_node.processes import (
    catches,
    identity,
    leave,
    named_in,
    pid_files,
    reserve,
    stat_fields,
    text_of,
)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that catches SIGUSR2 and no SIGUSR1, once it has said so."""
    code = "import signal, sys; signal.signal(signal.SIGUSR2, print); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout and child.stdout.readline() == b"\n"
        yield child
        child.kill()


def test_names_a_process_by_its_pid_and_start(process: subprocess.Popen[bytes]) -> None:
    pid, started = identity(process.pid).split()
    assert int(pid) == process.pid and started == stat_fields(f"/proc/{pid}")[19]
    process.kill()
    process.wait()
    with pytest.raises(ProcessLookupError):
        identity(process.pid)


def test_finds_the_process_of_a_pid_file_while_it_runs(process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    file = tmp_path / "rank-0.pid"
    file.write_text(identity(process.pid) + "\n")
    pid, fields = named_in(str(file))
    assert pid == process.pid and fields[0] in "RS"
    file.write_text(f"{process.pid} 1\n")
    assert named_in(str(file)) == (process.pid, []), "another process has the pid by now"
    file.write_text(identity(process.pid))
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert named_in(str(file)) == (process.pid, []), "a zombie has ended"


@pytest.mark.parametrize("text", ["", "5", "5 6 7", "x 6", "-5 6", "\0 \0"])
def test_passes_over_a_pid_file_that_names_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "pid").write_text(text)
    assert named_in(str(tmp_path / "pid")) == (None, [])
    assert named_in(str(tmp_path / "absent")) == (None, [])


def test_tells_which_signals_a_process_catches(process: subprocess.Popen[bytes]) -> None:
    assert catches(process.pid, signal.SIGUSR2) and not catches(process.pid, signal.SIGUSR1)
    process.kill()
    process.wait()
    assert not catches(process.pid, signal.SIGUSR2)


def test_lists_the_pid_files_of_ranks_alone(tmp_path: Path) -> None:
    folder = tmp_path / "a[1]"
    folder.mkdir()
    for name in ("rank-0.pid", "rank-12.pid", "rank-x.pid", "rank-1.exit", "rank-3.pid.room"):
        (folder / name).touch()
    assert sorted(pid_files(str(folder))) == [(number, str(folder / f"rank-{number}.pid")) for number in (0, 12)]


def test_writes_into_the_room_that_was_reserved(tmp_path: Path) -> None:
    path = str(tmp_path / "exit")
    reserve(path)
    assert len(text_of(path + ".room")) == 64 and text_of(path) == ""
    leave(path, "code 0")
    assert text_of(path) == "code 0\n" and os.listdir(tmp_path) == ["exit"]
    leave(path, "code 1")
    assert text_of(path) == "code 1\n"
