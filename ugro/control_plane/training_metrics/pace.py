"""The pace of a run's steps, and its expected end, by the times at which steps arrive. Pure.

A checkpoint or an evaluation stops the steps for a while. Such a pause is no part of the pace.
"""

from __future__ import annotations

import statistics
from collections import deque

from ugro.common.models.metrics import RunProgress

BETWEEN_SECONDS = 1.0
"""Least time between two steps that are compared: lines arrive in pieces, all at one moment."""

PAUSE = 5.0
"""Times the usual duration of a step after which an interval holds a pause."""

KNOWN = 4
"""Intervals after which it is known what is usual."""

NEW_RHYTHM = 3
"""Number of intervals in a row, each long as a pause, that are a new pace."""


class Pace:
    """The pace of a run's latest steps."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._step = 0
        self._recent: deque[tuple[float, int]] = deque(maxlen=32)
        self._slow: list[tuple[float, int]] = []

    def add(self, step: int, at: float) -> float | None:
        """Note that a step was reached; return the pace of the interval that ends with it, in steps/s.

        None: no interval ends, or it holds a pause.
        """
        if self._at is None or step < self._step or at < self._at:
            self._at, self._step = at, step
            return None
        seconds, steps = at - self._at, step - self._step
        if seconds < BETWEEN_SECONDS or steps == 0:
            return None
        self._at, self._step = at, step
        if self._is_pause(seconds / steps):
            self._slow.append((seconds, steps))
            if len(self._slow) < NEW_RHYTHM:
                return None
            self._recent.clear()
            self._recent.extend(self._slow)
        else:
            self._recent.append((seconds, steps))
        self._slow.clear()
        return steps / seconds

    @property
    def rate(self) -> float | None:
        """Return the pace in steps/s; None: it is not known."""
        seconds = sum(one for one, _ in self._recent)
        return sum(steps for _, steps in self._recent) / seconds if seconds else None

    def _is_pause(self, seconds_per_step: float) -> bool:
        if len(self._recent) < KNOWN:
            return False
        usual = statistics.median(seconds / steps for seconds, steps in self._recent)
        return seconds_per_step > PAUSE * usual


def seconds_left(progress: RunProgress, now: float) -> float | None:
    """Return in how many seconds a run will have made its steps; None: it is not known."""
    if progress.step is None or not progress.steps or not progress.rate or progress.step > progress.steps:
        return None
    left = (progress.steps - progress.step) / progress.rate
    return max(0.0, left - max(0.0, now - progress.at))
