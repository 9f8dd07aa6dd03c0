"""Find the ranks that differ in NCCL's own report of a job (RAS, NCCL 2.24 and newer). Pure.

The report has a section for each communicator whose ranks do not agree, and one for processes that do not answer:
https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting/ras.html
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ugro.common.models.job import Rank
from ugro.common.text import count, some

_MANY = re.compile(r"\s*(\d+) ranks have launched up to operation (\d+)\s*$")
_ONE = re.compile(r"\s*Rank (\d+) has launched up to operation (\d+)(.*)")
_LISTED = re.compile(r"\s*Rank (\d+) -- (.*)")
_PID = re.compile(r"managed by process (\d+)")
_DEAD = re.compile(r"\s*Process (\d+) on node \S+ managing GPU")


@dataclass(frozen=True)
class Difference:
    """In words, and the rank of the job that it lies with, where that is one."""

    text: str
    rank: int | None = None


def difference(report: str, ranks: Sequence[Rank]) -> Difference | None:
    """Return the ranks that launched fewer operations than the others, or do not answer NCCL; None: nothing differs.

    In a job without output for long these are the ranks that the others wait for. `ranks` are those of the job: their
    pids identify the ranks of a communicator.
    """
    dead = [_of_job(match[1], None, ranks) for line in report.splitlines() if (match := _DEAD.match(line))]
    if dead:
        return _told(dead, "does not answer NCCL", "do not answer NCCL")
    launched = _launched(report, ranks)
    if len(launched) < 2:
        return None
    least, most = min(launched), max(launched)
    behind = launched[least]
    told = f"at operation {least} of NCCL, others at {most}"
    if not behind.named:
        return Difference(f"{count(behind.ranks, 'rank')} {told}")
    return _told(behind.named, f"is {told}", f"are {told}")


@dataclass
class _Group:
    """Ranks that launched equally many operations: how many, and those that the report names."""

    ranks: int
    named: list[int | str]


def _launched(report: str, ranks: Sequence[Rank]) -> dict[int, _Group]:
    """Return groups of ranks by operation, for the first communicator whose ranks differ."""
    found: dict[int, _Group] = {}
    now: _Group | None = None
    for line in report.splitlines():
        if match := _MANY.match(line):
            now = found[int(match[2])] = _Group(int(match[1]), [])
        elif match := _ONE.match(line):
            found[int(match[2])] = _Group(1, [_of_job(_pid(match[3]), match[1], ranks)])
            now = None
        elif now and (match := _LISTED.match(line)):
            now.named.append(_of_job(_pid(match[2]), match[1], ranks))
        elif found and not line.strip():
            break
        else:
            now = None
    return found


def _pid(words: str) -> str | None:
    match = _PID.search(words)
    return match[1] if match else None


def _of_job(pid: str | None, rank: str | None, ranks: Sequence[Rank]) -> int | str:
    """Return the job's rank, which a smaller communicator counts otherwise; in words where the pid does not match."""
    same = [one.rank for one in ranks if pid is not None and one.pid == int(pid)]
    if len(same) == 1:
        return same[0]
    return f"a communicator's rank {rank}" if rank is not None else f"process {pid}"


def _told(who: Sequence[int | str], one: str, more: str) -> Difference:
    words = [f"rank {each}" if isinstance(each, int) else each for each in who]
    only = who[0] if len(who) == 1 else None
    return Difference(f"{some(words)} {one if len(who) == 1 else more}", only if isinstance(only, int) else None)
