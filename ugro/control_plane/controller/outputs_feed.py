"""Ask for the outputs of jobs that succeeded: at once, then from time to time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Hashable
from typing import Any

from ugro.common.config import Inventory
from ugro.control_plane.metadata_store import MetadataStore
from ugro.nodes.pool import Pool

AGAIN_AFTER = 60.0
"""Seconds until outputs are asked for again that did not come."""

Begin = Callable[[Hashable, Hashable, Callable[[], Coroutine[Any, Any, None]]], None]


class OutputsFeed:
    """Has the outputs that are still to come brought, beside the ticks."""

    def __init__(self, store: MetadataStore, pool: Pool) -> None:
        self._store, self._pool = store, pool
        self._due: dict[str, float] = {}

    def begin_due(self, begin: Begin, inventory: Inventory) -> None:
        """Begin for each job for which it is time."""
        now = self._store.clock.monotonic()
        for job_id in self._store.outputs.owed():
            if self._due.get(job_id, 0.0) <= now:
                begin(("outputs", job_id), None, functools.partial(self._bring, job_id, inventory))

    async def _bring(self, job_id: str, inventory: Inventory) -> None:
        # Here, since few ticks have a use for it.
        from ugro.control_plane.metadata_store.output_store.bringing import bring_owed

        try:
            await bring_owed(self._store, inventory, self._pool, job_id)
        finally:
            self._due[job_id] = self._store.clock.monotonic() + AGAIN_AFTER
