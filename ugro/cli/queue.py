"""Commands about waiting jobs: hold, release, reprioritize, why."""

from __future__ import annotations

import time

import click

from ugro.cli.app import App, Whole, command, json_option
from ugro.cli.complete import complete_job
from ugro.cli.output import job_document, print_hanging, print_json, stamp, state_in_words, title
from ugro.cli.several import Did, for_each, several
from ugro.cli.status import as_it_is, look, tell_unsettled
from ugro.common.errors import InputError, RecordUnreadable
from ugro.common.job_spec import PRIORITIES
from ugro.common.models.event import EventKind
from ugro.common.models.job import Job, JobState
from ugro.common.text import one_line
from ugro.control_plane.scheduler import scheduling
from ugro.control_plane.scheduler.accepted import accepts
from ugro.control_plane.scheduler.forecast import Forecast, forecast
from ugro.control_plane.scheduler.queue import read_queue

QUEUED = (EventKind.SUBMITTED, EventKind.RESUMED, EventKind.QUEUED)
"""The events after which a job is placed anew."""


@command()
@several("JOB")
@click.option("--reason", default="", help="Shown wherever the job is.")
@json_option
def hold(app: App, names: tuple[str, ...], reason: str, as_json: bool) -> int:
    """Keep each queued JOB (id or name) from starting until `ugro release`. What runs is not touched."""
    said = f"held: {one_line(reason)}" if reason else "held"

    def one(name: str) -> Did:
        held = _change_waiting(app, name, {"state": JobState.HELD, "reason": said}, "hold", EventKind.HELD, said)
        return job_document(held, app.asked(held)), f"{title(held)} is held; let it go: ugro release {held.id}"

    return for_each(names, one, as_json)


@command()
@several("JOB")
@json_option
def release(app: App, names: tuple[str, ...], as_json: bool) -> int:
    """Let each held JOB (id or name) take its turn again, at its old place in the queue."""

    def one(name: str) -> Did:
        was = app.store.find(name)
        if was.state == JobState.QUEUED and not was.wish:
            return job_document(was, app.asked(was)), f"{title(was)} is not held: it waits for its turn"
        job = _change_waiting(app, name, {"state": JobState.QUEUED, "reason": ""}, "release", EventKind.RELEASED, "")
        words = f"{title(job)} is queued again; it starts at the next tick that has room for it"
        if told := app.unattended([job]):
            words += f"\n  {told}"
        return job_document(job, app.asked(job)), words

    return for_each(names, one, as_json)


@command(context_settings={"ignore_unknown_options": True})
@click.argument("job", shell_complete=complete_job)
@click.argument("priority", type=Whole(*PRIORITIES))
@json_option
def reprioritize(app: App, job: str, priority: int, as_json: bool) -> None:
    """Give a waiting JOB (id or name) another PRIORITY: higher starts sooner, 0 is usual, -1000 to 1000."""
    changed = _change_waiting(
        app, job, {"priority": priority}, "reprioritize", EventKind.PRIORITY, f"priority {priority}"
    )
    if as_json:
        print_json(job_document(changed, app.asked(changed)))
    else:
        click.echo(f"{title(changed)} has priority {priority} now")


def _change_waiting(
    app: App, reference: str, changed: dict[str, object], request: str, kind: EventKind, message: str
) -> Job:
    """Change a job that has not started.

    Raises:
        InputError: it has.
    """
    found = app.store.find(reference)
    with app.store.lock():
        job = app.store.job(found.id)
        if not accepts(request, job):
            needed = "a held job can be released" if request == "release" else "a job that waits can be changed"
            raise InputError(f"{state_in_words(job)}; only {needed}", f"see: ugro status {job.id}")
        if all(getattr(job, field) == value for field, value in changed.items()):
            return job
        return app.store.update(job.id, lambda job: job.model_copy(update=changed), kind, message)


@command()
@click.argument("job", shell_complete=complete_job)
@json_option
def why(app: App, job: str, as_json: bool) -> None:
    """Every reason why JOB (id or name) waits, nearest first, or why it runs where it does."""
    record = found = app.store.find(job)
    waits = found.state in (JobState.QUEUED, JobState.HELD) and not found.wish
    if not waits:
        found = as_it_is(app, found)
        reasons, expected = _why_there(app, found), Forecast(None, "")
    else:
        unreadable: list[RecordUnreadable] = []
        seen, live = look(app, app.store.live(unreadable.append))
        queue = read_queue(app.store, app.cluster, live, seen.views, time.time(), unreadable)
        expected = forecast(queue, found.id)
        reasons = scheduling.why(queue, found.id)
    if as_json:
        document = {"id": found.id, "state": found.state.value, "reasons": list(reasons), "attended": app.attended()}
        print_json(document | {"starts_at": stamp(expected.at), "never_starts": expected.never})
        return
    said = "" if expected.never else expected.text  # the first reason tells it
    print_hanging("", state_in_words(found) + (f": {said}" if said else ""))
    for reason in reasons:
        print_hanging("  - ", reason)
    tell_unsettled([record], [found])
    if waits and not expected.never and (told := app.unattended([found])):
        print_hanging("", told, dim=True)


def _why_there(app: App, job: Job) -> tuple[str, ...]:
    """What was written down when its latest attempt was placed, and what became of it."""
    told: dict[str, None] = {}
    for event in app.store.events(job.id):
        if event.kind in QUEUED:
            told.clear()
        elif event.kind in (EventKind.STARTING, EventKind.PLACED):
            told[event.message] = None
    asked = "cancel was asked for, and goes on until every node confirms" if job.wish else ""
    return (*told, *(words for words in (asked, job.reason, job.alert) if words)) or ("it never started",)
