"""Commands about waiting jobs: hold, release, reprioritize, why."""

from __future__ import annotations

import click

from ugro.cli.app import App, Whole, command, json_option
from ugro.cli.complete import complete_job
from ugro.cli.output import print_commands, print_hanging, print_json
from ugro.cli.render.attention import UNATTENDED, unattended, unsettled
from ugro.cli.render.sweeps import reasons_in_lines, sweep_in_words
from ugro.cli.several import Did, JobChoice, choose, jobs_arguments, one_job
from ugro.common.job_names import SWEEP_ID
from ugro.common.job_spec import PRIORITIES
from ugro.common.models.job_state import JobState
from ugro.service.schemas.queue import Hold, Release, Reprioritize, Why
from ugro.service.schemas.sweeps import WhySweep
from ugro.service.words import state_in_words, title


@command()
@jobs_arguments()
@click.option("--reason", default="", help="Why; shown wherever the job is.")
@json_option
def hold(app: App, choice: JobChoice, reason: str, as_json: bool) -> int:
    """Hold a queued job until it is released.

    JOB is an id, a name or a pattern like 'lr-*'. Running jobs are not affected.
    """

    def one(name: str) -> Did:
        held = app.call(Hold(job=name, reason=reason))
        return held.as_json(), f"{title(held)} is held; to release it: ugro release {held.id}"

    return choose(app, "hold", choice, as_json).each(one, as_json, doing="holding")


@command()
@jobs_arguments()
@json_option
def release(app: App, choice: JobChoice, as_json: bool) -> int:
    """Release a held job to its place in the queue.

    JOB is an id, a name or a pattern like 'lr-*'.
    """

    def one(name: str) -> Did:
        released = app.call(Release(job=name))
        job = released.job
        if not released.was_held:
            return job.as_json(), f"{title(job)} is not held: it waits for its turn"
        words = f"{title(job)} is queued again; it starts at the next scheduling pass with enough free GPUs"
        if told := unattended(app, [job]):
            words += f"\n  {told}"
        return job.as_json(), words

    return choose(app, "release", choice, as_json).each(one, as_json, doing="releasing")


@command(context_settings={"ignore_unknown_options": True})
@jobs_arguments()
@click.argument("priority", type=Whole(*PRIORITIES))
@json_option
def reprioritize(app: App, choice: JobChoice, priority: int, as_json: bool) -> int:
    """Change the priority of a waiting job.

    JOB is an id, a name or a pattern like 'lr-*'. PRIORITY is between -1000 and 1000; higher starts sooner, the
    default is 0.
    """

    def one(job: str) -> Did:
        changed = app.call(Reprioritize(job=job, priority=priority))
        return changed.as_json(), f"{title(changed)} has priority {priority} now"

    return choose(app, "reprioritize", choice, as_json).each(one, as_json, doing="reprioritizing")


@command()
@click.argument("job", required=False, shell_complete=complete_job)
@json_option
def why(app: App, job: str | None, as_json: bool) -> None:
    """Show a job's pending reasons, or why it runs where it does.

    JOB is an id or a name, or a sweep (sweep-012), whose jobs are shown by their nearest pending reason. Default: the
    job that was submitted last. The reason that ends soonest comes first.
    """
    if job is not None and SWEEP_ID.fullmatch(job):
        _why_sweep(app, job, as_json)
        return
    explained = app.call(Why(job=one_job(app, "why", job, as_json)))
    answer, found = explained.answer, explained.job
    if as_json:
        print_json(answer.as_json())
        return
    said = "" if answer.never_starts else explained.expected  # the first reason tells it
    print_hanging("", state_in_words(found) + (f": {said}" if said else ""))
    for reason in answer.reasons:
        print_hanging("  - ", reason)
    unsettled({found.id: explained.recorded_state}, [found])
    waits = found.state in (JobState.QUEUED, JobState.HELD) and not found.cancel_requested
    if waits and not answer.never_starts and (told := unattended(app, [found])):
        print_hanging("", told, dim=True)


def _why_sweep(app: App, sweep: str, as_json: bool) -> None:
    """Say which jobs of a sweep wait, and for what."""
    explained = app.call(WhySweep(sweep=sweep))
    if as_json:
        print_json(explained.as_json())
        return
    print_hanging("", sweep_in_words(explained))
    lines = reasons_in_lines(explained)
    for line in lines or ["no job of it waits"]:
        print_hanging("  - ", line)
    if waiting := next((job for job in explained.jobs if job.state in (JobState.QUEUED, JobState.HELD)), None):
        print_commands(f"ugro why {waiting.id}", f"ugro status {explained.id}")
    if not explained.attended and any(job.state == JobState.QUEUED for job in explained.jobs):
        print_hanging("", UNATTENDED[JobState.QUEUED], dim=True)
