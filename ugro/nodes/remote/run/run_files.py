"""What the files of a run on its node say: read in one round trip, and never trusted to make sense."""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Sequence
from dataclasses import replace

from ugro.common.errors import NodeRefused
from ugro.common.models.job import LimitMark
from ugro.common.models.run import Effort, RankFiles, RunFiles
from ugro.common.paths import RunPaths
from ugro.common.text import size
from ugro.nodes.remote.answers import read_sections
from ugro.nodes.remote.bundle import load
from ugro.nodes.transport import Transport

LOOK_TIMEOUT = 20.0
TICKS_PER_SECOND = 100
"""The kernel's USER_HZ, in which /proc counts CPU time."""
_COUNT = re.compile(r"[0-9]{1,18}")
_OOM = {
    "kernel": "the kernel's log says that it was killed for lack of memory",
    "cgroup": "the kernel killed for lack of memory in its cgroup meanwhile",
    "full": "it was killed when the machine's memory was nearly full",
}
_LOG_SIZE = re.compile(r" *([0-9]{1,18}) rank-([0-9]{1,9})\.log")


async def look(transport: Transport, runs: Sequence[RunPaths]) -> list[RunFiles]:
    """Read the files of several runs on one node, in one round trip.

    Raises:
        NodeError: the node cannot be read, which says nothing about the runs.
    """
    nonce = secrets.token_hex(8)
    args = (nonce, *(paths.run_dir for paths in runs))
    outcome = await transport.ask(load("run/look.sh"), args, timeout=LOOK_TIMEOUT)
    return require_all(transport, parse_look(outcome.text, nonce), runs)


def require_all(transport: Transport, found: list[RunFiles], runs: Sequence[RunPaths]) -> list[RunFiles]:
    """Return what was found if it is all of the runs that were asked for.

    Raises:
        NodeRefused: it is not all of them.
    """
    if len(found) != len(runs):
        raise NodeRefused(transport.name, f"the state of its jobs cannot be read: {len(found)} of {len(runs)} came")
    return found


def parse_look(text: str, nonce: str) -> list[RunFiles]:
    """Return the runs in the complete sections of `look.sh`'s output.

    Invalid lines are passed over: a file may be half written, or written by another program.
    """
    sections = read_sections(text, nonce)
    clock = next((section.arguments for section in sections if section.name == "clock"), ())
    node_time = _seconds(clock[0]) if len(clock) == 2 else None
    if node_time is None:
        return []
    return [_parse_run(section.lines, node_time, clock[1]) for section in sections if section.name == "run"]


def _parse_run(lines: Sequence[str], node_time: float, boot: str) -> RunFiles:
    fields: dict[str, list[str]] = {}
    ranks: list[RankFiles] = []
    limits: dict[int, LimitMark] = {}
    kills: dict[int, str] = {}
    efforts: dict[int, Effort] = {}
    logs: dict[int, int] = {}
    for line in lines:
        word, *rest = line.split()
        if word == "rank":
            ranks += _parse_rank(rest)
        elif word == "limit":
            limits |= _parse_limit(rest)
        elif word == "oom":
            kills |= _parse_oom(rest)
        elif word == "effort":
            efforts |= _parse_effort(rest)
        elif match := _LOG_SIZE.fullmatch(line):
            logs[int(match[2])] = int(match[1])
        else:
            fields[word] = rest
    runner = fields.get("runner", [])
    ranks = [
        replace(
            rank,
            limit=limits.get(rank.rank),
            oom=kills.get(rank.rank),
            effort=efforts.get(rank.rank),
            log_bytes=logs.get(rank.rank),
        )
        for rank in sorted(ranks, key=lambda rank: rank.rank)
    ]
    return RunFiles(
        node_time=node_time,
        claimed="claim" in fields,
        uid=next(iter(fields.get("claim", ())), None),
        runner_alive=runner[1:] == [boot, "alive"],
        rebooted=len(runner) > 1 and runner[1] != boot,
        exit_code=_number(fields.get("exit", [])),
        exit_at=_seconds([*fields.get("exit", []), "", ""][1]),
        reaper_died=fields.get("exit", [])[2:] == ["reaper"],
        time_limit=_seconds([*fields.get("time", []), ""][0]),
        ranks=tuple(ranks),
    )


def _parse_rank(words: Sequence[str]) -> list[RankFiles]:
    match words:
        case [rank, pid, "alive" | "gone" as life] if _COUNT.fullmatch(rank) and _COUNT.fullmatch(pid):
            return [RankFiles(int(rank), int(pid), life == "alive")]
        case [rank, pid, "ended", kind, value, at] if _COUNT.fullmatch(rank) and _COUNT.fullmatch(pid):
            code = int(value) if kind == "code" and _COUNT.fullmatch(value) else None
            signal = value if kind == "signal" and value.isalnum() else None
            return [RankFiles(int(rank), int(pid), False, code, signal, _seconds(at))]
        case _:
            return []


def _parse_limit(words: Sequence[str]) -> dict[int, LimitMark]:
    match words:
        case [rank, limit, *_] if _COUNT.fullmatch(rank) and limit in [*LimitMark]:
            return {int(rank): LimitMark(limit)}
        case _:
            return {}


def _parse_oom(words: Sequence[str]) -> dict[int, str]:
    match words:
        case [rank, kind, *numbers] if (
            kind in _OOM and len(numbers) == 2 and all(map(_COUNT.fullmatch, [rank, *numbers]))
        ):
            peak, room = (size(int(kib) / 1024) for kib in numbers)
            return {int(rank): f"{_OOM[kind]}; it held up to {peak} of {room}"}
        case _:
            return {}


def _parse_effort(words: Sequence[str]) -> dict[int, Effort]:
    match words:
        case [rank, state, *numbers] if (
            len(state) == 1 and len(numbers) == 3 and all(map(_COUNT.fullmatch, [rank, *numbers]))
        ):
            ticks, read, written = map(int, numbers)
            return {int(rank): Effort(state, ticks / TICKS_PER_SECOND, read, written)}
        case _:
            return {}


def _number(words: Sequence[str]) -> int | None:
    return int(words[0]) if words and re.fullmatch(r"-?[0-9]{1,10}", words[0]) else None


def _seconds(word: str) -> float | None:
    try:
        seconds = float(word)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) else None
