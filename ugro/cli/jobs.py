"""Commands about jobs: status, logs, cancel, wait."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click

from ugro.cli.announce import going_on
from ugro.cli.app import App, Whole, attempt_option, command, json_option
from ugro.cli.complete import complete_job
from ugro.cli.follow import (
    SYNC_WITHIN,
    follow,
    print_lines,
    print_rounds,
    print_torchrun_where_ranks_are_silent,
)
from ugro.cli.follow import wait as wait_for
from ugro.cli.live import Waiting
from ugro.cli.output import (
    console,
    end_in_words,
    exit_code_of,
    job_document,
    print_hanging,
    print_json,
    print_json_list,
    title,
)
from ugro.cli.proposals import offer
from ugro.cli.several import Did, for_each, several
from ugro.common.errors import InputError, JobFailed, NodeError, StateLocked, UgroError
from ugro.common.models.event import EventKind
from ugro.common.models.job import Job, JobState, Wish
from ugro.common.text import printable, some
from ugro.control_plane.controller.tick import Controller
from ugro.control_plane.metadata_store.job_logs import JobLogs
from ugro.control_plane.metadata_store.retention import pruned_at
from ugro.control_plane.scheduler.accepted import accepts
from ugro.control_plane.scheduler.attempts import in_attempt, missing_logs
from ugro.control_plane.scheduler.launcher import nothing_runs
from ugro.nodes.pool import Pool
from ugro.nodes.remote.logs.log_streamer import LogReader

CANCEL_WITHIN = 60.0
"""Seconds that `cancel` waits for another process that is at work on the job. The request is recorded before."""

TURN_WITHIN = 1.0


@command()
@click.argument("job", shell_complete=complete_job)
@click.option("-f", "--follow", "following", is_flag=True, help="Go on until the job has ended.")
@click.option("--rank", type=Whole(min=0), help="Only this rank.")
@click.option("--tail", type=Whole(min=0), metavar="N", help="Only the last N lines of what is there now.")
@click.option("--torchrun", is_flag=True, help="Also what torchrun itself says on each node.")
@attempt_option
@json_option
def logs(
    app: App,
    job: str,
    following: bool,
    rank: int | None,
    tail: int | None,
    torchrun: bool,
    attempt: int | None,
    as_json: bool,
) -> int:
    """What the ranks of JOB (id or name) print, interleaved, with the rank before each line."""
    record = app.store.jobs.find(job)
    found = in_attempt(record, attempt)
    past = found.attempt != record.attempt
    ranks = found.placement.world_size if found.placement else len(found.ranks)
    if rank is not None and ranks and rank >= ranks:
        raise InputError(f"{found.id} has no rank {rank}", f"its ranks are 0 to {ranks - 1}")
    if as_json and following:
        raise InputError("--json prints one document, so it does not go with --follow")
    if past and following:
        over = f"attempt {found.attempt} of {found.id} is over, so there is nothing to follow"
        raise InputError(over, f"see what it printed: ugro logs {found.id} --attempt {found.attempt}")
    if (removed := pruned_at(app.store, found.id)) and not app.store.jobs.files(found.id).all_logs.exists():
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
            if past and not any(copies.folder.glob("*.log")):
                unknown = [node for node in found.nodes if node not in copies.nodes]
                click.echo(printable(missing_logs(found, unknown, list(shown.silent))), err=True)
            for error in shown.silent.values():
                click.echo(f"{printable(error.message)}: what it printed since is missing here", err=True)
            if following:
                return exit_code_of(await follow(app, controller, found, reader, out, window))
            return 0

    with going_on(found) if following else contextlib.nullcontext():
        status = app.run(show)
    if not (following or as_json) and (told := app.unattended([found])):
        print_hanging("", told, err=True, dim=True)
    if following and offer(app, app.store.jobs.job(found.id)):
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
@several("JOB")
@click.option("--abandon", is_flag=True, help="End it without the word of nodes that do not answer: they are lost.")
@json_option
def cancel(app: App, names: tuple[str, ...], abandon: bool, as_json: bool) -> int:
    """End each JOB (id or name) on every node: SIGTERM, ten seconds of patience, SIGKILL.

    It says on which nodes it is proved that no processes of it remain; on the others none was found.
    With --abandon a silent node does not keep it from ending; should the node come back, what is left there is ended.
    """
    asked: dict[str, Job | UgroError] = {name: _ask_to_end(app, name, abandon) for name in dict.fromkeys(names)}
    ending = list(dict.fromkeys(job.id for job in asked.values() if isinstance(job, Job) and not job.state.ended))
    if ending:
        told = f"ending {', '.join(ending)}"
        try:
            with (
                Waiting(app.store.jobs.job(ending[0]), told) if len(ending) == 1 else console(stderr=True).status(told)
            ):
                app.run(lambda controller, _: _carry_out(app, controller, ending))
        except KeyboardInterrupt:
            words = "the cancel is recorded; the next scheduling pass carries it out: ugro sweep"
            print_hanging(f"{', '.join(ending)}: ", words, True)
            raise

    def one(name: str) -> Did:
        job = asked[name]
        if isinstance(job, UgroError):
            raise job
        ended = app.store.jobs.job(job.id)
        if as_json and len(asked) == 1 and not ended.state.ended:
            print_json(job_document(ended, app.asked(ended)))  # how far it came, beside the error
        return _end_of(app, ended, already=job.state.ended)

    return for_each(names, one, as_json)


def _ask_to_end(app: App, name: str, abandon: bool) -> Job | UgroError:
    """Record that a job shall end. Returns the job as it was asked, or why that cannot be."""
    words = "cancel was asked for" + (", without the word of silent nodes" if abandon else "")
    wish = Wish.ABANDON if abandon else Wish.CANCEL
    try:
        found = app.store.jobs.find(name)
        with app.store.lock():
            job = app.store.jobs.job(found.id)
            if not accepts("cancel", job):
                return job
            return app.store.jobs.update(
                job.id, lambda job: job.model_copy(update={"wish": wish}), EventKind.CANCEL, words
            )
    except UgroError as error:
        return error


def _end_of(app: App, job: Job, already: bool) -> Did:
    """What came of a cancel.

    Raises:
        NodeError: not all of the job is ended, so the next tick tries again.
    """
    if not job.state.ended:
        raise NodeError(
            job.id,
            f"not all of it could be ended yet: {_in_the_way(app, job)}",
            "the next `ugro sweep` tries again; a node that is gone for good is given up with --abandon",
        )
    return job_document(job, app.asked(job)), "\n".join(_end_in_lines(job, already))


def _in_the_way(app: App, job: Job) -> str:
    """Why a job has not ended that shall: who is at work on it, what was recorded of it, or who has not confirmed."""
    with app.store.alone_with(job.id) as nobody_else:
        if not nobody_else:
            busy = "another UGRO process is at work on it"
            return f"{busy}; {job.reason}" if job.reason else busy
    return job.reason or f"{some(job.nodes)} did not confirm it so far"


def _end_in_lines(job: Job, already: bool) -> list[str]:
    if already:
        return [f"{job.id} had ended before: {job.state.value}"]
    if job.state != JobState.CANCELLED:
        return [f"{job.id} ended by itself meanwhile: {job.state.value}"]
    sure = [node for node in job.nodes if node not in job.abandoned]
    lines = ["; ".join(filter(None, (f"{job.id} is cancelled", nothing_runs("it", sure, job.gone_from))))]
    if job.abandoned:
        lines.append(f"  {', '.join(job.abandoned)} was given up; what is left there is ended when it answers")
        if sure:
            lines.append(f"  to go on without it: ugro resume {job.id} --nodes {','.join(sure)}")
    return lines


async def _carry_out(app: App, controller: Controller, jobs: Sequence[str]) -> None:
    """End jobs whose end was asked for, or wait for the process that is at work on one and finds that just as well."""
    end = time.monotonic() + CANCEL_WITHIN
    while jobs:
        tried = False
        with contextlib.suppress(StateLocked):  # its tick does the same
            await app.tick(controller, *jobs, patience=TURN_WITHIN)
            tried = True
        jobs = [job_id for job_id in jobs if not _is_done(app, job_id, tried)]
        if time.monotonic() > end:
            return
        if jobs:
            await asyncio.sleep(TURN_WITHIN)


def _is_done(app: App, job_id: str, tried: bool) -> bool:
    """Whether a job has ended, or it was tried to end it and nobody else is at work on it who could still do so."""
    with app.store.alone_with(job_id) as nobody_else:
        return (tried and nobody_else) or app.store.jobs.job(job_id).state.ended


@command()
@click.argument("job", shell_complete=complete_job)
@json_option
def wait(app: App, job: str, as_json: bool) -> int:
    """Wait until JOB (id or name) has ended: exit code 0 if it succeeded, 1 if not."""
    record = app.store.jobs.find(job)
    with Waiting(record, f"waiting for {record.id}") as waiting:
        ended = app.run(lambda controller, _: wait_for(app, controller, record, waiting.tell))
    if as_json:
        print_json(job_document(ended, app.asked(ended)))
    if ended.state != JobState.SUCCEEDED:
        proposed = f"; proposed: ugro approve {ended.id}" if ended.id in app.store.decisions.proposals() else ""
        raise JobFailed(end_in_words(ended), f"why, and how to go on: ugro explain {ended.id}{proposed}")
    if not as_json:
        click.echo(f"{ended.id} succeeded")
    return 0
