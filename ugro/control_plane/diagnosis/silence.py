"""Find from the times in a log that a run fell silent: progress stopped, and only its watchers continued to write."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from ugro.control_plane.diagnosis.course import LOADING, PROGRESS
from ugro.control_plane.diagnosis.lines import QUOTED, read

LONGEST_PAUSE = 600
"""Seconds without progress that do not count as silence: a checkpoint or an evaluation may take so long."""

LONGEST_UNDATED = 3600
"""The same in a log whose lines of progress have no times, so that it is not known how often they come."""

USUAL = 5
"""Times the usual time between two lines of progress that are no silence yet."""

AT_ONCE = 60
"""Seconds after the last progress in which any line may still belong to it."""

DAY = 86_400

_COLOUR = re.compile(rb"\x1b\[[\d;]*m")
# Times of one format are compared with each other alone: those of another may be of another time zone.
_TIMES = (
    re.compile(rb"(?<!\d)(\d{4})[-/](\d\d)[-/](\d\d)[ _](\d\d):(\d\d):(\d\d)"),
    re.compile(rb"(?<!\d)(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)"),
    re.compile(rb"^\W{0,2}[IWEF]()(\d\d)(\d\d) (\d\d):(\d\d):(\d\d)"),
    re.compile(rb"^\W{0,2}()(\d\d)[-/](\d\d) (\d\d):(\d\d):(\d\d)"),
    re.compile(rb"^\W{0,2}()()()(\d\d):(\d\d):(\d\d)\b"),
)
# Words of what watches a run, or waits for it. Whatever else it writes is a sign of life.
_WATCHES = re.compile(
    rb"(?i)heart-?beat|watch-?dog|\bwatch(?:ing|er)?\b|\bmonitor|still (?:running|waiting|alive|here)|waiting for|"
    rb"\balive\b|\bidle\b|utili[sz]ation|\bgpu[_ ]util|keep-?alive|no (?:progress|output|new)|\bpolling\b|\bping\b|"
    rb"health-?check|\bpulse\b|is (?:running|waiting) (?:for|since|to)\b|(?:elapsed|uptime)[ :=]"
)
_LOSS = re.compile(rb"(?i)\bloss\b")
"""A value that no watcher prints, whatever else stands in the line (`elapsed time per iteration`)."""


@dataclass(slots=True)
class Shape:
    """Lines of one shape: whether it is one of the first of the log, the first and the latest of them, their number.

    `at` is the number of the latest line. Of what watches a run, `since` is the first line after the latest progress.
    Most shapes are seen once: what kind they are is only asked of those that come again.
    """

    banner: bool
    last: bytes
    at: int
    first: bytes = b""
    since: bytes = b""
    since_at: int = 0
    count: int = 1
    step: bool = False
    watch: bool = False

    def __post_init__(self) -> None:
        self.first = self.since = self.last
        self.since_at = self.at

    def classify(self) -> None:
        """Note whether such lines show progress, or come from what watches the run."""
        self.step = _is_progress(self.first)
        self.watch = not self.step and _WATCHES.search(self.first) is not None


@dataclass(frozen=True)
class LogSilence:
    """Seconds of a log after the last progress, with that line and the last one that followed."""

    seconds: float
    progress: str
    last: str


def silence(shapes: Iterable[Shape], end: bytes) -> LogSilence | None:
    """Return the silence in which a log ended; None: it did not.

    `end` is the line that names what ended the run, if there is one.
    """
    known = list(shapes)
    for shape in known:
        if shape.count == 1:
            shape.classify()
    steps = [shape for shape in known if shape.step]
    for pattern in _TIMES:
        dated = [(at, shape) for shape in steps if (at := _time(pattern, shape.last)) is not None]
        if dated:
            at, step = max(dated, key=lambda pair: pair[0])
            return _silence(pattern, at, step, known, end)
    return _watched(known, steps) if len(steps) > 1 else None


def _watched(known: Iterable[Shape], steps: Iterable[Shape]) -> LogSilence | None:
    """Return the silence of a run whose progress has no times, by the times of what still watched it."""
    step = max(steps, key=lambda shape: shape.at)
    watches = [shape for shape in known if shape.watch and shape.since_at > step.at]
    began = min((shape.since_at for shape in watches), default=0)
    if not watches or any(shape.at > began for shape in known if not shape.watch):
        return None
    for pattern in _TIMES:
        starts = [time for shape in watches if (time := _time(pattern, shape.since)) is not None]
        ends = {time: shape.last for shape in watches if (time := _time(pattern, shape.last)) is not None}
        if starts and (seconds := max(ends) - min(starts)) >= LONGEST_UNDATED:
            return LogSilence(seconds, read(step.last).text[:QUOTED], read(ends[max(ends)]).text[:QUOTED])
    return None


def _silence(
    pattern: re.Pattern[bytes], at: float, step: Shape, known: Iterable[Shape], end: bytes
) -> LogSilence | None:
    later = {line: gap for line in (shape.last for shape in known) if (gap := _gap(pattern, at, line)) > 0}
    alive = any(gap > AT_ONCE and not _WATCHES.search(line) for line, gap in later.items())
    if step.count < 2 or alive:
        return None
    usual = -_gap(pattern, at, step.first) / (step.count - 1)
    last = max((*later, end), key=lambda line: _gap(pattern, at, line))
    seconds = _gap(pattern, at, last)
    silent = seconds >= max(LONGEST_PAUSE, USUAL * usual)
    return LogSilence(seconds, read(step.last).text[:QUOTED], read(last).text[:QUOTED]) if silent else None


def _is_progress(line: bytes) -> bool:
    trains = PROGRESS.search(line) is not None and not LOADING.search(line)
    return trains and (_WATCHES.search(line) is None or _LOSS.search(line) is not None)


def _gap(pattern: re.Pattern[bytes], start: float, line: bytes) -> float:
    """Seconds from a time to that of a line; 0 where the line has none."""
    time = _time(pattern, line)
    gap = 0.0 if time is None else time - start
    if pattern is _TIMES[-1] and abs(gap) > DAY / 2:  # the clock went past midnight
        gap -= DAY if gap > 0 else -DAY
    return gap


def _time(pattern: re.Pattern[bytes], line: bytes) -> float | None:
    match = pattern.search(_COLOUR.sub(b"", line[:200]))
    if match is None:
        return None
    parts = [int(part or default) for part, default in zip(match.groups(), _EARLIEST, strict=True)]
    try:
        return (datetime(*parts) - datetime(*_EARLIEST)).total_seconds()  # type: ignore[arg-type]
    except ValueError:
        return None


_EARLIEST = (2000, 1, 1, 0, 0, 0)
