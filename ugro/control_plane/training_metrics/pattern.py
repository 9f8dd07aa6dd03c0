"""A job's own pattern at work: named groups are series, `step` and `epoch` are the progress. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterable

from ugro.common.metric_pattern import LINE, LINE_SECONDS, compiled
from ugro.common.models.metrics import Reading, SeriesSource
from ugro.control_plane.training_metrics.pairs import Pair, number_in, pairs_in, series_name
from ugro.control_plane.training_metrics.steps import Progress

SLOW_LINES = 3
"""Lines that take too long after which a pattern is switched off."""


class Pattern:
    """A pattern, and whether it is still used: one that is too slow on real lines is switched off."""

    def __init__(self, text: str) -> None:
        """Compile the pattern.

        Raises:
            ValueError: as `metric_pattern.compiled` does.
        """
        self.text = text
        self.switched_off = False
        """Whether the pattern was too slow; a log is then read by the built-in formats alone."""
        self._search = compiled(text).search
        self._slow = 0

    def read(self, line: str) -> tuple[list[Pair], Progress] | None:
        """Return the values in a line, and how far it says the run is; None: it does not match."""
        if self.switched_off:
            return None
        begin = time.thread_time()
        match = self._search(line[:LINE])
        taken = time.thread_time() - begin
        self._slow += taken > LINE_SECONDS
        self.switched_off = self._slow >= SLOW_LINES
        if match is None:
            return None
        pairs: list[Pair] = []
        whole: dict[str, int | None] = {"step": None, "epoch": None}
        for name, text in match.groupdict().items():
            pair = _value(series_name(name), text or "")
            if pair is None:
                continue
            if name not in whole:
                pairs.append(pair)
            elif pair.value.is_integer():
                whole[name] = int(pair.value)
        return pairs, Progress(whole["step"], epoch=whole["epoch"])


def try_pattern(pattern: str, lines: Iterable[str]) -> list[tuple[int, list[Reading]]]:
    """Return what a pattern reads, by the number of the line, from 1; lines that do not match are left out.

    Raises:
        ValueError: as `metric_pattern.compiled` does.
    """
    own, found = Pattern(pattern), []
    for number, line in enumerate(lines, 1):
        if read := own.read(line.rstrip("\r\n")):
            pairs, progress = read
            readings = [
                Reading(pair.name, pair.value, progress.step, 0.0, SeriesSource.LOG, pair.unit) for pair in pairs
            ]
            found.append((number, readings))
    return found


def _value(name: str, text: str) -> Pair | None:
    """Return a group's value: a number in any notation, with its unit."""
    value = number_in(text)
    if value is not None:
        return Pair(name, value)
    found = pairs_in(f"x={text}")
    return Pair(name, found[0].value, found[0].unit) if found else None
