"""How things are timed next to each other, and what was found: rows, printed as one table and kept as JSON.

A target is a ratio to something that is measured in the same rounds, so that a busy machine slows down both. Absolute
times are there to be read, and have none.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).with_name("results")

Times = tuple[float, float]
"""Seconds on the clock, and seconds of CPU."""

CLOCK, CPU = 0, 1


class Unavailable(Exception):
    """This machine lacks what a part needs; the text says what, and how to get it."""


def program(name: str, package: str) -> str:
    """The path of a program, also of one that only root has in its PATH.

    Raises:
        Unavailable: it is not installed.
    """
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))
    if found := shutil.which(name, path=path):
        return found
    raise Unavailable(f"there is no {name}: install it (Debian, Ubuntu: sudo apt-get install {package})")


@dataclass(frozen=True)
class Row:
    """One figure. `limit` is the target: `value` has to be at most that, or at least that where `least` is set."""

    group: str
    what: str
    value: float | None
    unit: str = "ms"
    limit: float | None = None
    least: bool = False
    note: str = ""

    @property
    def verdict(self) -> str:
        """Whether the target is met; nothing where there is none."""
        if self.value is None or self.limit is None:
            return ""
        return "ok" if (self.value >= self.limit if self.least else self.value <= self.limit) else "MISSED"


def in_turns(acts: Mapping[str, Callable[[], Times]], rounds: int) -> dict[str, list[Times]]:
    """Times of each act, round about and each round beginning with another one. The first round is not counted."""
    names = list(acts)
    times: dict[str, list[Times]] = {name: [] for name in names}
    for number in range(-1, rounds):
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            taken = acts[name]()
            if number >= 0:
                times[name].append(taken)
    return times


def clocked(act: Callable[[], object]) -> Callable[[], Times]:
    """The act, returning its times in this process."""

    def run() -> Times:
        begin, used = time.perf_counter(), time.process_time()
        act()
        return time.perf_counter() - begin, time.process_time() - used

    return run


def ratio(first: Sequence[Times], second: Sequence[Times], which: int = CLOCK) -> float | None:
    """The median of the rounds' ratios: both halves of each met the same load. None without rounds of both."""
    pairs = list(zip(first, second, strict=False))
    return statistics.median(a[which] / b[which] for a, b in pairs) if pairs else None


def median_ms(times: Sequence[Times], which: int = CLOCK) -> float:
    """The median of some times in milliseconds."""
    return statistics.median(taken[which] for taken in times) * 1000


def timed(group: str, what: str, seconds: Sequence[float], note: str = "") -> Row:
    """The median of some times, with the least and the most of them in the note."""
    spread = f"{min(seconds) * 1000:,.0f}–{max(seconds) * 1000:,.0f} in {len(seconds)}"
    return Row(group, what, statistics.median(seconds) * 1000, note="; ".join(filter(None, [spread, note])))


def in_ms(seconds: Sequence[float]) -> str:
    """The median of some times in words, for a note."""
    return f"{statistics.median(seconds) * 1000:,.0f} ms"


def show(rows: Iterable[Row]) -> None:
    """Print the rows as a table."""
    table = Table("what", "figure", "target", "", "note")
    group = ""
    for row in rows:
        if row.group != group:
            group = row.group
            table.add_section()
            table.add_row(f"[bold]{group}[/]")
        figure = "-" if row.value is None else f"{row.value:.3g} {row.unit}" if row.value < 100 else _whole(row)
        target = "" if row.limit is None else f"{'≥' if row.least else '≤'} {row.limit:g}"
        table.add_row(row.what, figure, target, row.verdict, row.note)
    Console(width=130).print(table)


def _whole(row: Row) -> str:
    return f"{row.value:,.0f} {row.unit}"


def keep(rows: Sequence[Row]) -> Path:
    """Write the rows as JSON, with the machine they are of. Returns where."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    machine = {"cpus": len(os.sched_getaffinity(0)), "load": os.getloadavg(), "python": platform.python_version()}
    found = [asdict(row) | {"verdict": row.verdict} for row in rows]
    path.write_text(json.dumps({"at": time.time(), "machine": machine, "rows": found}, indent=1) + "\n")
    return path


def child_seconds() -> float:
    """The CPU time of all ended child processes, theirs included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
