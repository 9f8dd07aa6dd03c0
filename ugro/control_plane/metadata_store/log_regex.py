"""Searches a log for a regular expression in a process of its own, which is killed when its time is up.

A regular expression may take forever over one line (`(a+)+b`), and holds up every thread of its process meanwhile. Run
as a program this file prints one JSON line for what it finds and how far it is. Only the standard library is used.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

SLAB = 256 * 1024
"""Bytes that are searched between two reports of how far the search is."""

LONGEST = 1024 * 1024
"""Bytes of a line that are searched together."""

CPU_SECONDS, MEMORY = 20, 1024**3
"""Limits of the process, should nothing be left to kill it, or the expression be huge."""


class Matches(NamedTuple):
    """Matching lines: offset and length in bytes of each first match. `next`: where to continue; None: all done."""

    places: tuple[tuple[int, int], ...]
    next: int | None
    error: str = ""
    """The error in the expression."""


def matches(log: Path, pattern: str, start: int, limit: int, within: float) -> Matches:
    """Search a log from an offset on, for at most `limit` lines and so many seconds."""
    program = [sys.executable, "-I", "-S", __file__, str(log), str(start), str(limit), pattern]
    try:
        output: bytes = subprocess.run(program, capture_output=True, timeout=within).stdout
    except subprocess.TimeoutExpired as late:
        output = late.stdout or b""
    places, reached, error = list[tuple[int, int]](), start, ""
    for line in output[: output.rfind(b"\n") + 1].splitlines():
        match json.loads(line):
            case {"place": [offset, length], "end": end}:
                places.append((offset, length))
                reached = end
            case {"at": offset}:
                reached = offset
            case {"error": words}:
                error = words
            case {"done": True}:
                return Matches(tuple(places), None)
    return Matches(tuple(places), reached, error)


def main(log: str, start: str, limit: str, pattern: str) -> None:
    """Print what is found."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        search = re.compile(pattern).search
    except (re.error, RecursionError, OverflowError, MemoryError) as error:
        _say(error=str(error) or type(error).__name__)
        return
    at, room, rest = int(start), int(limit), b""
    with open(log, "rb") as file:
        file.seek(at)
        while (read := file.read(SLAB)) or rest:
            *lines, rest = (rest + read).split(b"\n")
            if open_end := rest and (not read or len(rest) >= LONGEST):
                lines, rest = [*lines, rest], b""
            ends = list(accumulate((len(line) + 1 for line in lines), initial=at))
            if open_end:
                ends[-1] -= 1
            for number, text in enumerate(b"\n".join(lines).decode("utf-8", "surrogateescape").split("\n")):
                if lines and (found := search(text)):
                    place = [ends[number] + _bytes_of(text[: found.start()]), _bytes_of(found[0])]
                    _say(place=place, end=ends[number + 1])
                    if (room := room - 1) == 0:
                        return
            at = ends[-1]
            _say(at=at)
    _say(done=True)


def _bytes_of(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))


def _say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
