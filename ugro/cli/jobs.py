"""Commands about jobs: status, logs, cancel, wait."""

from __future__ import annotations

import contextlib
import fnmatch
from collections import deque
from dataclasses import dataclass
from typing import Any

import click

from ugro.cli.app import LOOK_WITHIN, App, command, json_option, moment_option
from ugro.cli.follow import SYNC_WITHIN, follow, going_on, print_lines, print_torchrun_where_ranks_are_silent
from ugro.cli.follow import wait as wait_for
from ugro.cli.output import (
    console,
    exit_code_of,
    job_document,
    jobs_table,
    node_documents,
    nodes_table,
    print_job,
    print_json,
)
from ugro.common.errors import InputError, JobFailed, NodeError
from ugro.common.models import Job, JobState, NodeView, Summary, Wish
from ugro.common.text import printable
from ugro.control_plane.controller import CANCEL_GRACE, Controller, Observation
from ugro.control_plane.launcher import run_paths
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.retention import pruned_at
from ugro.control_plane.queue import Queue, read_queue
from ugro.nodes.log_streamer import LogReader
from ugro.nodes.pool import Pool

RECENT = 10
"""Ended jobs that `status` shows when nothing more is asked for."""


REASONS = 3
"""Reasons why a job waits that `status` shows; `ugro why` tells all."""


def complete_job(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Ids and names for the shell's completion, from the records alone."""
    store = App(None).store
    jobs = [*store.live(), *store.recent(RECENT)]
    return [word for job in jobs for word in dict.fromkeys((job.id, job.name)) if word.startswith(incomplete)]


@command()
@click.argument("job", required=False, shell_complete=complete_job)
@click.option("--all", "everything", is_flag=True, help="Also every job that ended, not only the last ones.")
@click.option("--since", callback=moment_option, metavar="TIME", help="Jobs submitted since: 2h (ago), 22:30, a date.")
@click.option("--state", "states", multiple=True, type=click.Choice([state.value for state in JobState]))
@click.option("--name", "pattern", metavar="PATTERN", help="Jobs whose name is like it: 'test-*'.")
@json_option
def status(app: App, job: str | None, as_json: bool, **wanted: Any) -> None:
    """The cluster and its jobs, or one JOB (id or name) in detail.

    It looks and changes nothing; a node that does not answer is shown as it was last seen.
    """
    if job is None:
        _cluster_status(app, Wanted(**wanted), as_json)
        return
    record = app.store.find(job)
    found = app.run(lambda controller, _: _live_job(app, controller, record))
    if as_json:
        print_json(job_document(found))
        return
    folders = {node: paths.run_dir for node in found.nodes if (paths := run_paths(app.inventory, found, node))}
    print_job(found, folders)


async def _live_job(app: App, controller: Controller, job: Job) -> Job:
    if job.state == JobState.QUEUED:
        live = app.store.live()
        seen = await controller.observe(live, within=LOOK_WITHIN)
        return with_reason(job, read_queue(app.store, app.cluster, live, seen.views, seen.at))
    nodes = job.nodes if job.state.on_nodes else ()  # an ended job's record says it all
    return await controller.live(job, await controller.observe([job], nodes, LOOK_WITHIN), LOOK_WITHIN)


@dataclass(frozen=True)
class Wanted:
    """Which jobs `status` is asked for. Without any of these: those that have not ended, and the last that did."""

    everything: bool
    since: float | None
    states: tuple[str, ...]
    pattern: str | None

    def jobs(self, store: MetadataStore) -> list[Job]:
        """Them, in the order of their ids; of the ended ones only those asked for are opened."""
        live = [job for job in store.live() if self._fits(job)]
        if not (self.everything or self.since is not None or self.states or self.pattern):
            ended = store.recent(RECENT)
        else:
            ended = store.jobs(row.id for row in store.summaries() if self._fits(row))
        return sorted({job.id: job for job in (*ended, *live)}.values(), key=lambda job: (len(job.id), job.id))

    def _fits(self, job: Job | Summary) -> bool:
        return (
            (self.since is None or job.submitted_at >= self.since)
            and (not self.states or job.state.value in self.states)
            and (self.pattern is None or fnmatch.fnmatchcase(job.name, self.pattern))
        )


def _cluster_status(app: App, wanted: Wanted, as_json: bool) -> None:
    async def look(controller: Controller, _: Pool) -> tuple[Observation, list[Job]]:
        live = app.store.live()
        seen = await controller.observe(live, within=LOOK_WITHIN)
        queue = read_queue(app.store, app.cluster, live, seen.views, seen.at)
        jobs = [with_reason(job, queue) for job in wanted.jobs(app.store)]
        return seen, [await controller.live(job, seen, LOOK_WITHIN) for job in jobs]

    seen, jobs = app.run(look)
    views, errors = fresh_or_remembered(app, seen)
    drains = app.store.drains()
    cluster = app.cluster
    if as_json:
        nodes = node_documents(cluster, views, errors, drains)
        print_json({"schema_version": 1, "nodes": nodes, "jobs": [job_document(job) for job in jobs]})
        return
    out = console()
    out.print(nodes_table(cluster, views, errors, drains))
    out.print()
    out.print(jobs_table(jobs) if jobs else _no_jobs(app))


def _no_jobs(app: App) -> str:
    return "no such jobs" if app.store.next_id() != "job-001" else "no jobs yet: `ugro launch` submits one"


def with_reason(job: Job, queue: Queue) -> Job:
    """A queued job with the nearest reasons why it waits: they are in no record, since they change with every look."""
    if job.state != JobState.QUEUED or job.wish:
        return job
    return job.model_copy(update={"reason": "; ".join(queue.why(job.id)[:REASONS]) or "starts at the next tick"})


def fresh_or_remembered(app: App, seen: Observation) -> tuple[dict[str, NodeView | None], dict[str, NodeError | None]]:
    """Each node's view, fresh or as it was last seen, and why it is not fresh."""
    errors = {name: view if isinstance(view, NodeError) else None for name, view in seen.views.items()}
    remembered = app.store.remembered_nodes() if any(errors.values()) else {}
    views = {name: remembered.get(name) if isinstance(view, NodeError) else view for name, view in seen.views.items()}
    return views, errors


@command()
@click.argument("job", shell_complete=complete_job)
@click.option("-f", "--follow", "following", is_flag=True, help="Go on until the job has ended.")
@click.option("--rank", type=click.IntRange(min=0), help="Only this rank.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines of what is there now.")
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
        reader = LogReader(app.store.files(found.id).logs(found.attempt), rank, torchrun)
        silent = await controller.sync_logs(found, SYNC_WITHIN) if found.nodes else {}
        lines = reader.lines(final=not following)
        if tail is not None:
            lines = list(deque(lines, maxlen=tail))
        if as_json:
            print_json([{"rank": line.rank, "node_rank": line.node_rank, "text": line.text} for line in lines])
            return 0
        out = console()
        print_lines(out, lines, found.nodes)
        if not following and tail is None:
            print_torchrun_where_ranks_are_silent(out, found, reader)
        for error in silent.values():
            click.echo(f"{printable(error.message)}: what it printed since is missing here", err=True)
        return exit_code_of(await follow(app, controller, found, reader, out)) if following else 0

    with going_on(found) if following else contextlib.nullcontext():
        return app.run(show)


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
    already = False

    async def act(controller: Controller, _: Pool) -> Job:
        nonlocal already
        with app.store.lock():
            if already := app.store.job(found.id).state.ended:
                return app.store.job(found.id)
            app.store.update(found.id, lambda job: job.model_copy(update={"wish": wish}), "cancel", asked)
            await controller.tick()
        return app.store.job(found.id)

    with console(stderr=True).status(f"ending {found.id}: up to {CANCEL_GRACE:.0f} s of patience, then SIGKILL"):
        ended = app.run(act)
    if as_json:
        print_json(job_document(ended))
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
    elif ended.state.ended:
        click.echo(f"{ended.id} ended by itself meanwhile: {ended.state.value}")
    if not ended.state.ended:
        raise NodeError(
            ended.id,
            f"not all of it could be ended yet: {ended.reason}",
            "the next `ugro sweep` tries again; a node that is gone for good is given up with --abandon",
        )


@command()
@click.argument("job", shell_complete=complete_job)
@json_option
def wait(app: App, job: str, as_json: bool) -> int:
    """Wait until JOB (id or name) has ended: exit code 0 if it succeeded, 1 if not."""
    record = app.store.find(job)
    with console(stderr=True).status(f"waiting for {record.id}"):
        ended = app.run(lambda controller, _: wait_for(app, controller, record))
    if as_json:
        print_json(job_document(ended))
    if ended.state != JobState.SUCCEEDED:
        raise JobFailed(
            f"{ended.id} {ended.state.value}: {ended.reason}", f"see: ugro status {ended.id}; ugro logs {ended.id}"
        )
    if not as_json:
        click.echo(f"{ended.id} succeeded")
    return 0
