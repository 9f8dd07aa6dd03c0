"""A log of 2 GB on the master: its end, a page in its middle, a search in a million lines, next to tail, sed and grep.

All of it runs in one process of its own, whose memory is reported.
"""

from __future__ import annotations

import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.report import Row, program
from ugro.control_plane.metadata_store.log_index import on_log
from ugro.control_plane.metadata_store.log_regex import matches

LINE = b"step %08d loss 0.123456 lr 0.0003 tokens/s 12345 grad_norm 1.234 eta 1:23:45 mem 12.3GiB\n"
BLOCK, MILLION = 100_000, 1_000_000
LINES = 22 * MILLION
MIDDLE = LINES // 2
PAGE = 200
RUNS = 5
GROUP = "a log of 2 GB on the master"
MEMORY_LIMIT = 150.0
"""MiB of resident memory that the process may take."""


def measure() -> Iterator[Row]:
    """The rows of this benchmark.

    Raises:
        Unavailable: there is no grep here.
    """
    for name, package in (("grep", "grep"), ("sed", "sed"), ("tail", "coreutils"), ("wc", "coreutils")):
        program(name, package)
    with tempfile.TemporaryDirectory(prefix="ugro-bench-") as name:
        folder = Path(name)
        _fill(folder / "rank-0.log", LINES)
        _fill(folder / "rank-1.log", MILLION)
        found = json.loads(
            subprocess.run(
                [sys.executable, "-m", "benchmarks.log_pages", name], capture_output=True, text=True, check=True
            ).stdout
        )
    for what, limit in (
        ("index built, to `wc -l`", 6.0),
        (f"the last {PAGE} lines, to `tail -n {PAGE}`", 5.0),
        (f"{PAGE} lines in the middle, to `sed`", 0.05),
        ("a text in a million lines, to `grep -cF`", 4.0),
        ("a regular expression in a million lines, to `grep -cE`", 12.0),
    ):
        own, other = found[what]
        ratio = statistics.median(mine / peer for mine, peer in zip(own, other, strict=True))
        yield Row(GROUP, what, ratio, "×", limit, note=f"{_ms(own)}; the other {_ms(other)}")
    yield Row(GROUP, "memory", found["memory"], "MiB", MEMORY_LIMIT)


def _ms(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.1f} ms"


def _fill(log: Path, lines: int) -> None:
    with log.open("wb") as file:
        for begin in range(0, lines, BLOCK):
            file.write(b"".join(LINE % number for number in range(begin + 1, begin + BLOCK + 1)))


def _measured(folder: Path) -> dict[str, Any]:
    """The seconds of each contender in turns, by what is done."""
    log, million = folder / "rank-0.log", folder / "rank-1.log"

    def build() -> None:
        (folder / "index" / log.name).unlink(missing_ok=True)
        assert on_log(log, lambda opened: opened.count) == LINES

    def end() -> None:
        assert on_log(log, lambda opened: opened.tail(PAGE))[-1].number == LINES

    def middle() -> None:
        assert on_log(log, lambda opened: opened.lines(MIDDLE, PAGE))[0].number == MIDDLE

    def text() -> None:
        assert on_log(million, lambda opened: opened.grep(b"no such text", 0, 1000, math.inf)).next is None

    def expression() -> None:
        assert matches(million, "los+ 9", 0, 1000, 600).next is None

    contenders: dict[str, tuple[Callable[[], None], list[str], int]] = {
        "index built, to `wc -l`": (build, ["wc", "-l", str(log)], 1),
        f"the last {PAGE} lines, to `tail -n {PAGE}`": (end, ["tail", "-n", str(PAGE), str(log)], RUNS),
        f"{PAGE} lines in the middle, to `sed`": (
            middle,
            ["sed", "-n", f"{MIDDLE},{MIDDLE + PAGE}p;{MIDDLE + PAGE}q", str(log)],
            RUNS,
        ),
        "a text in a million lines, to `grep -cF`": (text, ["grep", "-cF", "no such text", str(million)], RUNS),
        "a regular expression in a million lines, to `grep -cE`": (
            expression,
            ["grep", "-cE", "los+ 9", str(million)],
            RUNS,
        ),
    }
    found: dict[str, Any] = {}
    for what, (own, peer, rounds) in contenders.items():
        turns = [(_timed(own), _timed(lambda peer=peer: _run(peer))) for _ in range(rounds)]  # type: ignore[misc]
        found[what] = [list(one) for one in zip(*turns, strict=True)]
    found["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def _run(command: list[str]) -> None:
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False)


def _timed(act: Callable[[], None]) -> float:
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


if __name__ == "__main__":
    print(json.dumps(_measured(Path(sys.argv[1]))))
