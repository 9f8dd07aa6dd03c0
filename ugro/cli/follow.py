"""Following a job: its logs as they come, a line about how it stands, and a tick now and then when nobody else acts.

Closing this view changes nothing about the job; `ugro logs -f` picks it up again.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from ugro.cli.announce import queue_as_seen
from ugro.cli.app import App
from ugro.cli.output import RANK_COLOURS, STATE_STYLES, console
from ugro.common.models import Job, JobState, NodeView
from ugro.common.text import duration, printable, size
from ugro.control_plane.controller import Controller
from ugro.control_plane.failure_handler.handler import in_words
from ugro.control_plane.job_logs import JobLogs
from ugro.control_plane.scheduler import reasons
from ugro.nodes.log_streamer import NO_RANK, Line, LogReader

POLL_SECONDS = 0.5
TICK_SECONDS = 2.0
SYNC_WITHIN = 10.0


def prefix(line: Line, nodes: tuple[str, ...]) -> tuple[str, str]:
    """Who says a line, and the colour that goes with it: `[rank 0]`, or the node for torchrun's own words."""
    if line.rank is not None:
        return f"[rank {line.rank}]", RANK_COLOURS[line.rank % len(RANK_COLOURS)]
    name = nodes[line.node_rank] if line.node_rank is not None and line.node_rank < len(nodes) else "?"
    return f"[{name}]", "dim"


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
    ticked, waits, trouble = 0.0, "", ""
    with Live(console=out, refresh_per_second=4, transient=True) if out.is_terminal else _NoLive() as live:
        while True:
            if time.monotonic() - ticked >= TICK_SECONDS and not job.state.ended:
                await app.tick_if_free(controller)
                ticked = time.monotonic()
                told, waits = waits, _why_it_waits(app, job.id)
                if waits not in ("", told) and not out.is_terminal:
                    click.echo(f"{job.id} waits: {printable(waits)}", err=True)
                told, trouble = trouble, _trouble(app, job.id)
                if trouble not in ("", told):
                    live.console.print(Text(trouble, "yellow"), soft_wrap=True)
            job = app.store.job(job.id)
            logs = window.again() if window else controller.logs_of(job)
            until = math.inf if job.state.ended else ticked + TICK_SECONDS
            all_there = await print_rounds(app, out, logs, reader, job.nodes, until)
            if job.state.ended:
                print_lines(out, reader.lines(final=True), job.nodes)
                print_torchrun_where_ranks_are_silent(out, job, reader)
                return job
            live.update(_status_line(app, job, list(logs.silent), job.reason or waits))
            await asyncio.sleep(POLL_SECONDS if all_there else 0.0)


async def wait(app: App, controller: Controller, job: Job) -> Job:
    """Tick until a job has ended; returns its last record."""
    while not job.state.ended:
        await app.tick_if_free(controller)
        await controller.join(job.id, TICK_SECONDS)
        job = app.store.job(job.id)
        if not job.state.ended:
            await asyncio.sleep(TICK_SECONDS)
    if job.id in app.store.undecided():  # so that whoever waited finds what is proposed
        await app.tick(controller, job.id)
    return app.store.job(job.id)


def _why_it_waits(app: App, job_id: str) -> str:
    """In short, as things were at the last tick; nothing for a job that does not wait."""
    job = app.store.job(job_id)
    if job.state == JobState.RUNNING:
        return job.reason  # once its ranks have ended, that names what they left running
    waiting = job.state in (JobState.QUEUED, JobState.HELD) and not job.wish
    return reasons(queue_as_seen(app))[job_id] if waiting else ""


def _trouble(app: App, job_id: str) -> str:
    """What is wrong with a job that has not ended, and what is proposed about it; nothing while it is well."""
    job, proposal = app.store.job(job_id), app.store.proposals().get(job_id)
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


def _status_line(app: App, job: Job, silent: list[str], reason: str) -> Text:
    since = job.started_at or job.submitted_at
    line = Text.assemble(
        (f" {job.id} ", "reverse"), " ", (job.state.value, STATE_STYLES[job.state]), f" {duration(time.time() - since)}"
    )
    views = app.store.remembered_nodes()
    for node in job.nodes:
        view = views.get(node)
        line.append(f"  {node} ", "bold")
        line.append("silent", "red") if node in silent else line.append(_gpus_in_words(view))
    return line.append(f"  {printable(reason)}" if reason else "")


def _gpus_in_words(view: NodeView | None) -> str:
    gpus = view.gpus if view else ()
    return " ".join(
        f"{'-' if gpu.utilization_percent is None else gpu.utilization_percent}% {size(gpu.memory_used_mib or 0)}"
        for gpu in gpus
    )


class _NoLive:
    """Stands for the live line where there is no terminal to draw it on; what is said beside it goes to stderr."""

    def __init__(self) -> None:
        self.console = console(stderr=True)

    def __enter__(self) -> _NoLive:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, _: Text) -> None:
        return None
