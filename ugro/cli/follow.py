"""Following a job: its logs as they come, a line about how it stands, and a tick now and then when nobody else acts.

Closing this view changes nothing about the job; `ugro logs -f` picks it up again.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from ugro.cli.announce import queue_as_seen
from ugro.cli.app import App
from ugro.cli.live import News, NoLive, NowAndThen, Stops, View, prefix
from ugro.common.models.job import Job, JobState
from ugro.common.text import printable
from ugro.control_plane.controller.tick import Controller
from ugro.control_plane.failure_handler.handler import in_words
from ugro.control_plane.metadata_store.job_logs import JobLogs
from ugro.control_plane.scheduler.scheduling import reasons
from ugro.nodes.remote.logs.log_streamer import NO_RANK, Line, LogReader

POLL_SECONDS = 0.5
TICK_SECONDS = 2.0
SYNC_WITHIN = 10.0


def print_lines(out: Console, lines: Iterable[Line], nodes: tuple[str, ...]) -> None:
    """Lines of a log with their coloured prefixes; what they say is never taken for markup."""
    for line in lines:
        (who, style), text = prefix(line, nodes), printable(line.text)
        if out.is_terminal:
            out.print(Text(who, style), Text(text), soft_wrap=True)
        else:  # rich takes its time over each line, and a pipe has no use for it
            out.file.write(f"{who} {text}\n")
    out.file.flush()


def print_torchrun_where_ranks_are_silent(out: Console, job: Job, reader: LogReader) -> None:
    """A job that failed before its ranks began has only torchrun's own words to tell why."""
    failure = job.first_failure
    if failure and failure.rank is None and not reader.torchrun:
        print_lines(out, LogReader(reader.folder, NO_RANK, torchrun=True).lines(final=True), job.nodes)


async def print_rounds(
    app: App, out: Console, logs: JobLogs, reader: LogReader, nodes: tuple[str, ...], until: float = math.inf
) -> bool:
    """Print what there is now of a job's logs as it comes, until a monotonic time. Returns whether that was all."""
    with app.store.optional():  # on a full disk the copies that are there have to do
        async for _ in logs.rounds(SYNC_WITHIN):
            print_lines(out, reader.lines(), nodes)
            if time.monotonic() > until:
                return False
    return True


async def follow(
    app: App, controller: Controller, job: Job, reader: LogReader, out: Console, window: JobLogs | None = None
) -> Job:
    """Print a job's log lines until it has ended; returns its last record.

    `window` is what the reader reads, where that is not the copies of the job's logs.
    """
    ticked, waits, waiting, troubled = 0.0, "", News(), News()
    view, now_and_then, stops = View(job, out.width), NowAndThen(), Stops(out.is_terminal)
    with Live(view, console=out, refresh_per_second=4, transient=True) if out.is_terminal else NoLive() as live:
        while True:
            if time.monotonic() - ticked >= TICK_SECONDS and not job.state.ended:
                await app.tick_if_free(controller)
                ticked = time.monotonic()
                if waiting.is_new(waits := _why_it_waits(app, job.id)) and not out.is_terminal:
                    click.echo(f"{job.id} waits: {printable(waits)}", err=True)
                if troubled.is_new(trouble := _trouble(app, job.id)):
                    live.console.print(Text(trouble, "yellow"), soft_wrap=True)
            job = app.store.jobs.job(job.id)
            stops.tell(job)
            logs = window.again() if window else controller.logs_of(job)
            until = math.inf if job.state.ended else ticked + TICK_SECONDS
            all_there = await print_rounds(app, out, logs, reader, job.nodes, until)
            if job.state.ended:
                print_lines(out, reader.lines(final=True), job.nodes)
                print_torchrun_where_ranks_are_silent(out, job, reader)
                return job
            begun = reader.unfinished()
            view.show(app, job, list(logs.silent), job.reason or waits, begun)
            if not out.is_terminal and (line := now_and_then.due(begun, time.monotonic())):
                print_lines(out, [line], job.nodes)
            await asyncio.sleep(POLL_SECONDS if all_there else 0.0)


async def wait(app: App, controller: Controller, job: Job, tell: Callable[[Job], None]) -> Job:
    """Tick until a job has ended; returns its last record. `tell` hears of the job as it is meanwhile."""
    while not job.state.ended:
        await app.tick_if_free(controller)
        tell(app.store.jobs.job(job.id))
        await controller.join(job.id, TICK_SECONDS)
        tell(job := app.store.jobs.job(job.id))
        if not job.state.ended:
            await asyncio.sleep(TICK_SECONDS)
    if job.id in app.store.decisions.undecided():  # so that whoever waited finds what is proposed
        await app.tick(controller, job.id)
    return app.store.jobs.job(job.id)


def _why_it_waits(app: App, job_id: str) -> str:
    """In short, as things were at the last tick; nothing for a job that does not wait."""
    job = app.store.jobs.job(job_id)
    if job.state == JobState.RUNNING:
        return "" if job.stopping else job.reason  # once its ranks have ended, that names what they left running
    waiting = job.state in (JobState.QUEUED, JobState.HELD) and not job.wish
    return reasons(queue_as_seen(app))[job_id] if waiting else ""


def _trouble(app: App, job_id: str) -> str:
    """What is wrong with a job that has not ended, and what is proposed about it; nothing while it is well."""
    job, proposal = app.store.jobs.job(job_id), app.store.decisions.proposals().get(job_id)
    told = (
        job.alert
        or (proposal and proposal.ends)
        or (job.state == JobState.RUNNING and job.reason and not job.first_failure)
    )
    if job.state.ended or not told:
        return ""
    proposed = ""
    if proposal and not proposal.approved:
        proposed = f"; proposed: {in_words(proposal)}: ugro approve {job_id}, or ugro deny {job_id}"
    return printable(f"{job_id} {job.alert or job.reason}{proposed}")
