"""What is said beside an answer: that no scheduler runs, or that records are older than what nodes show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ugro.cli.output import print_hanging
from ugro.common.models.job_state import JobState
from ugro.service.schemas.jobs import JobDocument
from ugro.service.schemas.queries import Attended, Proposed

if TYPE_CHECKING:
    from ugro.cli.app import App

NO_SCHEDULER = "no scheduler is running: start `ugro serve`, or `ugro cron install`"
UNATTENDED = {
    JobState.QUEUED: f"{NO_SCHEDULER}, or call `ugro sweep` when it may start",
    JobState.RUNNING: f"{NO_SCHEDULER}; until then a failure is noticed only by a command that observes the nodes",
}
"""What is said of jobs in a state that nothing attends to, the first of these that there is."""


def unattended(app: App, jobs: Iterable[JobDocument]) -> str | None:
    """Return what to say of jobs that no scheduler attends to; None where one does, or none has to."""
    states = {JobState.RUNNING if job.state.on_nodes else job.state for job in jobs if not job.cancel_requested}
    told = next((words for state, words in UNATTENDED.items() if state in states), None)
    return None if told is None or app.call(Attended()).attended else told


def unsettled(recorded: Mapping[str, JobState], seen: Iterable[JobDocument]) -> None:
    """Say of jobs that their nodes show otherwise than their records what is still to come, and what brings it."""
    shown = {JobState.RUNNING, JobState.UNKNOWN}
    changed = [job for job in seen if job.state.ended or job.state in shown]
    changed = [job for job in changed if recorded.get(job.id, job.state) != job.state]
    failed = any(job.state == JobState.FAILED for job in changed)
    if changed:
        names = ", ".join(job.id for job in changed)
        rest = ", ends the ranks that still run, and proposes what to do" if failed else ""
        words = f"seen just now; the next scheduling pass records it{rest}: ugro sweep"
        print_hanging(f"{names}: ", words, err=True, dim=True)


def tell_proposed(proposed: Iterable[Proposed]) -> None:
    """Say what is proposed about jobs and waits for an answer."""
    for one in proposed:
        print_hanging(f"{one.job}: ", f"proposed: {one.what}", err=True)
        print_hanging("  ", f"ugro approve {one.job}   ugro deny {one.job}", err=True)
