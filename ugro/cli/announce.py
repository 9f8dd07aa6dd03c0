"""What a person is told while a job is brought to its nodes, and once it is queued or runs."""

from __future__ import annotations

import time
from typing import Any

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from ugro.cli.app import UNATTENDED, App
from ugro.cli.output import console, title
from ugro.common.models import Job, JobState
from ugro.common.text import printable, rough
from ugro.control_plane.forecast import Forecast, forecast
from ugro.control_plane.queue import read_queue

SLOW_SEND_SECONDS = 1.0


def announce(app: App, job: Job, following: bool = False) -> None:
    """Say what became of a job that was just submitted, and the commands that are useful next."""
    if expected := expected_start(app, job):
        click.echo(f"Job {job.state.value} (ID: {job.id}). {_expectation(expected)}")
        if job.state == JobState.QUEUED and not (expected.never or following or app.attended()):
            click.echo(f"  {UNATTENDED}")
        undo = f"ugro release {job.id}" if job.state == JobState.HELD else f"ugro hold {job.id}"
        click.echo(f"  ugro why {job.id}   ugro logs -f {job.id}   {undo}   ugro cancel {job.id}")
        return
    where = f" on {', '.join(job.nodes)}" if job.nodes else ""
    reason = f": {printable(job.reason)}" if job.reason else ""
    click.echo(f"{title(job)} {job.state.value}{where}{reason}")
    if not job.state.ended:
        click.echo(f"  ugro logs -f {job.id}   ugro status {job.id}   ugro cancel {job.id}")


def expected_start(app: App, job: Job) -> Forecast | None:
    """When a waiting job will start, from what the nodes said at the tick just before."""
    if job.state not in (JobState.QUEUED, JobState.HELD):
        return None
    views = app.store.remembered_nodes()
    return forecast(read_queue(app.store, app.cluster, app.store.live(), views, time.time()), job.id)


def _expectation(expected: Forecast) -> str:
    if expected.at is None:
        return expected.text[:1].upper() + expected.text[1:]
    return f"Starting in ~{rough(expected.at - time.time())}: {expected.text}"


class CodeProgress:
    """A progress bar per node for what takes more than a second to send or to bring, on a terminal."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, console=console(stderr=True), transient=True)
        self._tasks: dict[str, Any] = {}
        self._began = time.monotonic()

    def __enter__(self) -> CodeProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._tasks:
            self._progress.stop()

    def update(self, node: str, sent: int, total: int) -> None:
        if not self._progress.console.is_terminal or time.monotonic() - self._began < SLOW_SEND_SECONDS:
            return
        self._progress.start()
        if node not in self._tasks:
            self._tasks[node] = self._progress.add_task(f"files of {node}", total=total)
        self._progress.update(self._tasks[node], completed=sent, total=total)
