"""Tables for terminals: a line a row, whatever the width, and no name broken; nothing is cut without a terminal."""

from __future__ import annotations

import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from dataclasses import replace
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from ugro.cli.commands.serve import _Printer
from ugro.cli.main import report
from ugro.cli.output import hanging, print_commands, print_hanging
from ugro.cli.render.checkpoints import checkpoints_grid
from ugro.cli.render.grid import Column, Grid, Names, Tail, fit
from ugro.cli.render.history import BLOCKS, history_grid
from ugro.cli.render.listings import jobs_grid, nodes_grid
from ugro.cli.several import shown_progress
from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import Unreachable
from ugro.common.models.checkpoint import Checkpoint
from ugro.common.models.drain import Drain
from ugro.common.models.gpu import Gpu
from ugro.common.models.job import Job, Rank
from ugro.common.models.job_state import JobState, RankState
from ugro.common.models.node import NodeView
from ugro.common.models.place import Place
from ugro.service.documents import job_document, node_documents
from ugro.service.schemas.checkpoints import ListedCheckpoint
from ugro.service.schemas.history import GpuHistoryDocument, GpuSampleDocument
from ugro.service.schemas.jobs import ProgressDocument
from ugro.service.schemas.queries import ListedJob
from ugro.service.words import progress_in_brief, progress_in_words
from ugro.testing import builders
from ugro.testing.builders import placement

WIDTHS = (60, 80, 100, 120)
OOM = (
    "rank 1 on gpu-master-of-the-lab failed first (cuda_oom): torch.OutOfMemoryError: CUDA out of memory. Tried to "
    "allocate 20.00 MiB. GPU 0 has a total capacity of 7.65 GiB of which 3.12 MiB is free"
)


def job(number: int, state: JobState, **fields: Any) -> Job:
    name = f"job-{number:03}"
    known = {"id": name, "name": name, "submitted_at": time.time() - 90, "command": ("train.py", "--lr", "1")}
    return builders.job(state, **known | fields)


def listed(*jobs: Job) -> list[ListedJob]:
    documents = [job_document(one, None) for one in jobs]
    return [ListedJob(**vars(one), position=TURNS.get(one.id)) for one in documents]


NODES = ("gpu-master-of-the-lab", "gpu1", "gpu2")
JOBS = [
    job(7, JobState.QUEUED, name="run-a", reason="behind job-005"),
    job(
        1, JobState.FAILED, name="a-name-of-many-letters-as-people-give-them", reason=OOM, placement=placement(*NODES),
        started_at=time.time() - 60, ended_at=time.time(), command=("train.py", "--data", "/very/long/path" * 9),
    ),
    job(2, JobState.RUNNING, name="demo", placement=placement(*NODES), started_at=time.time() - 60),
    job(5, JobState.QUEUED, priority=3, reason="等待 " * 40),
    job(6, JobState.HELD, reason="held: for Ada"),
]  # fmt: skip
TURNS = {"job-005": 1, "job-007": 2}


def gpu(node: str, index: int, name: str = "NVIDIA GeForce RTX 4070 Ti SUPER") -> Gpu:
    return Gpu(index=index, uuid=f"GPU-{node}-{index}", name=name, memory_total_mib=8192, memory_used_mib=8000,
               memory_free_mib=192, utilization_percent=100, temperature_c=80, power_w=280.4)  # fmt: skip


def cluster() -> Grid:
    inventory = Inventory(nodes={name: NodeConfig(name=name, address="10.0.0.1") for name in (*NODES, "x" * 63)})
    views: dict[str, NodeView | None] = {
        name: builders.node_view(
            name, gpu(name, 0), gpu(name, 1), seen_at=time.time(), load_1m=1.5, cpu_count=16, disk_free_mib=10**6
        )
        for name in NODES
    }
    views["x" * 63] = None
    errors = {name: None for name in NODES} | {"x" * 63: Unreachable("x" * 63, "10.0.0.1 does not answer " * 5)}
    drains = {"gpu2": Drain(node="gpu2", reason="风扇 " * 30, since=1.0)}
    return nodes_grid(node_documents(inventory, views, errors, drains), {})


def shown(grid: Grid, width: int | None) -> list[str]:
    return [line.plain for line in grid.lines(width)]


@pytest.mark.parametrize("width", WIDTHS)
def test_a_job_is_one_line_in_any_terminal(width: int) -> None:
    head, *lines = shown(jobs_grid(listed(*JOBS)), width)
    assert len(lines) == len(JOBS) and all(cell_len(line) <= width for line in (head, *lines))
    assert [line.split()[0] for line in lines] == ["job-001", "job-002", "job-005", "job-007", "job-006"]
    assert "WHY" in head and "failed" in lines[0] and "queued #1" in lines[2] and "queued #2" in lines[3]
    assert "rank 1 on g" in lines[0] and lines[0].endswith("…")
    assert "demo" in lines[1] and "run-a" in lines[3]
    assert "NODES" in head and re.search(r"gpu-mast\S+( \+2|, gpu1 \+1|, gpu1, gpu2) ", lines[1])


def test_a_long_reason_is_cut_before_columns_leave() -> None:
    failed = job(1, JobState.FAILED, name="demo", reason=OOM, placement=placement("gpu-master", "gpu1", "gpu2"),
                 started_at=time.time() - 60, ended_at=time.time())  # fmt: skip
    head, line = shown(jobs_grid(listed(failed)), 80)
    assert head.split() == ["ID", "NAME", "STATE", "NODES", "RANKS", "TIME", "COMMAND", "WHY"]
    assert "gpu-master +2" in line and "rank 1 on g" in line and line.endswith("…")


@pytest.mark.parametrize("width", WIDTHS)
def test_a_gpu_is_one_line_in_any_terminal(width: int) -> None:
    head, *lines = shown(cluster(), width)
    assert len(lines) == 7 and all(cell_len(line) <= width for line in (head, *lines))
    assert head.startswith("NODE") and "MEMORY" in head and head.endswith("SEEN")
    assert all("7.8 GiB / 8.0 GiB" in line for line in lines[:6])
    assert lines[0].startswith("gpu-master-of-the-lab ")
    assert width < 80 or ("100%" in lines[0] and " 1 " in lines[1])
    assert width < 100 or "RTX 4070 Ti" in lines[0]


def test_cuts_nothing_without_a_terminal() -> None:
    lines = shown(jobs_grid(listed(*JOBS)), None)
    assert OOM in lines[1] and "/very/long/path" * 9 in lines[1] and ", ".join(NODES) in lines[1]
    assert "x" * 63 in shown(cluster(), None)[-1]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_history_of_a_gpu_is_one_line(width: int) -> None:
    looks = tuple(
        GpuSampleDocument(
            at=at * 60.0, utilization_percent=at, memory_used_mib=8000, memory_total_mib=8192,
            temperature_c=40 + at, power_w=None, job=None,
            program="/very/long/python train.py" * 4,
        )
        for at in range(30)
    )  # fmt: skip
    past = [
        GpuHistoryDocument(node=node, uuid="GPU-1", index=0, name="NVIDIA GeForce RTX 4070 Ti SUPER", samples=looks)
        for node in NODES
    ]
    title, head, *lines = shown(history_grid(past, 0.0, 1800.0, width), width)
    assert len(lines) == 3 and all(cell_len(line) <= width for line in (title, head, *lines))
    assert (
        lines[0].startswith(NODES[0][: width // 4 - 1])
        and BLOCKS[0] in lines[0]
        and "UTIL" in head
        and "USED BY" in head
    )


def test_shows_who_had_a_gpu_rather_than_the_sparkline_of_its_memory() -> None:
    looks = tuple(
        GpuSampleDocument(
            at=at * 60.0, utilization_percent=100, memory_used_mib=418, memory_total_mib=8192,
            temperature_c=40 + at, power_w=None, job=f"job-{at // 15 + 4:03}", program=None,
        )
        for at in range(30)
    )  # fmt: skip
    one = GpuHistoryDocument(node="gpu-master", uuid="GPU-1", index=0, name="NVIDIA GeForce RTX 4070", samples=looks)
    _, head, line = shown(history_grid([one], 0.0, 86400.0, 80), 80)
    assert line.endswith("418 MiB  40–69 °C  job-004, job-005") and cell_len(line) <= 80
    assert head.index("MEMORY") == line.index("418 MiB"), "the heading stands over the number, which stays"


def progress(**fields: Any) -> ProgressDocument:
    unknown = dict.fromkeys(("step", "steps", "percent", "epoch", "epochs", "rate", "left", "eta"))
    return ProgressDocument(**dict[str, Any](at=1.0) | unknown | fields)


def test_in_a_list_the_time_that_is_left_stands_before_what_may_be_cut() -> None:
    known = progress(step=104, steps=600, percent=17.3, rate=4.0, left=120.0, eta=time.time() + 120.5)
    assert progress_in_brief(known) == "17%, 2m 00s left, step 104 of 600"
    assert progress_in_words(known) == "step 104 of 600 (17%), mean 4 steps/s, done in 2m 00s"
    assert progress_in_brief(progress(epoch=1.5, epochs=3)) == "epoch 1.5 of 3"
    assert progress_in_brief(progress()) == ""
    overdue = replace(known, eta=time.time() - 5.0)
    assert progress_in_words(overdue) == "step 104 of 600 (17%), mean 4 steps/s"


@pytest.mark.parametrize("width", WIDTHS)
def test_a_checkpoint_is_one_line(width: int) -> None:
    places = tuple(Place(node=node, path="/x") for node in NODES)
    one = Checkpoint(
        kind="file", name="out/of/the/way/" * 4 + "checkpoint-200.pt", step=200, bytes=2**31, saved_at=time.time(),
        places=places, problem="the file is shorter than its index says, which a full disk may have done",
    )  # fmt: skip
    head, line = shown(checkpoints_grid([ListedCheckpoint.of(one, on_master=False, kept_at=None)]), width)
    assert max(cell_len(head), cell_len(line)) <= width and line.startswith("200 ") and " the file is" in line
    assert "checkpoint-200.pt" in line or width < 80, "the end of its path says which it is"


def test_of_a_path_its_end_is_shown() -> None:
    path = Tail("out/第一/step-200.pt")
    assert [path.within(width) for width in (20, 17, 16, 12)] == [
        "out/第一/step-200.pt", "…第一/step-200.pt", "…一/step-200.pt", "…step-200.pt"
    ]  # fmt: skip
    assert path.within(1) == "…" and Tail("").within(1) == ""


def test_columns_leave_in_their_order_and_empty_ones_first() -> None:
    columns = [Column("A"), Column("B", leaves=1), Column("C", leaves=2), Column("D", 4)]
    assert fit(columns, [5, 5, 5, 20], 60) == {0: 5, 1: 5, 2: 5, 3: 20}
    assert fit(columns, [5, 5, 5, 20], 30) == {0: 5, 1: 5, 2: 5, 3: 9}
    assert fit(columns, [5, 5, 5, 20], 20) == {0: 5, 1: 5, 3: 6}
    assert fit(columns, [5, 5, 5, 20], 20, frozenset({1})) == {0: 5, 2: 5, 3: 6}
    names = [Column("A", 24), Column("B", 16)]
    assert fit(names, [20, 200], 60) == {0: 20, 1: 38} and fit(names, [40, 200], 60) == {0: 29, 1: 29}
    assert fit(names, [40, 200], 38) == {0: 20, 1: 16} and fit(names, [40, 200], 12) == {0: 5, 1: 5}


def test_of_several_names_none_is_broken() -> None:
    names = Names(("gpu-master", "gpu1", "gpu2"))
    found = [names.within(width) for width in (22, 21, 20, 13)]
    assert found == ["gpu-master, gpu1, gpu2", "gpu-master, gpu1 +1", "gpu-master, gpu1 +1", "gpu-master +2"]
    assert names.within(10) == "gpu-ma… +2" and names.within(2) == "… +2", (
        "but the first one, to say how many there are"
    )


@given(st.lists(st.lists(st.text(max_size=40), min_size=3, max_size=3), max_size=4), st.integers(20, 130))
def test_no_line_is_wider_than_the_terminal(rows: list[list[str]], width: int) -> None:
    grid = Grid(Column("ONE", 4), Column("TWO", 3, leaves=1), Column("THREE", 5))
    for row in rows:
        grid.add(*("".join(sign if sign.isprintable() else "?" for sign in cell) for cell in row))
    assert all(cell_len(line) <= width for line in shown(grid, width))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_long_message_is_broken_between_words(width: int) -> None:
    before = "2026-11-24 12:00:00  job-001      failed     "
    lines = hanging(before, OOM, width)
    assert all(cell_len(line) <= width for line in lines) and lines[0].startswith(before.rstrip())
    assert " ".join(" ".join(line.strip() for line in lines).split()) == " ".join((before + OOM).split())
    assert hanging(before, OOM, None) == [before + OOM]


def test_a_command_is_not_broken() -> None:
    hint = "the last good copy is of 10:00: cp /a/long/folder/job.json.1 /a/long/folder/job.json && ugro state rebuild"
    assert hanging("next:  ", f"{hint}; or leave it", 60) == [
        "next:  the last good copy is of 10:00:",
        "       cp /a/long/folder/job.json.1 /a/long/folder/job.json && ugro state rebuild;",
        "       or leave it",
    ]
    lines = hanging("", "no scheduler is running: start `ugro serve`, or `ugro cron install`, or wait", 50)
    assert lines == ["no scheduler is running: start `ugro serve`, or", "`ugro cron install`, or wait"]


def test_ranks_that_were_ended_with_their_job_have_not_failed() -> None:
    states = (RankState.LOST, RankState.FAILED, RankState.SUCCEEDED)
    ranks = tuple(Rank(rank=n, local_rank=0, node="gpu1", state=state) for n, state in enumerate(states))
    ended = job(1, JobState.CANCELLED, ranks=ranks, placement=placement("gpu1"))
    assert "2 stopped, 1 succeeded" in shown(jobs_grid(listed(ended)), None)[1]
    stopped = ended.model_copy(update={"ranks": ranks[:2]})
    assert shown(jobs_grid(listed(stopped)), None)[1].split()[4] == "2", "all as their job: the number will do"
    failed = ended.model_copy(update={"state": JobState.FAILED})
    assert "1 failed, 1 lost, 1 succeeded" in shown(jobs_grid(listed(failed)), None)[1]


def on_terminal(home: Path, width: int, env: dict[str, str], *words: str) -> tuple[int, str]:
    """Run a command on a terminal of that width; return its exit code, and what it printed."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    known = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR")}
    ends = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    done = subprocess.run([sys.executable, "-m", "ugro", *words], cwd=home, env=known | env, **ends)  # type: ignore[call-overload]
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    return done.returncode, shown


@pytest.mark.parametrize("width", [60, 80])
def test_a_real_terminal_shows_it_so(home: Path, width: int) -> None:
    (home / "inventory.yaml").write_text("nodes:\n  gpu-of-a-long-name: {address: 127.0.0.1, local: true}\n")
    code, shown = on_terminal(home, width, {"TERM": "xterm"}, "status")
    assert code == 0 and "\x1b[" in shown, shown
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in shown.splitlines()]
    assert plain[0].startswith("NODE") and all(len(line) <= width for line in plain)
    assert plain[1].startswith("gpu-of-a-long-name ") and plain[-1].startswith("no jobs yet")


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"TERM": "dumb"}, ("init", "--force", "--contact", "a=ob@127.0.0.1:1")),
        ({"TERM": "dumb"}, ("status", "--watch")),
        ({"TERM": "xterm", "NO_COLOR": "1"}, ("status",)),
    ],
)
def test_a_terminal_without_escape_sequences_gets_none(home: Path, env: dict[str, str], words: tuple[str, ...]) -> None:
    (home / "inventory.yaml").write_text("nodes:\n  away: {address: 127.0.0.1, port: 1}\n")
    _, shown = on_terminal(home, 60, env, *words)
    assert "\x1b" not in shown
    assert "away" in shown or "error: " in shown


def test_commands_are_never_broken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    commands = ("ugro why job-004", "ugro logs -f job-004", "ugro hold job-004", "ugro cancel job-004")
    for width in (None, 100, 80, 30):
        monkeypatch.setattr("ugro.cli.output.terminal_width", lambda err=False, width=width: width)
        print_commands(*commands)
        lines = capsys.readouterr().out.splitlines()
        assert [one for line in lines for one in line.strip().split("   ")] == [*commands]
        assert width is None or all(len(line) <= width for line in lines)
    monkeypatch.setattr("ugro.cli.output.terminal_width", lambda err=False: 40)
    report(
        {"code": "x", "message": "word " * 20, "hint": "for the cause and how to resume: ugro explain job-002"},
        as_json=False,
    )
    told = capsys.readouterr().err.splitlines()
    assert all(len(line) <= 40 for line in told) and len(told) > 4
    assert " ".join(line.strip() for line in told).endswith(
        "next:  for the cause and how to resume: ugro explain job-002"
    )


def test_a_line_without_a_style_has_no_escape_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    for style, wanted in (({}, "a b\r\n"), ({"dim": False}, "a b\r\n"), ({"bold": True}, "\x1b[1ma b\x1b[0m\r\n")):
        leader, follower = pty.openpty()
        with os.fdopen(follower, "w") as terminal:
            monkeypatch.setattr(sys, "stdout", terminal)
            print_hanging("a ", "b", **style)
            terminal.flush()
            assert os.read(leader, 1000).decode() == wanted
        os.close(leader)


def test_shows_on_a_terminal_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert list(shown_progress(["job-001"], "ending")) == ["job-001"]
        said = b""
        for _ in shown_progress(["job-001", "job-002"], "ending"):
            while b"done)" not in said:
                said += os.read(leader, 1000)
    os.close(leader)
    assert b"ending job-001 (0 of 2 done)" in said


def test_lines_of_serve_are_broken_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = pty.openpty()
    monkeypatch.setenv("COLUMNS", "80")
    words = "watching gpu-master, gpu1 and gpu2; state in /home/somebody/.ugro; the dashboard is at 127.0.0.1:8470"
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        _Printer(as_json=False).say(words)
        said = b""
        while not said.endswith(b":8470\r\n"):
            said += os.read(leader, 1000)
    os.close(leader)
    lines = said.decode().splitlines()
    assert len(lines) == 2 and all(len(line) <= 80 for line in lines)
    assert " ".join(" ".join(lines).split()).endswith(words)
