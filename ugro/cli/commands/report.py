"""`ugro report`: a job in one HTML file: curves, events, diagnosis, spec and the ends of its logs."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from ugro import __version__
from ugro.cli.app import App, command
from ugro.cli.complete import complete_job
from ugro.cli.render.report import report_page
from ugro.cli.several import one_job
from ugro.common.errors import InputError, UgroError
from ugro.common.models.job_state import JobState
from ugro.common.models.metrics import Axis
from ugro.common.text import printable
from ugro.service.schemas.checkpoints import Checkpoints
from ugro.service.schemas.codec import iso
from ugro.service.schemas.explain import Explain
from ugro.service.schemas.history import GpuHistoryDocument, History
from ugro.service.schemas.jobs import JobDocument
from ugro.service.schemas.logs import LogLines, ReadLogs
from ugro.service.schemas.metrics import Metrics
from ugro.service.schemas.queries import Events, ShowJob

PIXELS = 1200
"""Width of a chart: a longer series is thinned to what that shows."""

LOG_LINES = 200
"""Last lines of each rank's log in a report."""


@command()
@click.argument("job", shell_complete=complete_job)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write to this file instead of stdout.")  # fmt: skip
def report(app: App, job: str, output: Path | None) -> None:
    """Write a report of a job: one HTML file that needs no server.

    It has the curves, the use of the GPUs, the events, why the job failed, its spec, and the end of each rank's log.
    A browser opens it offline.
    """
    if output is None and sys.stdout.isatty():
        raise InputError("a terminal cannot show the report", f"ugro report {job} > {job}.html")
    job = one_job(app, "report", job)
    documents = dict(_documents(app, job))
    shown = documents["job"]
    page = report_page(f"{shown['id']} {shown['name']} · UGRO", documents)
    if output is None:
        click.echo(page, nl=False)
        return
    try:
        output.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{output} cannot be written: {error.strerror}", "name another file: --output FILE") from None


def _documents(app: App, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the documents as the API has them under these paths. What cannot be had now is left out."""
    job = app.call(ShowJob(job=name)).answer
    path = f"/jobs/{job.id}"
    yield "version", __version__
    yield "made_at", iso(time.time())
    yield "job", job.as_json()
    yield f"{path}/events", [one.as_json() for one in app.call(Events(job=job.id, everything=True)).answer]
    with contextlib.suppress(UgroError):
        for axis in Axis:
            curves = app.call(Metrics(job=job.id, x=axis, pixels=PIXELS))
            yield f"{path}/metrics?x={axis.value}", curves.as_json()
    if job.state == JobState.FAILED:
        with contextlib.suppress(UgroError):
            yield f"{path}/explain", app.call(Explain(job=job.id)).answer.as_json()
    with contextlib.suppress(UgroError):
        yield f"{path}/checkpoints", [one.as_json() for one in app.call(Checkpoints(job=job.id)).checkpoints]
    if begun := job.launched_at or job.started_at:
        with contextlib.suppress(UgroError):
            until = job.ended_at or time.time()
            found = app.call(History(nodes=job.nodes, since=begun)).answer
            for node in job.nodes:
                gpus = [gpu for gpu in found if gpu.node == node]
                yield f"/nodes/{quote(node)}/history", [_until(gpu, until).as_json() for gpu in gpus]
    with contextlib.suppress(UgroError):
        yield f"{path}/logs", _log_ends(app, job)


def _until(gpu: GpuHistoryDocument, end: float) -> GpuHistoryDocument:
    return replace(gpu, samples=tuple(one for one in gpu.samples if one.at <= end))


def _log_ends(app: App, job: JobDocument) -> list[dict[str, Any]]:
    """Return the last lines of each rank, and of torchrun where it says why."""
    ends: dict[tuple[int, int], list[str]] = {}
    for update in app.stream(ReadLogs(job=job.id, tail=LOG_LINES)):
        if isinstance(update, LogLines):
            for line in update.lines:
                key = (1 if line.rank is None else 0, (line.node_rank or 0) if line.rank is None else line.rank)
                ends.setdefault(key, []).append(printable(line.text))
    nodes = dict(enumerate(job.nodes))
    return [
        {"rank": None if other else number, "node": nodes.get(number) if other else None, "lines": lines[-LOG_LINES:]}
        for (other, number), lines in sorted(ends.items())
    ]
