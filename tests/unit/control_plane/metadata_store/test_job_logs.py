"""Logs of any length are brought, shown and judged in bounded memory, and their ends without all that lies before."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from ugro.common.clock import SYSTEM_CLOCK
from ugro.common.config import Inventory
from ugro.common.models.job_state import JobState
from ugro.common.paths import RunPaths
from ugro.control_plane.diagnosis import EvidenceReader
from ugro.control_plane.metadata_store.job_logs import JobLogs
from ugro.control_plane.metadata_store.log_ends import ERROR_BYTES, TAIL_BYTES, rank_log
from ugro.control_plane.metadata_store.log_index import BLOCK, DUE_AFTER, IndexedLog
from ugro.engines.ssh.engine import SshEngine
from ugro.nodes.pool import Pool
from ugro.nodes.remote.logs.log_streamer import ERROR_LIMIT, LONGEST_LINE, SLAB, LogReader, last_lines
from ugro.nodes.transport import Outcome
from ugro.testing import builders
from ugro.testing.transport import Counting

MIB = 2**20
PATHS = RunPaths("~/.ugro", "job-001", 1, 0)
LINE = b"step %08d loss 0.123456 lr 0.0003 tokens/s 12345 grad_norm 1.234\n"


@pytest.fixture
def run_dir(home: Path) -> Path:
    folder = home / ".ugro/jobs/job-001/1/node-0"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def node() -> Counting:
    return Counting(builders.this_machine())


@pytest.fixture
async def logs(node: Counting, tmp_path: Path) -> AsyncIterator[JobLogs]:
    async with Pool(Inventory(nodes={"here": node.node}), lambda _: node) as pool:
        engine = SshEngine(Inventory(nodes={"here": node.node}), pool, SYSTEM_CLOCK, str)
        job = builders.job(JobState.RUNNING, placement=builders.placement("here"))
        yield JobLogs(engine, job, job.nodes, tmp_path / "copies")


def fill(path: Path, mib: int, last: bytes = b"") -> None:
    block = b"".join(LINE % number for number in range(10_000))
    with open(path, "ab") as file:
        for _ in range(mib * MIB // len(block)):
            file.write(block)
        file.write(last)


@contextmanager
def bounded(mib: float) -> Iterator[None]:
    """What is held at a time stays below so much."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()
    assert peak < mib


async def test_the_last_lines_of_a_long_log_come_without_the_rest(
    logs: JobLogs, node: Counting, run_dir: Path, tmp_path: Path
) -> None:
    fill(run_dir / "rank-0.log", 64, b"the last but one\nthe last\n")
    fill(run_dir / "rank-1.log", 1, b"so says the other\n")
    with bounded(40):
        window = await logs.window(2, tmp_path / "window")
    assert window and node.said < MIB
    assert [line.text for line in LogReader(window.folder, rank=0).last(2, final=True)] == [
        "the last but one", "the last",
    ]  # fmt: skip
    copy = (tmp_path / "copies/rank-0.log").read_bytes()
    assert copy == (run_dir / "rank-0.log").read_bytes()[: len(copy)], "the copy is a prefix, as ever"
    reader = LogReader(window.folder)
    assert len(list(reader.last(3))) == 3
    with open(run_dir / "rank-1.log", "ab") as file:
        file.write(b"and goes on\n")
    async for _ in window.again().rounds():
        pass
    assert [(line.rank, line.text) for line in reader.lines()] == [(1, "and goes on")]


async def test_what_follows_the_lines_of_a_window_comes_without_what_is_before_them(
    logs: JobLogs, node: Counting, run_dir: Path, tmp_path: Path
) -> None:
    fill(run_dir / "rank-0.log", 64, b"one\ntwo\n")
    window = await logs.window(2, tmp_path / "window")
    assert window
    reader = window.reader()
    assert [line.text for line in islice(reader.last(2), 1)] == ["one"]
    node.said = 0
    again = logs.window_from(reader.position, tmp_path / "again")
    assert again
    async for _ in again.rounds():
        pass
    rest = again.reader()
    rest.skip_to(reader.position)
    assert [line.text for line in rest.lines()] == ["two"] and node.said < MIB
    assert rest.position == {"rank-0.log": (run_dir / "rank-0.log").stat().st_size}
    assert logs.window_from({"rank-0.log": 5}, tmp_path / "none") is None, "the copies reach so far"


async def test_where_the_copies_are_close_they_serve(logs: JobLogs, run_dir: Path, tmp_path: Path) -> None:
    (run_dir / "rank-0.log").write_bytes(LINE * 1000 + b"the last\n")
    assert await logs.window(1, tmp_path / "window") is None
    assert [line.text for line in LogReader(logs.folder).last(1)] == ["the last"]
    assert not (tmp_path / "window").exists()


@pytest.mark.long
async def test_a_whole_long_log_is_brought_and_read_in_bounded_memory(
    logs: JobLogs, run_dir: Path, tmp_path: Path
) -> None:
    fill(run_dir / "rank-0.log", 48)
    fill(run_dir / "rank-1.log", 48)
    with bounded(80):
        assert await logs.bring_all() == {}
    assert (logs.folder / "rank-1.log").stat().st_size == (run_dir / "rank-1.log").stat().st_size
    with bounded(2):
        ranks = [line.rank for line, _ in zip(LogReader(logs.folder).lines(), range(50_000), strict=False)]
    assert max(abs(ranks[:end].count(0) - ranks[:end].count(1)) for end in range(0, 50_000, 1000)) < 1000, "in step"


async def test_what_ends_a_log_is_evidence_before_the_log_is_here(logs: JobLogs, node: Counting, run_dir: Path) -> None:
    fill(run_dir / "rank-0.log", 32, b"RuntimeError: CUDA out of memory.\n")
    (run_dir / "rank-0.error").write_bytes(b"\0" * (8 * MIB))  # and no end of it
    assert await logs.bring_ends() == {}
    assert node.said < MIB, "over 2 Mbit/s that is four seconds"
    assert rank_log(logs.folder, 0).endswith("RuntimeError: CUDA out of memory.\n")
    assert len(rank_log(logs.folder, 0)) <= TAIL_BYTES
    await logs.bring_all()
    with open(run_dir / "rank-0.log", "ab") as file:
        file.write(b"one more\n")
    await logs.bring_ends()
    assert rank_log(logs.folder, 0).endswith("one more\n"), "what reaches furthest counts"
    assert (logs.folder / "rank-0.error").stat().st_size == ERROR_LIMIT == ERROR_BYTES


async def test_a_log_that_grows_on_ends_the_bringing(logs: JobLogs, node: Counting, run_dir: Path) -> None:
    fill(run_dir / "rank-0.log", 2)
    run, path = node.run, run_dir / "rank-0.log"

    async def run_and_grow(*args: Any, **options: Any) -> Outcome:
        fill(path, 20)
        return await run(*args, **options)

    node.run = run_and_grow  # type: ignore[method-assign]
    await logs.bring_all()
    assert 0 < (logs.folder / "rank-0.log").stat().st_size < path.stat().st_size, "it ended, and the log goes on"


BAR = b"".join(b"\r%3d%%|####      | %d/100000" % (number % 100, number) for number in range(100_000))


@pytest.mark.long
@pytest.mark.parametrize(
    ("content", "first", "last"),
    [
        (b"x" * (8 * MIB) + b"\nend\n", "x" * 1000, "end"),
        (b"start\n" + BAR, "start", " 99%|####      | 99999/100000"),
        (b"\0" * (4 * MIB) + b"\n\xff\xfe\nend", "\0" * 1000, "end"),
        (b"\n" * (MIB // 8), "", ""),
    ],
    ids=["one line", "bar", "nul", "empty lines"],
)
def test_lines_of_any_length_are_read_in_bounded_parts(tmp_path: Path, content: bytes, first: str, last: str) -> None:
    (tmp_path / "rank-0.log").write_bytes(content)
    with bounded(24):
        seen: list[str] = []
        for line in LogReader(tmp_path).lines(final=True):
            assert len(line.text) <= LONGEST_LINE + SLAB
            seen = [*seen[:1], line.text[-1000:] if seen else line.text[:1000]]
    assert seen[0].startswith(first) and seen[-1].endswith(last)
    with bounded(24):
        (end,) = LogReader(tmp_path).last(1, final=True)
    assert end.text.endswith(last)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 5000, 10**6])
def test_where_the_last_lines_begin(tmp_path: Path, count: int) -> None:
    for end in (b"", b"\n", b"no end"):
        content = b"".join(LINE % number for number in range(4000)) + end
        (path := tmp_path / "log").write_bytes(content)
        lines = content.splitlines(keepends=True)
        assert content[last_lines(path, count) :] == b"".join(lines[len(lines) - count if count < len(lines) else 0 :])


def test_a_diagnosis_reads_any_log_in_bounded_memory() -> None:
    chunks = [b"x" * MIB, BAR[:MIB], b"\0" * MIB, b"\n" * (MIB // 8), LINE * 1000, b"RuntimeError: boom\n"]
    with bounded(140):
        reader = EvidenceReader()
        reader.read(chunks)
    assert reader.evidence.sightings


def test_pieces_that_were_torn_cost_only_the_order(tmp_path: Path) -> None:
    (tmp_path / "rank-0.log").write_bytes(b"one\ntwo\n")
    (tmp_path / "pieces.jsonl").write_bytes(
        b'{"at": 1.0, "file": "rank-0.log", "end": 4}\n\0\0\n{"at"\n[]\n'
        b'{"at": 2.0, "file": "rank-0.log", "end": 4000}\n'
    )
    assert [line.text for line in LogReader(tmp_path).lines(final=True)] == ["one", "two"]


async def test_an_index_grows_as_the_log_arrives(logs: JobLogs, run_dir: Path) -> None:
    fill(run_dir / "rank-0.log", 24)
    async for _ in logs.rounds():
        pass
    log, index = logs.folder / "rank-0.log", logs.folder / "index/rank-0.log"
    known = index.stat().st_size // 8 - 1
    assert log.stat().st_size == (run_dir / "rank-0.log").stat().st_size
    assert log.stat().st_size // BLOCK - DUE_AFTER < known <= log.stat().st_size // BLOCK
    with IndexedLog(log) as opened:
        assert opened.read < (DUE_AFTER + 4) * BLOCK, "what is left to count is little"
