"""Asking a running job to save: who is signalled, what counts as the answer, and whole jobs that give it or do not."""

from __future__ import annotations

import ast
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
from places import DOCS

from ugro.cli.main import cli
from ugro.cli.render.checkpoints import HOW_TO_ANSWER, not_saved, silence_in_words
from ugro.common.errors import EXIT_INPUT, EXIT_JOB_FAILED, InputError, NodeRefused
from ugro.common.models.checkpoint import Checkpoint
from ugro.common.models.job import Job, Wish
from ugro.common.models.job_state import JobState
from ugro.common.models.place import Place
from ugro.common.paths import RunPaths
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.checkpoint_store import newest_since
from ugro.nodes.remote.checkpoints.save_request import ask, withdraw
from ugro.nodes.transport import LocalTransport
from ugro.nodes.transport import Outcome as Ran
from ugro.sandbox.cluster import Sandbox
from ugro.service.documents import job_document
from ugro.service.schemas.checkpoints import AskedRankDocument, SaveAnswer, SaveDocument
from ugro.testing import builders
from ugro.testing.commands import Ugro, document, until
from ugro.testing.testbed.machine import Begun

PATHS = RunPaths("~/.ugro", "job-001", 1, 0)
HEARS = "import signal\nsignal.signal(signal.SIGUSR2, lambda *_: print('heard', flush=True))\n"
STAYS = "print('up', flush=True)\nwhile True: signal.pause()"
DEAF = "import signal\n"
IGNORES = "import signal\nsignal.signal(signal.SIGUSR2, signal.SIG_IGN)\n"
Start = Callable[[str], "subprocess.Popen[bytes]"]


# On a node


@pytest.fixture
def folder(home: Path) -> Path:
    made = home / ".ugro/jobs/job-001/1/node-0"
    made.mkdir(parents=True)
    return made


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Starts a process as the next rank of the run, and waits until it has said so."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(script: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", script + STAYS], stdout=subprocess.PIPE)
        assert process.stdout and process.stdout.readline() == b"up\n"
        since = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
        (folder / f"rank-{len(started)}.pid").write_text(f"{process.pid} {since}\n")
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
async def node() -> AsyncIterator[LocalTransport]:
    transport = LocalTransport(builders.this_machine(python=sys.executable))
    yield transport
    await transport.close()


def heard(process: subprocess.Popen[bytes]) -> bytes:
    """What a process says until it is ended, which it is now: a signal that was sent before comes first."""
    assert process.poll() is None, "it lives"
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=20)
    return said


async def test_only_a_rank_that_catches_the_signal_gets_it(start: Start, folder: Path, node: LocalTransport) -> None:
    hears, deaf, ignores = start(HEARS), start(DEAF), start(IGNORES)
    asked = (await ask(node, PATHS, "2026-11-24T12:00:00")).ranks
    assert [(rank.rank, rank.pid, rank.answer) for rank in asked] == [
        (0, hears.pid, "signalled"),
        (1, deaf.pid, "not caught"),
        (2, ignores.pid, "not caught"),
    ]
    assert hears.stdout and hears.stdout.readline() == b"heard\n"
    assert [heard(process) for process in (hears, deaf, ignores)] == [b"", b"", b""]
    assert (folder / "checkpoint-request").read_text() == "2026-11-24T12:00:00\n"
    assert not [path for path in folder.iterdir() if path.name.startswith("checkpoint-request.")]


async def test_a_pid_that_belongs_to_another_process_by_now_is_not_signalled(
    start: Start, folder: Path, node: LocalTransport
) -> None:
    other = start(HEARS)
    (folder / "rank-0.pid").write_text(f"{other.pid} 1\n")
    (folder / "rank-1.pid").write_text("999999999 1\n")
    (folder / "rank-2.pid").write_text("")
    (folder / "rank-x.pid").write_text((folder / "rank-0.pid").read_text())
    asked = (await ask(node, PATHS, "now")).ranks
    assert [(rank.rank, rank.pid, rank.answer) for rank in asked] == [(rank, None, "gone") for rank in range(3)]
    assert heard(other) == b""


async def test_a_rank_that_is_a_zombie_is_gone(start: Start, node: LocalTransport) -> None:
    process = start(HEARS)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert [rank.answer for rank in (await ask(node, PATHS, "now")).ranks] == ["gone"]


async def test_nobody_withdraws_the_request_of_another(folder: Path, node: LocalTransport) -> None:
    request = folder / "checkpoint-request"
    first, second = await ask(node, PATHS, "first"), await ask(node, PATHS, "second")
    assert first.ranks == () == second.ranks
    assert not await withdraw(node, PATHS, "first") and request.read_text() == "second\n"
    assert not await withdraw(node, PATHS, "second") and not request.exists()
    assert await withdraw(node, PATHS, "second"), "it was taken"


async def test_a_request_that_cannot_be_made_signals_nobody(start: Start, node: LocalTransport) -> None:
    process = start(HEARS)
    nowhere = RunPaths("~/.ugro", "job-002", 1, 0)
    with pytest.raises(NodeRefused, match=r"cannot be asked to save: .*checkpoint-request: No such file"):
        await ask(node, nowhere, "now")
    assert heard(process) == b""


@pytest.mark.parametrize(
    "text", ["", "[]", "null", '{"ranks": 1}', '{"ranks": [{"rank": 0, "pid": 1, "answer": "x"}]}']
)
async def test_an_answer_that_makes_no_sense_is_refused(
    text: str, node: LocalTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    for answer in (text.encode(), envelope("save_request", text or "5")):

        async def run(*_: object, answer: bytes = answer, **__: object) -> Ran:
            return Ran(0, answer)

        monkeypatch.setattr(node, "run", run)
        for act in (ask, withdraw):
            with pytest.raises(NodeRefused, match="cannot be understood"):
                await act(node, PATHS, "now")


# What is an answer


def saved(step: int | None, at: float, name: str = "", problem: str | None = None) -> Checkpoint:
    place = Place(node="a", path="/c")
    name = name or f"c-{step}.pt"
    return Checkpoint(step=step, kind="torch", name=name, bytes=1, saved_at=at, places=(place,), problem=problem)


@pytest.mark.parametrize(
    ("before", "now", "answer"),
    [
        ([], [], None),
        ([saved(5, 10.0)], [saved(5, 10.0)], None),
        ([], [saved(5, 101.0)], "c-5.pt"),
        ([], [saved(5, 101.0, problem="torn")], None),
        ([saved(5, 99.9, problem="torn")], [saved(5, 99.9)], "c-5.pt"),  # its save was under way
        ([saved(5, 99.9)], [saved(5, 99.9)], None),  # saved just before, within the slack of the clocks
        ([saved(7, 10.0)], [saved(7, 10.0), saved(3, 101.0)], "c-3.pt"),  # of an attempt that went back
        ([saved(7, 10.0)], [saved(7, 10.0), saved(8, 50.0)], "c-8.pt"),  # renamed into place long after it was written
        ([saved(7, 10.0)], [saved(7, 10.0), saved(3, 50.0)], None),  # an old one, of a node that was unreachable before
        ([saved(7, 10.0, "last.pt")], [saved(7, 101.0, "last.pt")], "last.pt"),
        ([saved(None, 10.0, "last.pt")], [saved(None, 101.0, "last.pt")], "last.pt"),
        ([], [saved(8, 101.0), saved(9, 102.0)], "c-9.pt"),
    ],
)
def test_what_answers_a_request(before: list[Checkpoint], now: list[Checkpoint], answer: str | None) -> None:
    found = newest_since(100.0, before, now, saw_all=True)
    assert (found and found.name) == answer


async def test_a_request_tells_when_by_the_clock_that_dates_files(node: LocalTransport, folder: Path) -> None:
    asked = await ask(node, PATHS, "now")
    assert abs(asked.at - (folder / "checkpoint-request").stat().st_mtime) < 0.01


def test_a_further_one_may_be_old_where_a_node_was_silent_before() -> None:
    assert newest_since(100.0, [saved(7, 10.0)], [saved(8, 50.0)], saw_all=False) is None
    assert newest_since(100.0, [saved(7, 10.0)], [saved(8, 101.0)], saw_all=False)


def job(state: JobState = JobState.RUNNING, **fields: Any) -> Job:
    return builders.job(state, **{"name": "job-001", **fields})


def outcome(*answers: Any, taken: bool = False) -> SaveAnswer:
    ranks = tuple(
        AskedRankDocument(rank=number, node="a", pid=1, answer=answer) for number, answer in enumerate(answers)
    )
    answer = SaveDocument(
        id="job-001", asked_at=1.0, seconds=3.0, checkpoint=None, ranks=ranks, request_taken=taken, errors=()
    )
    return SaveAnswer(answer=answer, job=job_document(job(), None), ended=None)


def test_of_a_script_that_hears_nothing_each_rank_is_told_and_what_it_would_have_to_do() -> None:
    lines = silence_in_words(outcome("not caught", "gone"))
    assert lines[0].startswith("rank 0 on a: SIGUSR2 is not caught") and lines[1] == "rank 1 on a: has ended"
    assert "was not taken" in lines[2] and lines[3] == HOW_TO_ANSWER
    assert "does not react to the request" in not_saved(outcome("not caught")).message


@pytest.mark.parametrize("seen", [outcome("not caught", "signalled"), outcome("not caught", taken=True)])
def test_of_a_script_that_heard_it_the_save_may_still_come(seen: SaveAnswer) -> None:
    assert HOW_TO_ANSWER not in silence_in_words(seen)
    assert "may still save: ugro checkpoints job-001" in not_saved(seen).hint


def test_the_two_ways_are_those_of_the_page() -> None:
    page = (DOCS / "recovery.md").read_text().partition("## Ask for a checkpoint")[2]
    told = "\n".join(line.strip() for line in HOW_TO_ANSWER.splitlines() if line.startswith("  "))
    block = page.partition("```python\n")[2].partition("```")[0]
    assert told.count("save()") == 2 and ast.unparse(ast.parse(told)) == ast.unparse(ast.parse(block))


@pytest.mark.parametrize(
    ("record", "said", "hint"),
    [
        (job(JobState.QUEUED), "is queued", "ugro why job-001"),
        (job(JobState.HELD), "is held", "ugro why job-001"),
        (job(JobState.STARTING), "is starting", "ugro status job-001"),
        (job(JobState.SUCCEEDED), "has succeeded", "ugro checkpoints job-001"),
        (job(wish=Wish.CANCEL), "is being cancelled", "ugro status job-001"),
    ],
)
def test_only_a_running_job_is_asked(home: Path, record: Job, said: str, hint: str) -> None:
    path = MetadataStore(home / ".ugro").jobs.files(record.id).record
    path.parent.mkdir(parents=True)
    path.write_text(record.model_dump_json())
    error = CliRunner().invoke(cli, ["checkpoint", "job-001"]).exception
    assert isinstance(error, InputError) and error.exit_code == EXIT_INPUT
    assert said in error.message and hint in error.hint


# Whole jobs


COUNTS = """\
import os, pathlib, signal, sys, time, zipfile
asked, step = [], 0
def save():
    with zipfile.ZipFile(".partial", "w") as file:
        file.writestr("archive/data.pkl", "x" * 2000)
    os.replace(".partial", f"checkpoint-{{step}}.pt")
{listen}
print("ready", flush=True)
while True:
    step += 1
    {answer}
    time.sleep(0.02)
"""
SCRIPTS = {
    "by_signal.py": COUNTS.format(
        listen="signal.signal(signal.SIGUSR2, lambda *_: asked.append(1))", answer="if asked: asked.clear(); save()"
    ),
    "by_file.py": COUNTS.format(
        listen='request = pathlib.Path(os.environ.get("UGRO_CHECKPOINT_REQUEST", "/-"))',
        answer="if request.exists(): request.unlink(missing_ok=True); save()",
    ),
    "deaf.py": COUNTS.format(listen="", answer=""),
    "leaves.py": COUNTS.format(listen="signal.signal(signal.SIGUSR2, lambda *_: sys.exit(0))", answer=""),
}
PLACES = {"by_signal": "gpu-master", "by_file": "gpu1", "deaf": "gpu2"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for name, text in SCRIPTS.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def ugro(ugro: Ugro) -> Iterator[Ugro]:
    """With one job on each node, each of which answers in its own way."""
    for name, where in PLACES.items():
        launched(ugro, name, where)
    yield ugro
    for name in PLACES:
        ugro("cancel", name)


def launched(ugro: Ugro, name: str, where: str) -> None:
    document(ugro("launch", f"{name}.py", "--name", name, "--nodes", where, "--json"))
    until(lambda: any(line["text"] == "ready" for line in document(ugro("logs", name, "--json"))))


def requests(sandbox: Sandbox) -> list[Path]:
    return list(sandbox.root.rglob("checkpoint-request*"))


def lives(ugro: Ugro, name: str) -> bool:
    return bool(document(ugro("status", name, "--json"))["state"] == "running")


@pytest.mark.parametrize(
    ("name", "answer", "taken"), [("by_signal", "signalled", False), ("by_file", "not caught", True)]
)
def test_a_script_that_answers_saves_now(ugro: Ugro, sandbox: Sandbox, name: str, answer: str, taken: bool) -> None:
    done = ugro("checkpoint", name)
    assert done.returncode == 0, done.stderr
    assert f"({name}) saved step " in done.stdout and f"2 KiB, on {PLACES[name]}, " in done.stdout
    told = document(ugro("checkpoint", name, "--json"))
    assert told["checkpoint"]["whole"] and told["checkpoint"]["name"] == f"checkpoint-{told['checkpoint']['step']}.pt"
    assert [(rank["rank"], rank["node"], rank["answer"]) for rank in told["ranks"]] == [(0, PLACES[name], answer)]
    assert told["request_taken"] == taken and told["errors"] == [] and told["seconds"] < 60
    steps = [one["step"] for one in document(ugro("checkpoints", name, "--json"))]
    assert len(steps) == 2 and steps[-1] == told["checkpoint"]["step"]
    events = [event for event in document(ugro("events", name, "--json")) if event["kind"] == "checkpoint"]
    assert [event["message"].split(":")[0] for event in events] == [f"step {step}" for step in steps]
    assert requests(sandbox) == [] and lives(ugro, name)


def test_a_script_that_knows_neither_goes_on(ugro: Ugro, sandbox: Sandbox) -> None:
    done = ugro("checkpoint", "deaf", "--wait", "1")
    assert done.returncode == EXIT_JOB_FAILED and done.stdout == ""
    assert "rank 0 on gpu2: SIGUSR2 is not caught" in done.stderr and HOW_TO_ANSWER in done.stderr
    assert "(deaf) does not react to the request" in done.stderr
    told = ugro("checkpoint", "deaf", "--wait", "1s", "--json")
    assert told.returncode == EXIT_JOB_FAILED
    assert json.loads(told.stdout)["checkpoint"] is None and json.loads(told.stderr)["error"]["code"] == "not_saved"
    assert requests(sandbox) == [] and lives(ugro, "deaf")
    assert "checkpoint" not in {event["kind"] for event in document(ugro("events", "deaf", "--json"))}


def test_whoever_is_interrupted_takes_the_request_back(ugro: Ugro, sandbox: Sandbox, begun: Begun) -> None:
    asking = begun("checkpoint", "deaf", "--wait", "10m")
    until(lambda: requests(sandbox))
    asking.send_signal(signal.SIGINT)
    _, said = asking.communicate(timeout=30)
    assert asking.returncode == 130 and "interrupted" in said
    assert requests(sandbox) == [] and lives(ugro, "deaf")


@pytest.mark.parametrize("name", ["by_signal", "by_file"])
def test_several_people_ask_at_once(ugro: Ugro, sandbox: Sandbox, begun: Begun, name: str) -> None:
    asking = [begun("checkpoint", name) for _ in range(3)]
    said = [process.communicate(timeout=60) for process in asking]
    assert [process.returncode for process in asking] == [0, 0, 0], said
    assert requests(sandbox) == [] and lives(ugro, name)


@pytest.mark.long
def test_a_job_that_ends_instead_of_saving_is_told(ugro: Ugro, sandbox: Sandbox) -> None:
    ugro("cancel", "deaf")
    launched(ugro, "leaves", "gpu2")
    done = ugro("checkpoint", "leaves")
    assert done.returncode == EXIT_JOB_FAILED
    assert "rank 0 on gpu2: got SIGUSR2" in done.stderr
    assert "(leaves) has succeeded, and left no new checkpoint" in done.stderr
    assert requests(sandbox) == []
