"""Alerts beside the ticks, in the background of whatever a command does. Quick to import: most have nothing to send."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ugro.common.troubles import trouble_of
from ugro.control_plane.failure_handler.alerts import FILE
from ugro.control_plane.metadata_store import MetadataStore

if TYPE_CHECKING:
    from ugro.control_plane.failure_handler.alerts.sender import Sender


log = logging.getLogger(__name__)


class Courier:
    """Sends alerts in the background of a command, one round at a time. Nothing of it ever fails a command."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store
        self._sender: Sender | None = None
        self._round: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Begin a round unless one is under way; without alerts.yaml there is nothing to do."""
        if (self._round is None or self._round.done()) and (self._store.home / FILE).exists():
            self._round = asyncio.create_task(self._send_due())

    async def __aenter__(self) -> Courier:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Rest, except after an interrupt: the user does not wait, and unsent messages go out at the next round."""
        if kind is None or issubclass(kind, Exception):
            await self.rest()

    async def rest(self) -> None:
        """Wait for the round under way, and for one more about what happened since it began."""
        if self._round is not None:
            await asyncio.wait({self._round})  # which raises nothing of it
            self.begin()
            await asyncio.wait({self._round})

    async def _send_due(self) -> None:
        from ugro.control_plane.failure_handler.alerts.rounds import send_due
        from ugro.control_plane.failure_handler.alerts.sender import Sender

        self._sender = self._sender or Sender()
        try:
            await send_due(self._store, self._sender)
        except Exception as error:  # the next round finds the same to do
            log.info("no alerts are sent: %s", trouble_of("alerts", error).message)
