"""Counters of this process since it began: for users and their monitoring, never for a decision."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable
from itertools import accumulate
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the buckets of `Durations`; one more has what took longer."""


class Tally(Generic[K]):
    """Counts by key, from any thread."""

    def __init__(self) -> None:
        self._counted: Counter[K] = Counter()
        self._lock = threading.Lock()

    def add(self, key: K, by: int = 1) -> None:
        """Count something."""
        with self._lock:
            self._counted[key] += by

    def all(self) -> dict[K, int]:
        """Return what was counted so far."""
        with self._lock:
            return dict(self._counted)


class Durations:
    """Durations by length."""

    def __init__(self) -> None:
        self._counts = [0] * (len(SECONDS) + 1)
        self.sum = 0.0
        """All of them together, in seconds."""

    def add(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(SECONDS, seconds)] += 1
        self.sum += seconds

    def up_to(self) -> list[int]:
        """Return how many were at most as long as each of `SECONDS`, and at last the number of all."""
        return list(accumulate(self._counts))


class Counts:
    """The counts of a process."""

    def __init__(self) -> None:
        self.ticks = Durations()
        """Durations of the resident controller's ticks."""
        self.node_errors: Tally[tuple[str, str]] = Tally()
        """Looks of ticks at nodes that failed, by node and code of the error."""
        self.ended: Tally[tuple[str, str]] = Tally()
        """Attempts that ended, by state and cause of failure (empty: none)."""
        self.alerts: Tally[str] = Tally()
        """Alerts that a channel took, by kind."""
