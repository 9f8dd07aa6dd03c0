"""How late the event loop is: what all that runs in it, such as the web, costs a tick."""

from __future__ import annotations

import asyncio
import math
from collections import deque

EVERY, KEPT = 0.1, 600
"""Seconds between two samples, and samples that are kept: those of the last minute."""


class LoopLag:
    """Seconds by which a timer of the event loop came too late, sampled while `watch` runs."""

    def __init__(self) -> None:
        self._late: deque[float] = deque(maxlen=KEPT)

    async def watch(self) -> None:
        """Sample until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + EVERY
            await asyncio.sleep(EVERY)
            self._late.append(max(0.0, loop.time() - due))

    def quantile(self, share: float) -> float | None:
        """Return the lateness that this share of the last minute's samples stayed below; None: there is none so far."""
        ordered = sorted(self._late)
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None
