"""Entering a running job through the service layer: a command, a terminal, a port."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from pathlib import Path

import pytest
from door import Door

from tests.unit.control_plane.controller.test_tick import STAY
from ugro.common.errors import InputError
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.service.schemas.entry import Execute, ExecuteOnInput, Forward, OpenTerminal
from ugro.service.schemas.maintenance import CommandEnd, CommandOutput
from ugro.testing import builders
from ugro.testing.cluster import write_python


@pytest.fixture
def running(door: Door) -> Job:
    return door.until(door.submit(STAY, env={"FLAVOUR": 'it\'s "mild"'}), JobState.RUNNING)


def end(door: Door, job: Job) -> None:
    builders.cancel(door.store, job.id)
    door.until(job, JobState.CANCELLED)


def test_runs_a_command_in_the_surroundings_of_a_job(door: Door, running: Job) -> None:
    words = ('printf \'%s\\n\' "$FLAVOUR" "$UGRO_JOB" "${UGRO_RUN-no mark}"; pwd; exit 3',)
    *outputs, ended = door.stream(Execute(job=running.name, words=words, live=True))
    assert isinstance(ended, CommandEnd) and ended.worst == 3 and ended.answer.node == "here"
    said = b"".join(output.data for output in outputs if isinstance(output, CommandOutput)).decode().splitlines()
    assert said[:3] == ['it\'s "mild"', running.id, "no mark"]
    assert said[3].endswith(f"/jobs/{running.id}/code")
    (ended,) = door.stream(Execute(job=running.id, rank=0, words=("cat", "t.py"), live=False))
    assert isinstance(ended, CommandEnd) and ended.answer.stdout == STAY and ended.worst == 0
    end(door, running)


def test_gives_a_command_what_this_process_has_on_its_stdin(door: Door, running: Job, tmp_path: Path) -> None:
    (tmp_path / "given").write_bytes(b"\0\xff\nrest" * 10_000)
    before = os.dup(0)
    with open(tmp_path / "given", "rb") as given:
        os.dup2(given.fileno(), 0)
    try:
        (ended,) = door.stream(ExecuteOnInput(job=running.id, words=("wc", "-c"), live=False))
    finally:
        os.dup2(before, 0)
        os.close(before)
    assert isinstance(ended, CommandEnd) and ended.answer.stdout.strip() == "70000"
    end(door, running)


def test_enters_with_the_python_of_the_job_and_the_variables_of_its_ranks(door: Door, tmp_path: Path) -> None:
    (tmp_path / "env/bin").mkdir(parents=True)
    python = write_python(tmp_path / "env/bin/python")
    job = door.until(
        door.submit("import time; time.sleep(600)", python=str(python), launcher="python"), JobState.RUNNING
    )
    words = ('command -v python; echo "$UGRO_PYTHON" "${RANK-no rank}" "${TORCHELASTIC_ERROR_FILE-no file}"',)
    (ended,) = door.stream(Execute(job=job.id, words=words, live=False))
    assert isinstance(ended, CommandEnd)
    assert ended.answer.stdout.splitlines() == [str(python), f"{python} no rank no file"]
    end(door, job)


def test_leads_to_a_terminal(door: Door, running: Job) -> None:
    terminal = door.call(OpenTerminal(target=running.id, words=("sh", "-c", "pwd; echo $FLAVOUR")))
    assert (terminal.node, terminal.job) == ("here", running.id)
    said = subprocess.run(terminal.words, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()
    assert said[0].endswith(f"/jobs/{running.id}/code") and said[1] == 'it\'s "mild"'
    assert door.call(OpenTerminal(target="here", words=("true",))).words == ("true",)
    end(door, running)


def test_refuses_to_enter_what_does_not_run(door: Door) -> None:
    waiting = door.submit(STAY, hold=True)
    with pytest.raises(InputError, match="only a job that runs can be entered") as caught:
        list(door.stream(Execute(job=waiting.id, words=("ls",), live=False)))
    assert caught.value.hint == f"see: ugro why {waiting.id}"
    with pytest.raises(InputError, match="there is no node and no job 'nowhere'"):
        door.call(OpenTerminal(target="nowhere"))
    with pytest.raises(InputError, match="no job has an id or a name like 'sweep-001'"):
        door.call(OpenTerminal(target="sweep-001"))
    with pytest.raises(InputError, match="here is a node"):
        door.call(OpenTerminal(target="here", rank=1))


def test_refuses_to_enter_an_ended_job_and_says_where_it_was(door: Door, running: Job) -> None:
    for choice, problem in (({"rank": 4}, "has no rank 4"), ({"node": "gpu9"}, "is not on gpu9")):
        with pytest.raises(InputError, match=problem):
            list(door.stream(Execute(job=running.id, words=("ls",), live=False, **choice)))
    with pytest.raises(InputError, match="the command is empty"):
        list(door.stream(Execute(job=running.id, words=("",), live=False)))
    end(door, running)
    with pytest.raises(InputError, match="it was on here: only a job that runs can be entered") as caught:
        list(door.stream(Execute(job=running.id, words=("ls",), live=False)))
    assert caught.value.hint == "ugro ssh here"
    never = door.submit(STAY, hold=True)
    end(door, never)
    with pytest.raises(InputError, match="was cancelled: only a job that runs") as caught:
        list(door.stream(Execute(job=never.id, words=("ls",), live=False)))
    assert caught.value.hint == f"see: ugro status {never.id}"


def test_forwards_a_port_and_tells_one_that_is_in_use(door: Door) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with contextlib.closing(door.stream(Forward(target="here", local_port=0, remote_port=port))) as forwarding:
            leads = next(forwarding)
            assert (leads.node, leads.job, leads.remote_port, leads.problem) == ("here", None, port, None)
        with pytest.raises(InputError, match=f"port {port} of this machine is in use") as caught:
            next(door.stream(Forward(target="here", local_port=port, remote_port=port)))
        assert f"0:{port}" in caught.value.hint
    with contextlib.closing(door.stream(Forward(target="here", local_port=0, remote_port=port))) as forwarding:
        assert f"nothing listens on its port {port}" in (next(forwarding).problem or "")
