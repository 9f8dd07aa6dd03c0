"""`ugro top` through either backend: what it shows of a real job, and that its yes ends it."""

from __future__ import annotations

from typing import Any

from door import Door
from textual.pilot import Pilot

from ugro.cli.top.asking import Asking
from ugro.cli.top.screen import Top
from ugro.common.models.job_state import JobState
from ugro.service.backend import Backend
from ugro.service.context import Context
from ugro.service.local import Local
from ugro.service.resident_socket import ResidentSocket


class Ways:
    """Ways to the backend of a door, one for each thread."""

    def __init__(self, door: Door) -> None:
        self._inventory, self._home = door.context.inventory.path, door.store.home
        self._socket = door.backend._path if isinstance(door.backend, ResidentSocket) else None

    def beside(self) -> Backend:
        if self._socket:
            return ResidentSocket(self._socket, self._inventory)
        return Local(Context(str(self._inventory), self._home))


async def until(pilot: Pilot[None], met: Any) -> None:
    while not met():
        await pilot.pause(0.05)


async def test_shows_a_job_and_ends_it_after_a_yes(door: Door) -> None:
    job = door.submit("import time\nprint('begun', flush=True)\ntime.sleep(600)\n", name="long")
    ways: Any = Ways(door)
    app = Top(Asking(ways), every=0.5)

    def state() -> JobState | None:
        return app.view.jobs[job.id].state if app.view and job.id in app.view.jobs else None

    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: state() == JobState.RUNNING)
        await pilot.press("c", "y")
        await until(pilot, lambda: state() == JobState.CANCELLED)
        await pilot.press("ctrl+c")
    assert door.store.jobs.job(job.id).state == JobState.CANCELLED
