"""What is shown of a job while it is followed: a line that has no end yet, and that it is being ended."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.unit.cli.test_attempts import BAR, leave, placed
from ugro.cli.render.live import UNFINISHED_SECONDS, UNFINISHED_WIDTH, NowAndThen, Stops, View
from ugro.cli.render.news import news_line
from ugro.cli.render.notices import Notices
from ugro.common.models.event import Event
from ugro.common.models.first_failure import FirstFailure
from ugro.common.models.job import Job, Wish
from ugro.common.models.job_state import JobState
from ugro.control_plane.metadata_store import MetadataStore
from ugro.nodes.remote.logs.log_streamer import LONGEST_LINE, LogReader, StreamedLine, Unfinished
from ugro.service.context import Context
from ugro.service.ending import progress
from ugro.service.schemas.jobs import EventDocument
from ugro.service.schemas.logs import JobUpdate, LogLine, NodeUse, UnfinishedLine
from ugro.testing import builders
from ugro.testing.cluster import Master


def line_of_rank_0(text: str) -> LogLine:
    return LogLine(rank=0, node_rank=None, text=text)


def begun(text: str, number: int = 0) -> UnfinishedLine:
    return UnfinishedLine(line=line_of_rank_0(text), number=number)


def a_job(**fields: object) -> Job:
    made = builders.job(JobState.RUNNING, name="job-001", submitted_at=time.time(), started_at=time.time())
    return made.model_copy(update=fields)


def test_a_line_without_its_end_is_known_as_it_grows(tmp_path: Path) -> None:
    reader = LogReader(tmp_path)
    log = tmp_path / "rank-0.log"

    def add(data: bytes) -> Unfinished | None:
        with log.open("ab") as file:
            file.write(data)
        with (tmp_path / "pieces.jsonl").open("a") as file:
            file.write(f'{{"at": {log.stat().st_size}, "file": "rank-0.log", "end": {log.stat().st_size}}}\n')
        list(reader.lines())
        return reader.unfinished()

    assert add(b"one\ntwo\n") is None
    assert add(b"\r1%") == Unfinished(StreamedLine("\r1%", rank=0), 2)
    assert add(b"\r2%") == Unfinished(StreamedLine("\r1%\r2%", rank=0), 2)
    assert add(b"\ndone\n") is None
    for _ in range(64):
        held = add(b"x" * LONGEST_LINE)
    assert held is None or len(held.line.text) <= LONGEST_LINE, "however long it is, not more is held"
    for number in range(64):
        held = add(b"\r%d of many " % number + b"=" * (LONGEST_LINE // 2))
    assert held and held.line.text.startswith("63 of many ") and len(held.line.text) <= LONGEST_LINE


def test_in_a_pipe_a_bar_is_said_now_and_then() -> None:
    shown = NowAndThen()
    assert shown.due(begun("\r1%"), 0.0) is None, "its end may come at once"
    assert shown.due(begun("\r1%\r2%"), UNFINISHED_SECONDS - 0.1) is None
    assert shown.due(begun("\r1%\r2%\r3\x1b[31m%"), UNFINISHED_SECONDS) == line_of_rank_0("3%")
    assert shown.due(begun("\r4%"), UNFINISHED_SECONDS + 1) is None
    assert shown.due(begun("\r3%"), 2 * UNFINISHED_SECONDS) is None, "it says what it said before"
    assert shown.due(begun("\r5%"), 2 * UNFINISHED_SECONDS + 0.5) == line_of_rank_0("5%")
    assert shown.due(begun("half", 1), 99.0) is None, "another line, which may end at once"
    assert shown.due(None, 100.0) is None
    assert shown.due(begun("x" * 10_000 + "end", 2), 200.0) is None
    long = shown.due(begun("x" * 10_000 + "end", 2), 300.0)
    assert long and len(long.text) == UNFINISHED_WIDTH and long.text.endswith("end")


def drawn(job: Job, text: str | None, width: int = 40, nodes: tuple[NodeUse, ...] = ()) -> list[str]:
    out = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    known = vars(progress(Context(), job)) | {"nodes": nodes}
    update = JobUpdate(**known, unfinished=begun(text) if text else None)
    view = View(JobUpdate(**vars(progress(Context(), a_job()))), out.width)
    view.show(update)
    with out.capture() as capture:
        out.print(view)
    return capture.get().splitlines()


def test_on_a_terminal_the_bar_is_drawn_on_one_line(home: Path) -> None:
    assert drawn(a_job(), None) == [" job-001  running 0s"]
    assert drawn(a_job(), "\r1%\r\x1b]0;x\x07\x00 2%")[0] == "[rank 0] � 2%"
    line = drawn(a_job(reason="step 1 of 9"), None, 80, (NodeUse(node="gpu1", gpus=(), silent=True),))[0]
    assert line == " job-001  running 0s  step 1 of 9  gpu1 unreachable", "how far it is stands before what may be cut"
    wide = drawn(a_job(), "=" * 1000 + "> 5%")
    assert len(wide) == 2 and wide[0].endswith("=> 5%") and len(wide[0]) == 40


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"wish": Wish.CANCEL}, "cancel was requested; SIGTERM, after 10 s SIGKILL"),
        ({"first_failure": FirstFailure(rank=0, node="a")}, "SIGTERM, after 10 s SIGKILL"),
        ({"wish": Wish.CANCEL, "state": JobState.UNKNOWN}, ""),
        ({"wish": Wish.CANCEL, "state": JobState.QUEUED}, ""),
        ({"first_failure": FirstFailure(rank=0, node="a"), "state": JobState.FAILED}, ""),
        ({}, ""),
    ],
)
def test_a_job_is_stopping_while_its_ranks_are_ended(
    fields: dict[str, object], words: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = a_job(**fields)
    Stops(drawn=False).tell(progress(Context(), job))
    told = f"job-001 is stopping: {words}\n" if words else ""
    assert capsys.readouterr().err == told and job.stopping == bool(words)


def test_stopping_is_drawn_with_its_own_time_and_elsewhere_said_once(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    event = Event(at=time.time() - 7, kind="cancel", message="")
    job = a_job(wish=Wish.CANCEL, started_at=time.time() - 3600, last_event=event)
    assert drawn(job, None)[0].startswith(" job-001  stopping 7s  cancel was")
    for one in (Stops(drawn=False), Stops(drawn=True)):
        one.tell(progress(Context(), a_job()))
        one.tell(progress(Context(), job))
        one.tell(progress(Context(), job))
    assert capsys.readouterr().err == "job-001 is stopping: cancel was requested; SIGTERM, after 10 s SIGKILL\n"


async def test_reports_that_the_awaited_tick_ends_the_job(
    master: Master, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A launch whose ranks fail at once, say, or a resume of a job that hangs."""
    monkeypatch.setenv("UGRO_HOME", str(master.home))
    master.ugro("launch", "t.py", "--hold")
    context = Context()
    context.tell = Notices().tell
    placed(context.store, context.store.jobs.job("job-001"), "")
    said = ""

    async def tick(*_: object) -> None:
        nonlocal said
        await asyncio.sleep(0)
        builders.cancel(context.store, "job-001")
        while not said:
            await asyncio.sleep(0.01)
            said = capsys.readouterr().err

    monkeypatch.setattr(context, "tick", tick)
    assert (await context.started("job-001")).stopping
    assert said.startswith("job-001 is stopping: cancel was requested")


def test_shows_an_unfinished_line_without_following_too(master: Master) -> None:
    master.ugro("launch", "t.py", "--hold")
    store = MetadataStore(master.home)
    placed(store, store.jobs.job("job-001"), "")
    leave(master, 1, 0, b"begins\n" + BAR)
    assert master.ugro("logs", "job-001").stdout == "[rank 0] begins\n[rank 0]  12%|#    | 11/100\n"
    assert master.ugro("logs", "job-001", "--tail", "1").stdout == "[rank 0]  12%|#    | 11/100\n"


def test_a_bar_in_a_pipe_moves_on(master: Master) -> None:
    master.ugro("launch", "t.py", "--hold")
    store = MetadataStore(master.home)
    placed(store, store.jobs.job("job-001"), "")
    folder = leave(master, 1, 0, b"begins\n\r 1%")
    (folder / "claim").mkdir()
    (folder / "claim/uid").write_text(store.jobs.job("job-001").uid)
    sooner = "from ugro.cli import main; from ugro.cli.render import live; live.UNFINISHED_SECONDS = 0.5; main.main()"
    command = [sys.executable, "-c", sooner, "logs", "-f", "job-001"]
    # In a session of its own, as a run is: should it be ended, that is what is ended.
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as rank:
        started = Path(f"/proc/{rank.pid}/stat").read_text().rpartition(")")[2].split()[19]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        (folder / "pid").write_text(f"{rank.pid} {started} {boot}")
        (folder / "rank-0.pid").write_text(f"{rank.pid} {started}\n")
        with subprocess.Popen(command, cwd=master.root, env=master.env, stdout=-1, text=True) as following:
            assert following.stdout
            assert [following.stdout.readline() for _ in range(2)] == ["[rank 0] begins\n", "[rank 0]  1%\n"]
            leave(master, 1, 0, b"begins\n\r 1%\r 2%")
            assert following.stdout.readline() == "[rank 0]  2%\n"
            assert store.jobs.job("job-001").state == JobState.RUNNING
            following.kill()
        rank.kill()


def test_shows_the_event_silent_as_unreachable() -> None:
    event = EventDocument(at=1.0, job="", node="gpu1", kind="silent", message="no route to host")
    assert news_line(event) == "gpu1 unreachable: no route to host"
    assert news_line(replace(event, kind="gpu_gone")) == "gpu1 gpu_gone: no route to host"
