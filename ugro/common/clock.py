"""The time that decisions are made by: one clock for a state directory, passed in, so that a test can set it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What tells the time. `MetadataStore.clock` is that of everything which acts for a state directory."""

    def now(self) -> float:
        """Return the seconds since the epoch; they may jump when the system's clock is set."""

    def monotonic(self) -> float:
        """Return seconds since an unknown moment, which never jump: for patience and pauses."""


class SystemClock:
    """The clock of this machine."""

    def now(self) -> float:
        """Return the seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds since an unknown moment."""
        return time.monotonic()


SYSTEM_CLOCK = SystemClock()
