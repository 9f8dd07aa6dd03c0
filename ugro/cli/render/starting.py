"""Prints what is known of a job once it is queued or runs, and when the user stops following it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ugro.cli.output import print_commands, print_hanging
from ugro.cli.render.attention import unattended
from ugro.cli.render.notices import tell_going_on
from ugro.common.models.job_state import JobState
from ugro.common.text import printable, rough
from ugro.service.schemas.jobs import JobDocument
from ugro.service.schemas.starting import Expected, Started
from ugro.service.words import title

if TYPE_CHECKING:
    from ugro.cli.app import App

SOON = 30.0
"""Seconds within which a start is shown as what it waits for, and not as a time."""


def announce(app: App, started: Started, following: bool = False) -> None:
    """Say what became of a job that was just submitted, and the commands that are useful next."""
    job, expected = started.job, started.expected
    if expected:
        print_hanging("", f"Job {job.state.value} (ID: {job.id}){_expectation(expected)}")
        if not (expected.never or following) and (told := unattended(app, [job])):
            print_hanging("  ", told)
        undo = f"ugro release {job.id}" if job.state == JobState.HELD else f"ugro hold {job.id}"
        print_commands(f"ugro why {job.id}", f"ugro logs -f {job.id}", undo, f"ugro cancel {job.id}")
        return
    where = f" on {', '.join(job.nodes)}" if job.nodes else ""
    reason = f": {printable(job.reason)}" if job.reason else ""
    print_hanging("", f"{title(job)} {job.state.value}{where}{reason}")
    if not job.state.ended:
        print_commands(f"ugro logs -f {job.id}", f"ugro status {job.id}", f"ugro cancel {job.id}")
        if not following and (told := unattended(app, [job])):
            print_hanging("  ", told)


def _expectation(expected: Expected) -> str:
    if expected.at is None:
        return f": {printable(expected.text)}"
    seconds = expected.at - time.time()
    return f". Starting in ~{rough(seconds)}: {expected.text}" if seconds > SOON else f": {expected.text}"


@contextlib.contextmanager
def going_on(job: JobDocument) -> Iterator[None]:
    """Say, when the person interrupts, that the job does not end with this command."""
    try:
        yield
    except KeyboardInterrupt:
        tell_going_on(job)
        raise
