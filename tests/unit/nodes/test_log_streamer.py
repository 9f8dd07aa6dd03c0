"""Logs come to the master byte by byte in order, whatever breaks in between."""

from __future__ import annotations

import asyncio
from itertools import islice
from pathlib import Path

import pytest

from ugro.common.paths import RunPaths
from ugro.nodes.remote.logs import log_streamer
from ugro.nodes.remote.logs.log_streamer import LogReader, fetch, parse_pieces
from ugro.nodes.transport import LocalTransport
from ugro.testing import builders
from ugro.testing.transport import Parrot

PATHS = RunPaths("~/.ugro", "job-001", 1, 0)


@pytest.fixture
def run_dir(home: Path) -> Path:
    folder = home / ".ugro/jobs/job-001/1/node-0"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def node() -> LocalTransport:
    return LocalTransport(builders.this_machine())


def add(path: Path, data: bytes) -> None:
    with open(path, "ab") as file:
        file.write(data)


async def test_fetches_new_lines_once(run_dir: Path, node: LocalTransport, tmp_path: Path) -> None:
    copies = tmp_path / "logs"
    reader = LogReader(copies, torchrun=True)
    assert (await fetch(node, PATHS, copies, at=1.0)).bytes == 0
    add(run_dir / "rank-0.log", b"one\ntwo\nthr")
    add(run_dir / "log", b"torchrun says\n")
    assert (await fetch(node, PATHS, copies, at=2.0)).bytes == 25
    assert [(line.text, line.rank, line.node_rank) for line in reader.lines()] == [
        ("one", 0, None), ("torchrun says", None, 0), ("two", 0, None),
    ]  # fmt: skip
    assert (await fetch(node, PATHS, copies, at=3.0)).bytes == 0
    add(run_dir / "rank-0.log", b"ee\n\xff\xfe bytes\nrest")
    assert (await fetch(node, PATHS, copies, at=4.0)).bytes == 16
    assert [line.text for line in reader.lines()] == ["three", "�� bytes"]
    assert [line.text for line in reader.lines(final=True)] == ["rest"]
    assert list(reader.lines(final=True)) == []
    assert (copies / "rank-0.log").read_bytes() == (run_dir / "rank-0.log").read_bytes()
    assert "torchrun says" not in [line.text for line in LogReader(copies).lines(final=True)]
    assert [line.text for line in LogReader(copies, torchrun=True).lines(final=True)] == [
        "one", "torchrun says", "two", "three", "�� bytes", "rest",
    ]  # fmt: skip


async def test_long_logs_come_in_bounded_pieces(
    run_dir: Path, node: LocalTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_streamer, "CHUNK", 1000)
    content = b"".join(b"line %d\n" % number for number in range(1000))
    add(run_dir / "rank-0.log", content)
    add(run_dir / "rank-1.log", content)
    counts = []
    while (brought := await fetch(node, PATHS, tmp_path / "logs", at=float(len(counts)))).bytes:
        counts.append(brought.bytes)
    assert max(counts) == 2000
    assert (tmp_path / "logs/rank-1.log").read_bytes() == content
    lines = list(LogReader(tmp_path / "logs").lines())
    assert [line.text for line in lines if line.rank == 1] == [f"line {number}" for number in range(1000)]
    assert [line.rank for line in lines[:4]] == [0, 1, 0, 1], "ranks in step are read side by side"
    assert {line.rank for line in LogReader(tmp_path / "logs", rank=1).lines()} == {1}


async def test_a_reader_begins_with_the_line_at_which_a_copy_had_arrived(
    run_dir: Path, node: LocalTransport, tmp_path: Path
) -> None:
    copies = tmp_path / "logs"
    for at, text in ((10.0, b"one\ntwo\nthr"), (20.0, b"ee\nfour\n"), (30.0, b"five\n")):
        add(run_dir / "rank-0.log", text)
        await fetch(node, PATHS, copies, at=at)

    def since(at: float) -> list[str]:
        reader = LogReader(copies)
        reader.skip_to_time(at)
        return [line.text for line in reader.lines(final=True)]

    assert since(5.0) == ["one", "two", "three", "four", "five"]
    assert since(15.0) == ["three", "four", "five"], "a line is whole where only its end is new"
    assert since(30.0) == ["five"] and since(31.0) == []
    only = LogReader(copies, torchrun=True, only=frozenset({"node-0.log"}))
    assert list(only.lines(final=True)) == []


@pytest.mark.parametrize("starts", [{}, {"rank-0.log": 700, "rank-1.log": 5}])
async def test_a_reader_begins_where_another_one_stopped(
    run_dir: Path, node: LocalTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts: dict[str, int]
) -> None:
    monkeypatch.setattr(log_streamer, "SLAB", 64)
    monkeypatch.setattr(log_streamer, "LONGEST_LINE", 40)
    copies = tmp_path / "logs"
    copies.mkdir()
    for name in ("rank-0.log", "rank-1.log"):
        lines = [f"{name} {number} {'.' * (90 if number in (0, 7, 14) else number % 5)}" for number in range(30)]
        (copies / name).write_text("\n".join(lines))
    written = list(LogReader(copies, starts=starts).lines(final=True))
    for count in range(len(written)):
        before, after = (LogReader(copies, starts=starts) for _ in range(2))
        texts = {rank: "".join(line.text for line in written if line.rank == rank) for rank in (0, 1)}
        taken = list(islice(before.lines(final=True), count))
        after.skip_to(before.position)
        taken += after.lines(final=True)
        assert {rank: "".join(line.text for line in taken if line.rank == rank) for rank in (0, 1)} == texts, count
    last = LogReader(copies, starts=starts)
    taken = list(islice(last.last(9, final=True), 4))
    after.skip_to(last.position)
    assert len(taken + list(after.lines(final=True))) == 9


async def test_a_killed_follower_leaves_a_copy_that_is_gone_on_from(
    run_dir: Path, node: LocalTransport, tmp_path: Path
) -> None:
    """Killed between the bytes and the note that they came, or in the middle of the bytes."""
    copies = tmp_path / "logs"
    add(run_dir / "rank-0.log", b"one\ntwo\n")
    copies.mkdir()
    (copies / "rank-0.log").write_bytes(b"one\nt")
    assert (await fetch(node, PATHS, copies, at=1.0)).bytes == 3
    assert [line.text for line in LogReader(copies).lines()] == ["one", "two"]


async def test_leaves_no_trace_where_nothing_came(run_dir: Path, node: LocalTransport, tmp_path: Path) -> None:
    assert (await fetch(node, PATHS, tmp_path / "logs", at=1.0)).bytes == 0
    elsewhere = RunPaths("~/nowhere", "job-001", 1, 0)
    assert (await fetch(node, elsewhere, tmp_path / "logs", at=1.0)).bytes == 0
    assert not (tmp_path / "logs").exists()


async def test_two_followers_bring_each_byte_once(run_dir: Path, node: LocalTransport, tmp_path: Path) -> None:
    add(run_dir / "rank-0.log", b"one\ntwo\n")
    brought = await asyncio.gather(*(fetch(node, PATHS, tmp_path / "logs", at=float(one)) for one in range(4)))
    assert all(one.bytes in (0, 8) for one in brought) and any(one.bytes == 8 for one in brought)
    assert [line.text for line in LogReader(tmp_path / "logs").lines(final=True)] == ["one", "two"]


async def test_bytes_from_another_place_than_asked_for_count_as_none(home: Path, tmp_path: Path) -> None:
    liar = Parrot(b"rank-0.log 9 5\nforged")
    assert (await fetch(liar, PATHS, tmp_path / "logs", at=1.0)).bytes == 0, (
        "or whoever asks until nothing comes asks forever"
    )


async def test_names_a_job_made_up_are_not_taken_for_logs(run_dir: Path, node: LocalTransport, tmp_path: Path) -> None:
    add(run_dir / "rank-0.log", b"fine\n")
    add(run_dir / "rank-1.log", b"fine too\n")
    for name in ("rank-0 9 9\n.log", "rank-$(touch x).log", "rank-0x.log"):
        add(run_dir / name, b"forged 0 5\n")
    await fetch(node, PATHS, tmp_path / "logs", at=1.0)
    assert [line.text for line in LogReader(tmp_path / "logs").lines()] == ["fine", "fine too"]


def test_a_piece_that_was_cut_short_ends_the_answer() -> None:
    output = b"log 0 3\nabcrank-0.log 5 10\nshort"
    assert list(parse_pieces(output)) == [("log", 0, b"abc"), ("rank-0.log", 5, b"short")]
    assert list(parse_pieces(b"nonsense")) == []
