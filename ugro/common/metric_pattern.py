"""A job's own pattern for its metrics: one regular expression with named groups, and how it is kept harmless.

The controller runs it over every line of a log, and nothing interrupts Python's `re` while it backtracks. So a pattern
whose time could grow exponentially is refused by its shape, and one that is slow on lines made to be hard is refused
after a trial in a process of its own.
"""

from __future__ import annotations

import json
import re
import re._constants as codes  # type: ignore[import-not-found]
import re._parser as parser  # type: ignore[import-not-found]
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

LENGTH = 1000
"""Characters of a pattern."""

LINE = 2000
"""Characters of a line that it is tried on."""

LINE_SECONDS = 0.05
"""CPU time on one line after which a pattern is too slow. A common one takes some microseconds."""

TRIAL_SECONDS = 2
"""CPU time of the trial."""

_REPEATS = (codes.MAX_REPEAT, codes.MIN_REPEAT)
_MANY = 16
"""Repetitions that count as any number."""

_TRIAL = """\
import json, re, resource, signal, sys, time
seconds, of_a_line = int(sys.argv[1]), float(sys.argv[2])
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
pattern, lines = json.load(sys.stdin)
search, worst = re.compile(pattern).search, 0.0
signal.signal(signal.SIGPROF, signal.SIG_DFL)
for line in lines:
    signal.setitimer(signal.ITIMER_PROF, 2 * of_a_line)  # a search that takes longer ends here
    begin = time.process_time()
    search(line)
    worst = max(worst, time.process_time() - begin)
print(worst)
"""


def compiled(text: str) -> re.Pattern[str]:
    """Return a job's pattern, ready to be used.

    Raises:
        ValueError: it does not compile, names no group, or can take exponential time; the text says so.
    """
    if len(text) > LENGTH:
        raise ValueError(f"at most {LENGTH} characters are expected")
    try:
        pattern = re.compile(text)
        parts = parser.parse(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"it is no regular expression: {error}") from None
    if not any(group not in ("step", "epoch") for group in pattern.groupindex):
        raise ValueError(r"a named group for each value is expected, as in step (?P<step>\d+).*loss (?P<loss>\S+)")
    if _explodes(parts):
        raise ValueError("it repeats what itself repeats, as (a+)+ does: its time can grow exponentially")
    return pattern


@lru_cache(64)  # a launch asks for it several times; what is refused is tried again
def try_out(text: str) -> None:
    """Run a pattern over hard lines in a process of its own.

    Raises:
        ValueError: as `compiled` does, or it is too slow.
    """
    import subprocess  # here, since few jobs have a pattern

    compiled(text)
    trial = [sys.executable, "-I", "-S", "-c", _TRIAL, str(TRIAL_SECONDS), str(LINE_SECONDS)]
    done = subprocess.run(trial, input=json.dumps([text, _hard_lines(text)]), capture_output=True, text=True)
    if done.returncode != 0 or float(done.stdout) > LINE_SECONDS:
        raise ValueError(f"it is too slow: more than {LINE_SECONDS * 1000:.0f} ms for one line of {LINE} characters")


def _explodes(parts: Any, repeated: bool = False) -> bool:
    """Return whether a part that is repeated any number of times has a choice inside, or refers back to a group."""
    for code, argument in parts:
        if code in _REPEATS:
            low, high, inner = argument
            varies = high != low and high > _MANY
            if (repeated and high != low) or _explodes(inner, repeated or varies):
                return True
            continue
        choice = code in (codes.GROUPREF, codes.GROUPREF_EXISTS) or (code is codes.BRANCH and repeated)
        if choice or any(_explodes(inner, repeated) for inner in _inside(argument)):
            return True
    return False


def _inside(argument: Any) -> Iterator[Any]:
    """Yield the parts that a node of a parsed pattern holds."""
    if isinstance(argument, parser.SubPattern):
        yield argument
    elif isinstance(argument, (tuple, list)):
        for one in argument:
            yield from _inside(one)


def _hard_lines(text: str) -> list[str]:
    """Return lines that almost match in many ways: what the pattern names, again and again, and single characters."""
    words = ["".join(run) for run in _literals(parser.parse(text))]
    units = [*dict.fromkeys([*"1a ._=,:-", *"".join(words)])][:40]
    units += [f"{one}{other}" for one in ("1", "a") for other in " .,_="]
    units += [*words, "".join(words), "1 ".join([*words, ""]), *(f"{word}1" for word in words)]
    lines = [(unit * (LINE // len(unit) + 1))[:LINE] for unit in dict.fromkeys(units) if unit]
    head = "1".join(words[:-1])
    return [*lines, *(f"{head}{line}"[: LINE - 1] + "\t" for line in lines)][:200]


def _literals(parts: Any) -> Iterator[list[str]]:
    """Yield the runs of plain characters in a parsed pattern."""
    run: list[str] = []
    for code, argument in parts:
        if code is codes.LITERAL:
            run.append(chr(argument))
            continue
        if run:
            yield run
            run = []
        for inner in _inside(argument):
            yield from _literals(inner)
    if run:
        yield run
