"""Prints on stderr what service functions report while they work."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from ugro.cli.output import console, print_hanging
from ugro.common.text import count, duration, printable, some
from ugro.service.schemas.base import Notice
from ugro.service.schemas.jobs import JobDocument
from ugro.service.schemas.notices import (
    AskedToSave,
    CodeSent,
    GpusHeld,
    GpusStillHeld,
    JobStopping,
    LeftAlone,
    LeftToNextPass,
    StepBegan,
    StepDocument,
    StepEnded,
    StillWorking,
    TellingNodes,
    TryingPython,
    WaitingForNodes,
)
from ugro.service.words import stopping_in_words

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.status import Status

SLOW_SEND_SECONDS = 1.0


class Notices:
    """Prints notices. On a terminal it draws what a call waits for, and a progress bar per node for a slow transfer."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._tasks: dict[str, Any] = {}
        self._status: Status | None = None
        self._stopping = ""

    def close(self) -> None:
        """Remove what is drawn: the call is over."""
        for drawn in (self._progress, self._status):
            if drawn:
                drawn.stop()
        self._progress, self._status, self._tasks = None, None, {}

    def tell(self, notice: Notice, seconds: float = 0.0) -> None:
        """Print a notice that comes `seconds` after the call began."""
        match notice:
            case CodeSent():
                self._draw(notice, seconds)
            case JobStopping():
                if (words := stopping_in_words(notice.asked, notice.grace)) != self._stopping:
                    self._stopping = words
                    click.echo(f"{notice.job} is stopping: {words}", err=True)
            case StillWorking():
                jobs = ", ".join(f"{job} (stopping)" if job in notice.stopping else job for job in notice.jobs)
                click.echo(f"{jobs}: still working on nodes; Ctrl-C leaves it to the next scheduling pass", err=True)
            case LeftAlone():
                tell_going_on(notice.job)
            case LeftToNextPass():
                jobs = ", ".join(notice.jobs)
                click.echo(f"{jobs}: still working on nodes; the next scheduling pass continues it", err=True)
            case GpusHeld():
                held = printable(some(notice.held, "; "))
                click.echo(f"waiting up to {duration(notice.within)} for GPUs: {held}", err=True)
            case GpusStillHeld():
                click.echo("they are not free: the job waits for them in the queue", err=True)
            case TellingNodes():
                self._wait(f"telling the nodes of {notice.job}")
            case WaitingForNodes():
                self._wait(f"waiting for {'a trial on ' if notice.trial else ''}{', '.join(notice.nodes)}")
            case TryingPython():
                self._wait(f"trying {notice.path} on {notice.node}")
            case AskedToSave():
                self._wait(_asked_to_save(notice))
            case StepBegan() | StepEnded():
                self._tell_step(notice)

    def _tell_step(self, notice: StepBegan | StepEnded) -> None:
        """Print a step; not for a program, which gets all of them in one document."""
        context = click.get_current_context(silent=True)
        if context and context.params.get("as_json"):
            return
        if self._status:
            self._status.stop()
            self._status = None
        if isinstance(notice, StepBegan):
            print_hanging("· ", f"{notice.node}: {notice.text}", err=True, dim=True)
        else:
            print_hanging("  ", step_in_words(notice.step), err=True)

    def _wait(self, words: str) -> None:
        if self._status:
            self._status.update(words)
        else:
            self._status = console(stderr=True).status(words)
            self._status.start()

    def _draw(self, sent: CodeSent, seconds: float) -> None:
        if not self._progress:
            if not sys.stderr.isatty() or seconds < SLOW_SEND_SECONDS:
                return
            self._progress = _bars()
            self._progress.start()
        if sent.node not in self._tasks:
            self._tasks[sent.node] = self._progress.add_task(f"files of {sent.node}", total=sent.total)
        self._progress.update(self._tasks[sent.node], completed=sent.done, total=sent.total)


def step_in_words(step: StepDocument) -> str:
    """Return how a step of first contact ended."""
    before = {"done": "", "already": "already: ", "skipped": f"{step.step}: skipped: ", "problem": "to correct: "}
    return f"{before[step.state]}{printable(step.text)}"


def _asked_to_save(asked: AskedToSave) -> str:
    if asked.seconds is None:
        return f"asking {asked.title} to save"
    ago, ranks = duration(asked.seconds), count(asked.signalled, "rank")
    return f"{asked.title} was asked to save {ago} ago, {ranks} got SIGUSR2; Ctrl-C ends the wait"


def _bars() -> Progress:
    # Here, since most launches send their few files at once.
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, console=console(stderr=True), transient=True)


def tell_going_on(job: JobDocument) -> None:
    """Say at Ctrl-C that the job does not end with this command."""
    goes_on = "keeps running" if job.state.on_nodes else f"is {job.state.value}"
    click.echo(err=True)
    print_hanging("", f"{job.id} {goes_on}. Follow it: ugro logs -f {job.id}. End it: ugro cancel {job.id}", True)
