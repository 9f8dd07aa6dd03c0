"""A clock that stands still until a test moves it."""

from __future__ import annotations


class FakeClock:
    """A `Clock` at `now` seconds since the epoch."""

    def __init__(self, now: float) -> None:
        self._now = now
        self._monotonic = 0.0

    def now(self) -> float:
        """Return the seconds since the epoch that were set."""
        return self._now

    def monotonic(self) -> float:
        """Return the seconds by which the clock was moved on."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Set the system's clock forward or back, as NTP may: no time passes."""
        self._now += seconds
