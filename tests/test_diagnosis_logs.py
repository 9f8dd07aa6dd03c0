"""Whole logs in the formats of the real tools. A file in `logs/` is called `<cause>.<what it shows>[.rank<N>].log`."""

from __future__ import annotations

import itertools
import json
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from ugro.cli.main import cli
from ugro.control_plane.diagnosis import Finding, Reader, explain
from ugro.control_plane.diagnosis.catalogue import CATALOGUE
from ugro.control_plane.diagnosis.causes import CAUSES

LOGS = sorted((Path(__file__).parent / "logs").glob("*.log"))
MIB = 1024 * 1024


def read(*logs: bytes) -> Finding | None:
    reader = Reader()
    for log in logs:
        reader.read([log])
    return explain(reader.evidence)


def expected(path: Path) -> tuple[str | None, int | None]:
    cause, *rest = path.stem.split(".")
    rank = re.fullmatch(r"rank(\d+)", rest[-1])
    return None if cause == "null" else cause, int(rank[1]) if rank else None


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_the_cause_and_the_rank(path: Path) -> None:
    cause, rank = expected(path)
    log = path.read_bytes()
    found = read(log)
    assert (found and found.cause) == cause
    if found is None:
        return
    if rank is not None:
        assert found.rank == rank
    plain = re.sub(r"\x1b\[\d+m", "", log.decode())
    assert found.evidence and all(line in plain for line in found.evidence), "what is quoted stands in the log"
    assert found.suggestion


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_in_pieces_with_other_line_ends_and_in_colour_it_is_the_same(path: Path) -> None:
    log = path.read_bytes()
    whole = read(log)
    reader = Reader()
    reader.read(log[at : at + 7] for at in range(0, len(log), 7))
    assert explain(reader.evidence) == whole
    assert read(log.replace(b"\n", b"\r\n")) == whole
    coloured = read(b"".join(b"\x1b[31m" + line + b"\x1b[0m\n" for line in log.splitlines()))
    assert (coloured and coloured.cause) == (whole and whole.cause)


def test_every_cause_that_a_log_can_show_has_a_log() -> None:
    assert {expected(path)[0] for path in LOGS} == {*CAUSES, None}
    assert {entry.cause for entry in CATALOGUE} <= CAUSES.keys()


@pytest.mark.parametrize(
    "prefix",
    [
        b"2025-03-02T11:00:01.123456Z ", b"[2025-03-02 11:00:01,123] ", b"2025-03-02 11:00:01 | ", b"11:00:01 ",
        b"[rank3]: ", b"[default3]:", b"3: ", b"[3]: ", b"[1,3]<stderr>:", b"(RayTrainWorker pid=12, ip=10.0.0.1) ",
        b"[pod/train-worker-3/pytorch] ", b"node-3 | ", b"worker-3: ", b"2025-03-02 11:00:01 [rank3]: ",
        b"Mar  2 11:00:01 gpu1 kernel: ", b"| ",
    ],
)  # fmt: skip
def test_prefixes_of_launchers_do_not_hide_the_traceback(prefix: bytes) -> None:
    lines = [
        b"Traceback (most recent call last):", b'  File "/w/t.py", line 7, in <module>', b"    main()",
        b'  File "/x/site-packages/torch/nn/modules/module.py", line 1, in forward', b"    return f()",
        b"ValueError: boom",
    ]  # fmt: skip
    found = read(b"".join(prefix + line + b"\n" for line in lines))
    assert found and (found.cause, found.message, found.where) == ("python_exception", "ValueError: boom", "/w/t.py:7")
    assert found.rank == (3 if b"3" in re.sub(rb"[\d:.,-]+[T ][\d:.,]+", b"", prefix) else None)


def test_tracebacks_of_ranks_through_each_other_are_taken_apart() -> None:
    def raising(rank: int, error: str) -> list[str]:
        inside = ["Traceback (most recent call last):", f'  File "/w/{rank}.py", line {rank}, in <module>', error]
        return [f"[rank{rank}]: {line}" for line in inside]

    peers = [raising(rank, "RuntimeError: [pair.cc:534] Connection closed by peer [10.0.0.2]:1") for rank in (0, 1, 3)]
    mixed = itertools.chain.from_iterable(zip(*peers, raising(2, "KeyError: 'x'"), strict=True))
    found = read("\n".join(mixed).encode())
    assert found and (found.cause, found.rank, found.where, found.consequences) == (
        "python_exception",
        2,
        "/w/2.py:2",
        3,
    )


def test_files_of_ranks_are_one_run() -> None:
    reader = Reader()
    reader.read(
        [
            b'Traceback (most recent call last):\n  File "a.py", line 1, in <module>\nConnectionResetError: [Errno 104] Connection reset by peer\n'
        ],
        0,
    )
    reader.read(
        [
            b'Traceback (most recent call last):\n  File "a.py", line 1, in <module>\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 1\n'
        ],
        1,
    )
    found = explain(reader.evidence)
    assert found and (found.cause, found.rank, found.consequences) == ("cuda_oom", 1, 1)
    assert found.facts == {"asked": "2.00 GiB"}


def test_the_rank_that_kept_the_others_waiting() -> None:
    def waits(rank: int, seq: int) -> bytes:
        return (
            f"[rank{rank}]:[E1 03:04:11.0 ProcessGroupNCCL.cpp:683] [Rank {rank}] Watchdog caught collective operation "
            f"timeout: WorkNCCL(SeqNum={seq}, OpType=ALLREDUCE, NumelIn=1, NumelOut=1, Timeout(ms)=600000) ran for 600096 "
            "milliseconds before timing out.\n"
        ).encode()

    absent = read(b"[rank2]: evaluating\n[rank2]: evaluating, signal\n", waits(0, 7), waits(1, 7), waits(3, 7))
    assert absent and (absent.cause, absent.rank) == ("collective_timeout", 2)
    assert absent.facts == {"seq": "7", "op": "ALLREDUCE", "limit_ms": "600000"}
    behind = read(waits(0, 9), waits(1, 4), waits(2, 9))
    assert behind and behind.rank == 1


def test_what_torch_appends_to_its_message_is_quoted() -> None:
    found = read((Path(__file__).parent / "logs" / "cuda_oom.nccl-unhandled-cuda-error.rank1.log").read_bytes())
    assert found and found.evidence[-1] == "Cuda failure 2 'out of memory'"


HOSTILE = [
    b"\x00" * 5000, b"\xff\xfe" * 5000, b"\x1b[31m" * 5000, b"x" * (1 * MIB), b"Error: " * (MIB // 7), b"\r" * 9000,
    b"Traceback (most recent call last):\n" * 5000, b'  File "' * 9000, b"[" * 100_000, b"1" * 100_000, b"(" * 100_000,
    b"Error " + b"a." * 50_000, b" " * 100_000 + b"Error", b"[rank99999999999999999999]: ValueError: x\n",
    b"exitcode : -99999999999999999999 (pid: 1)\n", "\u202eError: ‮\u2066".encode(), b"CUDA " * 20_000,
    b"file " + b"path " * 20_000 + b"not found",
]  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize("log", HOSTILE, ids=lambda log: repr(log[:20]))
def test_hostile_logs_are_read_in_little_time(log: bytes) -> None:
    found = read(log)
    assert all(len(line) <= 400 and line.isprintable() for line in (found.evidence if found else ()))


WORDS = st.sampled_from(
    [line for path in LOGS for line in path.read_bytes().splitlines()]
    + [b"Traceback (most recent call last):", b"During handling of the above exception, another exception occurred:"]
)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.one_of(st.binary(max_size=200), WORDS), max_size=60), st.sampled_from([b"\n", b"\r", b"\r\n", b""]))
def test_it_never_raises(lines: list[bytes], end: bytes) -> None:
    found = read(end.join(lines))
    assert found is None or found.cause in CAUSES


def test_a_long_log_is_read_in_bounded_memory() -> None:
    size = 200 * MIB

    def stream() -> Iterator[bytes]:
        dull = b"".join(b"step %d loss 2.%d lr 1e-3 12.5 it/s\n" % (n, n) for n in range(25_000))
        made = 0
        for turn in itertools.count():
            ranks = b"".join(b"[rank%d]: Traceback (most recent call last):\n" % (turn * 5 + n) for n in range(5))
            odd = b"".join(b"%sError: %s\n" % (b"X" * (n % 90), b"abc"[n % 3 :] * (turn % 50)) for n in range(10))
            made += len(dull) + len(ranks) + len(odd)
            yield from (dull, ranks, odd)
            if made > size:
                return

    reader = Reader()
    chunks = stream()
    reader.read([next(chunks)])
    tracemalloc.start()
    reader.read(chunks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * MIB
    assert reader.evidence.lines > 5_000_000


# --- the command -----------------------------------------------------------------------------------------------------


def ugro(*args: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(cli, ["explain", *args], input=stdin, catch_exceptions=False)


def test_explain_prints_one_document(tmp_path: Path) -> None:
    for rank, name in enumerate(["peer_lost.gloo.log", "file_not_found.data.rank0.log"]):
        text = (Path(__file__).parent / "logs" / name).read_text().replace("[rank0]: ", "")
        (tmp_path / f"rank-{rank}.log").write_text(text)
    done = ugro("--log", str(tmp_path / "rank-0.log"), str(tmp_path / "rank-1.log"), "--json")
    document = json.loads(done.stdout)
    assert {"cause", "rank", "evidence", "suggestion", "retry_helps"} <= document.keys()
    assert (document["cause"], document["rank"], document["retry_helps"]) == ("file_not_found", 1, False)
    assert (document["where"], document["consequences"]) == ("/w/a.py:3", 1)


def test_explain_reads_stdin_and_says_when_nothing_is_wrong() -> None:
    done = ugro("--log", "-", "--json", stdin=b"step 1 loss 2\nTraining complete\n")
    assert done.exit_code == 0 and json.loads(done.stdout)["cause"] is None
    assert ugro("--log", "-", stdin=b"all well\n").stdout == "nothing shows that it ended badly\n"


def test_explain_fits_one_screen_and_shows_foreign_text_as_it_is() -> None:
    log = b'Traceback (most recent call last):\n  File "/w/[bold]t.py", line 7, in <module>\nValueError: [red]\x1b[31m \x07\n'
    said = ugro("--log", "-", stdin=log).stdout
    assert "the script raised an exception (python_exception)" in said and "ValueError: [red]" in said
    assert "/w/[bold]t.py:7" in said and "\x1b" not in said and "\x07" not in said
    assert len(said.splitlines()) < 24


@pytest.mark.parametrize("args", [[], ["--log"], ["one", "two"]])
def test_explain_says_what_it_expects(args: list[str]) -> None:
    done = CliRunner().invoke(cli, ["explain", *args])
    assert done.exit_code == 2 and "expected" in done.output + str(done.exception) or "needs" in done.output


def test_a_log_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["explain", "--log", str(tmp_path / "none.log")])
    assert done.exit_code != 0 and "none.log" in str(done.exception)
