"""`/metrics`: what Prometheus scrapes. It is made once a tick, and only while it is scraped."""

from __future__ import annotations

import asyncio
import contextlib
import time

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import Response

from ugro.api_server.state import Web
from ugro.common.errors import UgroError
from ugro.service.board import AT_MOST_EVERY
from ugro.service.exposition import text

PATH = "/metrics"

KEEP_SECONDS = 180.0
"""Seconds after a scrape in which the next one finds its answer made: scrapes come every minute or two at most."""


class Prometheus:
    """The answer to a scrape, kept up to date while there are any."""

    def __init__(self, web: Web) -> None:
        self._web, self._pulse = web, web.serving.pulse
        self.router = APIRouter(include_in_schema=False)
        self.router.add_api_route(PATH, self._metrics, methods=["GET", "HEAD"])
        self._text = b""
        self._asked = 0.0
        self._first = asyncio.Lock()
        self._keeping: asyncio.Task[None] | None = None

    async def _metrics(self) -> Response:
        self._asked = time.monotonic()
        async with self._first:
            if self._keeping is None or self._keeping.done():
                beat = self._pulse.beat
                self._text = await self._make()
                self._keeping = asyncio.create_task(self._keep(beat))
        return Response(self._text, media_type=CONTENT_TYPE_PLAIN_0_0_4)

    async def _make(self) -> bytes:
        snapshot = await self._web.serving.snapshot(sum(self._web.sockets.values()))
        return await asyncio.to_thread(text, snapshot)

    async def _keep(self, beat: int) -> None:
        """Rebuild it with each beat, until requests end or it cannot be made; the next request then makes it."""
        with contextlib.suppress(UgroError):
            while time.monotonic() - self._asked < KEEP_SECONDS:
                await self._pulse.beats(beat)
                beat = self._pulse.beat
                self._text = await self._make()
                await asyncio.sleep(AT_MOST_EVERY)
