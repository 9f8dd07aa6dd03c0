"""What a person is told while a job is brought to its nodes, and once it is queued or runs."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ugro.cli.app import App
from ugro.cli.output import console, print_commands, print_hanging, title
from ugro.common.errors import RecordUnreadable
from ugro.common.models.job import Job, JobState
from ugro.common.text import count, duration, printable, rough, size, some
from ugro.control_plane.metadata_store.records import pass_over
from ugro.control_plane.resource_manager.governor import held_gpus
from ugro.control_plane.resource_manager.observation import last_look
from ugro.control_plane.scheduler.backfill import Queue
from ugro.control_plane.scheduler.forecast import Forecast, forecast
from ugro.control_plane.scheduler.queue import read_offers, read_queue

if TYPE_CHECKING:
    from rich.progress import Progress

    from ugro.control_plane.controller.tick import Controller
    from ugro.nodes.code_sync import Bulk, Selection

SOON = 30.0
"""Seconds within which a start is told as what it waits for, and not as a time."""

SLOW_SEND_SECONDS = 1.0
FREE_WITHIN, FREE_EVERY = 15.0, 0.5
"""Seconds that GPUs may take to come free before a job goes on, and between two looks at them."""


def tell_what_stays(selection: Selection) -> None:
    """Say, beside the output, what of the working directory is not sent though nobody said so, or not as it seems."""
    refused = [f"{printable(path)} ({reason})" for path, reason in selection.refused.items()]
    left_out = [f"{printable(path)} ({_bulk_in_words(bulk)})" for path, bulk in selection.left_out.items()]
    if refused:
        click.echo(f"not sent: {some(refused)}", err=True)
    if left_out:
        hint = "a line !NAME in .ugroignore sends it"
        click.echo(f"left out by the built-in list: {some(left_out)}; {hint}", err=True)
    if selection.pointers:
        names = some([printable(path) for path in selection.pointers])
        click.echo(f"sent without their content, as pointers of git-lfs: {names}; `git lfs pull` brings it", err=True)


def _bulk_in_words(bulk: Bulk) -> str:
    return f"{'more than ' if bulk.more else ''}{count(bulk.files, 'file')}, {size(bulk.bytes / 2**20)}"


def announce(app: App, job: Job, following: bool = False) -> None:
    """Say what became of a job that was just submitted, and the commands that are useful next."""
    if expected := expected_start(app, job):
        print_hanging("", f"Job {job.state.value} (ID: {job.id}){_expectation(expected)}")
        if not (expected.never or following) and (told := app.unattended([job])):
            print_hanging("  ", told)
        undo = f"ugro release {job.id}" if job.state == JobState.HELD else f"ugro hold {job.id}"
        print_commands(f"ugro why {job.id}", f"ugro logs -f {job.id}", undo, f"ugro cancel {job.id}")
        return
    where = f" on {', '.join(job.nodes)}" if job.nodes else ""
    reason = f": {printable(job.reason)}" if job.reason else ""
    print_hanging("", f"{title(job)} {job.state.value}{where}{reason}")
    if not job.state.ended:
        print_commands(f"ugro logs -f {job.id}", f"ugro status {job.id}", f"ugro cancel {job.id}")
        if not following and (told := app.unattended([job])):
            print_hanging("  ", told)


def expected_start(app: App, job: Job) -> Forecast | None:
    """When a waiting job will start, from what the nodes said at the tick just before."""
    if job.state not in (JobState.QUEUED, JobState.HELD):
        return None
    return forecast(queue_as_seen(app), job.id)


def queue_as_seen(app: App) -> Queue:
    """The queue, from what the nodes said at the last tick."""
    now, unreadable = time.time(), list[RecordUnreadable]()
    live = app.store.jobs.live(unreadable.append)
    return read_queue(app.store, app.cluster, live, last_look(app.store, app.cluster, now), now, unreadable)


def _expectation(expected: Forecast) -> str:
    if expected.at is None:
        return f": {printable(expected.text)}"
    seconds = expected.at - time.time()
    return f". Starting in ~{rough(seconds)}: {expected.text}" if seconds > SOON else f": {expected.text}"


async def gpus_come_free(app: App, controller: Controller, before: Job, nodes: Sequence[str]) -> None:
    """Give the drivers of these nodes a moment for what the attempt before held. Bounded, and told.

    What is held for longer keeps the job in the queue, with that as its reason.
    """
    end, told = time.monotonic() + FREE_WITHIN, False
    while True:
        views = (await controller.observe([], nodes)).views
        held = held_gpus(before, read_offers(app.store, app.cluster, app.store.jobs.live(pass_over), views))
        if not held or time.monotonic() > end:
            break
        if not told:
            click.echo(f"waiting up to {duration(FREE_WITHIN)} for GPUs: {printable(some(held, '; '))}", err=True)
        told = True
        await asyncio.sleep(FREE_EVERY)
    if held:
        click.echo("they are not free: the job waits for them in the queue", err=True)


class CodeProgress:
    """A progress bar per node for what takes more than a second to send or to bring, on a terminal."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._tasks: dict[str, Any] = {}
        self._began = time.monotonic()

    def __enter__(self) -> CodeProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress:
            self._progress.stop()

    def update(self, node: str, sent: int, total: int) -> None:
        if not self._progress:
            if not sys.stderr.isatty() or time.monotonic() - self._began < SLOW_SEND_SECONDS:
                return
            self._progress = _bars()
            self._progress.start()
        if node not in self._tasks:
            self._tasks[node] = self._progress.add_task(f"files of {node}", total=total)
        self._progress.update(self._tasks[node], completed=sent, total=total)


def _bars() -> Progress:
    # Here, since most launches send their few files at once.
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, console=console(stderr=True), transient=True)
