"""Commands about jobs: status, logs, cancel, wait."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from pathlib import Path

import click

from ugro.cli.announce import going_on
from ugro.cli.app import App, Whole, command, json_option
from ugro.cli.complete import complete_job
from ugro.cli.follow import (
    SYNC_WITHIN,
    follow,
    print_lines,
    print_rounds,
    print_torchrun_where_ranks_are_silent,
)
from ugro.cli.follow import wait as wait_for
from ugro.cli.output import (
    console,
    end_in_words,
    exit_code_of,
    job_document,
    print_json,
    print_json_list,
    title,
)
from ugro.cli.proposals import offer
from ugro.common.errors import InputError, JobFailed, NodeError, StateLocked
from ugro.common.models import Job, JobState, Wish
from ugro.common.text import printable
from ugro.control_plane.controller import Controller
from ugro.control_plane.failure_handler.aftermath import once_mended
from ugro.control_plane.job_logs import JobLogs
from ugro.control_plane.job_steps import CANCEL_GRACE
from ugro.control_plane.metadata_store.retention import pruned_at
from ugro.nodes.log_streamer import LogReader
from ugro.nodes.pool import Pool

CANCEL_WITHIN = 60.0
"""Seconds that `cancel` waits for another process that is at work on the job. The request is recorded before."""

TURN_WITHIN = 1.0


@command()
@click.argument("job", shell_complete=complete_job)
@click.option("-f", "--follow", "following", is_flag=True, help="Go on until the job has ended.")
@click.option("--rank", type=Whole(min=0), help="Only this rank.")
@click.option("--tail", type=Whole(min=0), metavar="N", help="Only the last N lines of what is there now.")
@click.option("--torchrun", is_flag=True, help="Also what torchrun itself says on each node.")
@json_option
def logs(app: App, job: str, following: bool, rank: int | None, tail: int | None, torchrun: bool, as_json: bool) -> int:
    """What the ranks of JOB (id or name) print, interleaved, with the rank before each line."""
    found = app.store.find(job)
    if rank is not None and found.ranks and rank >= len(found.ranks):
        raise InputError(f"{found.id} has no rank {rank}", f"its ranks are 0 to {len(found.ranks) - 1}")
    if as_json and following:
        raise InputError("--json prints one document, so it does not go with --follow")
    if (removed := pruned_at(app.store, found.id)) and not app.store.files(found.id).all_logs.exists():
        raise InputError(
            f"the logs of {found.id} were removed by `ugro gc` on {removed}", f"see: ugro events {found.id}"
        )

    async def show(controller: Controller, _: Pool) -> int:
        copies = controller.logs_of(found)
        with contextlib.ExitStack() as spare:
            window = None
            if tail is not None:
                folder = Path(spare.enter_context(tempfile.TemporaryDirectory(prefix="ugro-logs-")))
                with app.store.optional():
                    window = await copies.window(tail, folder, SYNC_WITHIN)
            shown = window or copies
            reader = LogReader(shown.folder, rank, torchrun)
            if as_json:
                await _print_as_json(app, shown, reader, tail)
                return 0
            out = console()
            if tail is not None:
                print_lines(out, reader.last(tail, final=not following), found.nodes)
            elif not following:
                await print_rounds(app, out, shown, reader, found.nodes)
                print_lines(out, reader.lines(final=True), found.nodes)
                print_torchrun_where_ranks_are_silent(out, found, reader)
            if found.reason and not (following or found.state.ended):
                click.echo(f"{title(found)}: {printable(found.reason)}", err=True)
            for error in shown.silent.values():
                click.echo(f"{printable(error.message)}: what it printed since is missing here", err=True)
            if following:
                return exit_code_of(await follow(app, controller, found, reader, out, window))
            return 0

    with going_on(found) if following else contextlib.nullcontext():
        status = app.run(show)
    if following and offer(app, app.store.job(found.id)):
        click.echo(f"  ugro logs -f {found.id}")
    return status


async def _print_as_json(app: App, logs: JobLogs, reader: LogReader, tail: int | None) -> None:
    if tail is None:
        with app.store.optional():
            async for _ in logs.rounds(SYNC_WITHIN):
                pass
    lines = reader.lines(final=True) if tail is None else reader.last(tail, final=True)
    print_json_list({"rank": line.rank, "node_rank": line.node_rank, "text": line.text} for line in lines)


@command()
@click.argument("job", shell_complete=complete_job)
@click.option("--abandon", is_flag=True, help="End it without the word of nodes that do not answer: they are lost.")
@json_option
def cancel(app: App, job: str, abandon: bool, as_json: bool) -> None:
    """End JOB (id or name) on every node: SIGTERM, ten seconds of patience, SIGKILL; nothing of it is left then.

    With --abandon a silent node does not keep it from ending; should the node come back, what is left there is ended.
    """
    found = app.store.find(job)
    wish = Wish.ABANDON if abandon else Wish.CANCEL
    asked = "cancel was asked for" + (", without the word of silent nodes" if abandon else "")
    with app.store.lock():
        already = app.store.job(found.id).state.ended
        if not already:
            app.store.update(found.id, lambda job: job.model_copy(update={"wish": wish}), "cancel", asked)
    ended = app.store.job(found.id)
    if not already:
        with console(stderr=True).status(f"ending {found.id}: up to {CANCEL_GRACE:.0f} s of patience, then SIGKILL"):
            ended = app.run(lambda controller, _: _carried_out(app, controller, ended))
    if as_json:
        print_json(job_document(ended, app.asked(ended)))
    elif already:
        click.echo(f"{ended.id} had ended before: {ended.state.value}")
    elif ended.state == JobState.CANCELLED:
        sure = [node for node in ended.nodes if node not in ended.abandoned]
        if sure or not ended.abandoned:
            click.echo(f"{ended.id} is cancelled; nothing of it is left on {', '.join(sure) or 'any node'}")
        else:
            click.echo(f"{ended.id} is cancelled")
        if ended.abandoned:
            click.echo(f"  {', '.join(ended.abandoned)} was given up; what is left there is ended when it answers")
        if ended.abandoned and sure:
            click.echo(f"  to go on without it: ugro resume {ended.id} --nodes {','.join(sure)}")
    elif ended.state.ended:
        click.echo(f"{ended.id} ended by itself meanwhile: {ended.state.value}")
    if not ended.state.ended:
        raise NodeError(
            ended.id,
            f"not all of it could be ended yet: {ended.reason}",
            "the next `ugro sweep` tries again; a node that is gone for good is given up with --abandon",
        )


async def _carried_out(app: App, controller: Controller, job: Job) -> Job:
    """End a job whose end was asked for, or wait for the process that is at work on it and finds that just as well."""
    end = time.monotonic() + CANCEL_WITHIN
    while True:
        with contextlib.suppress(StateLocked):  # its tick does the same
            await app.tick(controller, job.id, patience=TURN_WITHIN)
        with app.store.alone_with(job.id) as nobody_else:
            job = app.store.job(job.id)
        if job.state.ended or nobody_else or time.monotonic() > end:
            return job
        await asyncio.sleep(TURN_WITHIN)


@command()
@click.argument("job", shell_complete=complete_job)
@json_option
def wait(app: App, job: str, as_json: bool) -> int:
    """Wait until JOB (id or name) has ended: exit code 0 if it succeeded, 1 if not."""
    record = app.store.find(job)
    with console(stderr=True).status(f"waiting for {record.id}"):
        ended = app.run(lambda controller, _: wait_for(app, controller, record))
    if as_json:
        print_json(job_document(ended, app.asked(ended)))
    if ended.state != JobState.SUCCEEDED:
        proposed = f"; proposed: ugro approve {ended.id}" if ended.id in app.store.proposals() else ""
        hint = f"see: ugro status {ended.id}; ugro logs {ended.id}{proposed or once_mended(ended)}"
        raise JobFailed(end_in_words(ended), hint)
    if not as_json:
        click.echo(f"{ended.id} succeeded")
    return 0
