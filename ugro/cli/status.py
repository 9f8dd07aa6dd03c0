"""`ugro status`: the cluster and its jobs, or one job in detail."""

from __future__ import annotations

import asyncio
import fnmatch
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from ugro.cli.app import LOOK_WITHIN, RECENT, App, command, json_option, moment_option
from ugro.cli.complete import complete_job
from ugro.cli.listings import attempts_grid, jobs_grid, nodes_grid
from ugro.cli.output import (
    job_document,
    node_documents,
    print_hanging,
    print_job,
    print_json,
    print_problems,
    print_unreadable,
    unreadable_document,
    wide_option,
)
from ugro.common.errors import RecordUnreadable
from ugro.common.models.job import Job, JobState, Summary
from ugro.common.paths import run_paths
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.records import OnUnreadable
from ugro.control_plane.resource_manager.observation import Observation, fresh_or_remembered, seen_by_resident
from ugro.control_plane.scheduler.backfill import Queue
from ugro.control_plane.scheduler.forecast import forecast
from ugro.control_plane.scheduler.queue import read_queue
from ugro.control_plane.scheduler.scheduling import reasons, why

if TYPE_CHECKING:
    from ugro.control_plane.controller.tick import Controller
    from ugro.nodes.pool import Pool

LOGS_LEAST = 0.8
"""Seconds that the logs of a job that failed unseen may take in any case, after a look that used up LOOK_WITHIN."""

REASONS = 3
"""Reasons why a job waits that `status` shows; `ugro why` tells all."""


@command()
@click.argument("job", required=False, shell_complete=complete_job)
@click.option("--all", "everything", is_flag=True, help="Also every job that ended, not only the last ones.")
@click.option("--since", callback=moment_option, metavar="TIME", help="Jobs submitted since: 2h (ago), 22:30, a date.")
@click.option("--state", "states", multiple=True, type=click.Choice([state.value for state in JobState]))
@click.option("--name", "pattern", metavar="PATTERN", help="Jobs whose name is like it: 'test-*'.")
@wide_option
@json_option
def status(app: App, job: str | None, wide: bool, as_json: bool, **wanted: Any) -> None:
    """The cluster and its jobs, or one JOB (id or name) in detail.

    It looks and changes nothing; a node that does not answer is shown as it was last seen.
    """
    if job is None:
        _cluster_status(app, Wanted(**wanted), wide, as_json)
        return
    record = app.store.jobs.find(job)
    found = as_it_is(app, record)
    if as_json:
        print_json(job_document(found, app.asked(found)))
        return
    folders = {node: paths.run_dir for node in found.nodes if (paths := run_paths(app.inventory, found, node))}
    print_job(found, app.asked(found), folders)
    if found.past:
        click.echo()
        attempts_grid(found).print()
    tell_unsettled([record], [found])
    tell_proposals(app, [found])
    if told := app.unattended([found]):
        print_hanging("", told, dim=True)


def as_it_is(app: App, job: Job) -> Job:
    """The job as its nodes show it, or, while it waits, with what it waits for. An ended job's record says it all.

    Every command that judges a job goes by this, so that all say the same; those that act on one take a tick before.
    """
    if job.state == JobState.QUEUED:
        unreadable: list[RecordUnreadable] = []
        seen, live = look(app, app.store.jobs.live(unreadable.append))
        return with_prospects(job, read_queue(app.store, app.cluster, live, seen.views, seen.at, unreadable))
    return look(app, [job], job.nodes)[1][0] if job.state.on_nodes else job


def look(app: App, live: Sequence[Job], nodes: Sequence[str] | None = None) -> tuple[Observation, list[Job]]:
    """What nodes say (all by default), and the live jobs by that; what a resident controller sees is in their records.

    A job may have ended by that; its record says so only after the next tick.
    """
    if seen := seen_by_resident(app.store, app.cluster, time.time()):
        return seen, list(live)

    async def ask(controller: Controller, _: Pool) -> tuple[Observation, list[Job]]:
        end = time.monotonic() + LOOK_WITHIN
        seen = await controller.observe(live, nodes, LOOK_WITHIN)
        left = max(LOGS_LEAST, end - time.monotonic())
        return seen, await asyncio.gather(*(controller.live(job, seen, left) for job in live))

    return app.run(ask)


def tell_unsettled(records: Iterable[Job], seen: Iterable[Job]) -> None:
    """Say of jobs that their nodes show otherwise than their records what is still to come, and what brings it."""
    known = {job.id: job.state for job in records}
    shown = {JobState.RUNNING, JobState.UNKNOWN}
    changed = [job for job in seen if job.state.ended or job.state in shown]
    changed = [job for job in changed if known.get(job.id, job.state) != job.state]
    failed = any(job.state == JobState.FAILED for job in changed)
    if changed:
        names = ", ".join(job.id for job in changed)
        rest = ", ends the ranks that still run, and proposes what to do" if failed else ""
        words = f"seen just now; the next scheduling pass records it{rest}: ugro sweep"
        print_hanging(f"{names}: ", words, err=True, dim=True)


def tell_proposals(app: App, jobs: Iterable[Job]) -> None:
    """Say of jobs what is proposed about them and waits for an answer."""
    shown = {job.id for job in jobs}
    waiting = [one for one in app.store.decisions.proposals().values() if one.job in shown and not one.approved]
    if waiting:
        from ugro.control_plane.failure_handler.handler import in_words  # here, since its import takes long

        for proposal in waiting:
            print_hanging(f"{proposal.job}: ", f"proposed: {in_words(proposal)}", err=True)
            print_hanging("  ", f"ugro approve {proposal.job}   ugro deny {proposal.job}", err=True)


@dataclass(frozen=True)
class Wanted:
    """Which jobs `status` is asked for. Without any of these: those that have not ended, and the last that did."""

    everything: bool
    since: float | None
    states: tuple[str, ...]
    pattern: str | None

    def jobs(self, store: MetadataStore, live: Iterable[Job], on_unreadable: OnUnreadable) -> list[Job]:
        """Them, in the order of their ids; of the ended ones only those asked for are opened."""
        live = [job for job in live if self._fits(job)]
        if not (self.everything or self.since is not None or self.states or self.pattern):
            ended = store.jobs.recent(RECENT, on_unreadable)
        else:
            ended = store.jobs.all((row.id for row in store.jobs.summaries() if self._fits(row)), on_unreadable)
        return sorted({job.id: job for job in (*ended, *live)}.values(), key=lambda job: (len(job.id), job.id))

    def _fits(self, job: Job | Summary) -> bool:
        return (
            (self.since is None or job.submitted_at >= self.since)
            and (not self.states or job.state.value in self.states)
            and (self.pattern is None or fnmatch.fnmatchcase(job.name, self.pattern))
        )


def _cluster_status(app: App, wanted: Wanted, wide: bool, as_json: bool) -> None:
    unreadable: list[RecordUnreadable] = []

    live = records = app.store.jobs.live(unreadable.append)
    jobs = wanted.jobs(app.store, live, unreadable.append)
    seen, live = look(app, live)
    queue = read_queue(app.store, app.cluster, live, seen.views, seen.at, unreadable)
    said, turns = reasons(queue), _turns(queue, live)
    looked_at = {job.id: job for job in live}
    jobs = [with_reason(looked_at.get(job.id, job), said.get(job.id)) for job in jobs]
    views, errors = fresh_or_remembered(app.store, seen)
    drains = app.store.config.drains()
    cluster = app.cluster
    if as_json:
        nodes = node_documents(cluster, views, errors, drains)
        documents = [job_document(job, app.asked(job)) | {"position": turns.get(job.id)} for job in jobs]
        broken = [unreadable_document(error) for error in unreadable]
        document = {"schema_version": 1, "nodes": nodes, "jobs": documents, "unreadable": broken}
        problems = [problem.as_dict() for problem in app.store.problems()]
        print_json(document | {"attended": app.attended(), "problems": problems})
        return
    nodes_grid(cluster, views, errors, drains).print(wide)
    click.echo()
    if jobs:
        jobs_grid(jobs, turns).print(wide)
    else:
        click.echo(_no_jobs(app))
    print_unreadable(unreadable)
    print_problems(app.store.problems())
    if any(errors.values()):
        app.tell_inventory()
    tell_unsettled(records, jobs)
    tell_proposals(app, jobs)
    if told := app.unattended(jobs):
        print_hanging("", told, dim=True)


def _turns(queue: Queue, live: Iterable[Job]) -> dict[str, int]:
    """Which queued job is how far from its turn, from 1; a held one has none."""
    queued = {job.id for job in live if job.state == JobState.QUEUED}
    return {job_id: turn for turn, job_id in enumerate((one for one in queue.in_turn() if one in queued), 1)}


def _no_jobs(app: App) -> str:
    return "no such jobs" if app.store.jobs.next_id() != "job-001" else "no jobs yet: `ugro launch` submits one"


def with_reason(job: Job, reason: str | None) -> Job:
    """A queued job with why it waits: that is in no record, since it changes with every look."""
    return job.model_copy(update={"reason": reason}) if reason and job.state == JobState.QUEUED else job


def with_prospects(job: Job, queue: Queue) -> Job:
    """A queued job with the nearest reasons why it waits, and when it will probably start."""
    if all(job.id != one.id for one in queue.waiting):
        return job
    causes, expected = why(queue, job.id)[:REASONS], forecast(queue, job.id)
    words = [*causes, expected.text] if expected.at is not None else causes
    return with_reason(job, "; ".join(words) if causes else "starts at the next tick")
