"""Canned answers about what came of jobs: their files, and a sweep."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import unquote_plus

from browser.canned_names import ARABIC, LONG, MARKUP, NOW, TURNED

from ugro.common.models.job import Job, SweepPart
from ugro.common.models.job_state import JobState
from ugro.common.models.outputs_state import OutputsState
from ugro.service.schemas.base import ErrorDocument
from ugro.service.schemas.files import FileDocument, FilesDocument, NodeFilesDocument, OutputFilesDocument
from ugro.service.schemas.jobs import OutputsDocument
from ugro.service.schemas.live import LiveJob, LiveSweep, LiveView
from ugro.service.schemas.sweeps import SweepDocument, SweptJob

SWEEP = "sweep-021"
STATES = (
    *(JobState.SUCCEEDED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED),
    *(JobState.RUNNING, JobState.RUNNING, JobState.STARTING, JobState.QUEUED, JobState.QUEUED),
)
"""Of the jobs of the sweep, job-021 and on. The first one has left the live view."""

SWEPT = "x \u202e<b>"
"""An argument whose name is hostile."""

MANY = 20_000
"""Names in the folder `many`, of which its node lists not all."""


def answer(path: str, options: dict[str, str]) -> dict[str, Any] | None:
    """Return the answer to a path; None: it is about something else."""
    if path == f"/sweeps/{SWEEP}":
        return sweep(unquote_plus(options.get("metric", "")), options.get("highest", "")).as_json()
    if path.endswith("/files"):
        return files(unquote_plus(options.get("path", "")), int(options["limit"])).as_json()
    return outputs(int(options["limit"])).as_json() if path.endswith("/outputs") else None


# --- a sweep ---------------------------------------------------------------------------------------------------------


def with_sweep(view: LiveView, basis: LiveJob) -> LiveView:
    """Return the view with the jobs of a sweep; `basis` is a job of no sweep."""
    jobs = {}
    for number, state in list(enumerate(STATES, 21))[1:]:
        fields = {"id": f"job-{number:03}", "name": f"rates-{number - 20}", "state": state, "sweep": SWEEP}
        reason = {JobState.FAILED: f"rank 0 on gpu1: {MARKUP}", JobState.QUEUED: "waits for a free GPU"}.get(state, "")
        fields |= {"reason": reason, "submitted_at": NOW - 4000 + number}
        jobs[fields["id"]] = replace(basis, **fields)
    states = {state: STATES.count(state) for state in STATES}
    short = LiveSweep(id=SWEEP, name="rates", of=len(STATES), max_parallel=3, states=states)
    return replace(view, jobs=view.jobs | jobs, sweeps={SWEEP: short})


def sweep(metric: str, highest: str) -> SweepDocument:
    """Return the sweep, compared by a series."""
    jobs = tuple(
        SweptJob(
            id=f"job-{number + 20:03}",
            name=f"rates-{number}",
            index=number,
            state=state,
            reason=f"rank 0 on gpu1: {MARKUP}" if state == JobState.FAILED else "",
            values={"lr": f"{10**-number:.0e}", SWEPT: MARKUP if number % 2 else TURNED},
            metric=None if number > 6 else 1.5 + (number - 4) ** 2 / 10,
            last=None if number > 6 else 1.6 + (number - 4) ** 2 / 10,
        )
        for number, state in enumerate(STATES, 1)
    )
    return SweepDocument(
        id=SWEEP,
        name="rates",
        of=len(STATES),
        max_parallel=3,
        metric=metric or "eval_loss",
        metrics=("eval_loss", "loss", MARKUP, f"acc{TURNED}"),
        highest=highest == "true",
        best="job-021" if highest == "true" else "job-024",
        jobs=jobs,
    )


def part(listed: LiveJob) -> SweepPart:
    """Return the part of a job in the sweep."""
    number = int(listed.id[-3:]) - 20
    values = {"lr": f"{10**-number:.0e}", SWEPT: MARKUP}
    return SweepPart(sweep=SWEEP, name="rates", index=number, of=len(STATES), values=values, max_parallel=3)


# --- files -----------------------------------------------------------------------------------------------------------

NAMES = ("a b.bin", MARKUP, TURNED, ARABIC, LONG, "model[1].pt")


def file(path: str, kind: Any = "file", size: int = 1_500_000) -> FileDocument:
    """A name in a folder."""
    return FileDocument(path=path, kind=kind, bytes=size, modified_at=NOW - 700, executable=False)


def files(path: str, limit: int) -> FilesDocument:
    """Return what the nodes have: gpu1 with gpu-master on one disk, and gpu2 is unreachable."""
    below = f"{path}/" if path else ""
    found = [file("many", "folder"), file("out", "folder"), *(file(name) for name in NAMES), file("link", "link")]
    if path == "many":
        found = [file(f"many/{number:05}.txt", size=number) for number in range(MANY)]
    elif path:
        found = [file(f"{below}deep", "folder"), *(file(f"{below}{name}") for name in NAMES)]
    away = ErrorDocument(code="node_unreachable", message=f"gpu2 is unreachable: {MARKUP}", hint="is it on?")
    node = NodeFilesDocument(
        node="gpu1",
        same_as=("gpu-master",),
        folder="~/.ugro/jobs/job-001/code",
        exists=path != "no",
        files=tuple(found[:limit]),
        more=path == "many",
        beyond=len(found[limit:]),
        unnamed=2,
        unreadable=(f"{below}secret",),
    )
    return FilesDocument(id="job-001", attempt=1, path=path, nodes=(node,), silent=(away,))


def outputs(limit: int) -> OutputFilesDocument:
    """Return the outputs on the master: many of them."""
    found = [*(file(f"out/{name}") for name in NAMES), *(file(f"out/part-{number:03}.bin") for number in range(300))]
    folder = "/home/ob/.ugro/jobs/job-001/outputs"
    return OutputFilesDocument(id="job-001", folder=folder, files=tuple(found[:limit]), beyond=len(found[limit:]))


def declared(job: Job) -> OutputsDocument | None:
    """Return the outputs that a job declares: those that succeeded do."""
    if job.state != JobState.SUCCEEDED:
        return None
    here = {"state": OutputsState.HERE, "folder": outputs(1).folder, "files": 306, "bytes": 4_000_000_000}
    return OutputsDocument(globs=("out/**", MARKUP), problem="", **here)
