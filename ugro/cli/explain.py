"""`ugro explain`: why a job, or any training whose logs are at hand, ended badly."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click

from ugro.cli.app import App, command, complete_job, json_option
from ugro.cli.output import print_json
from ugro.common.errors import InputError
from ugro.common.models import FirstFailure, Job, JobState
from ugro.common.text import printable
from ugro.control_plane.diagnosis import Finding, Reader, diagnose, explain
from ugro.control_plane.diagnosis.causes import CAUSES
from ugro.control_plane.evidence import node_log, rank_log

CHUNK = 1024 * 1024
QUOTE_WIDTH = 300

# rank-3.log, and the folders of torchrun --log-dir
_RANK_IN_NAME = re.compile(r"(?i:rank)[-_]?(\d{1,6})[^/]*$|attempt_\d+/(\d{1,6})/std(?:out|err)\.log$")


@command(name="explain")
@click.argument("what", nargs=-1, metavar="JOB | --log FILE...", shell_complete=complete_job)
@click.option("--log", "logs", is_flag=True, help="Explain log files (- is stdin), also of a run UGRO never saw.")
@json_option
def explain_(app: App, what: tuple[str, ...], logs: bool, as_json: bool) -> None:
    """Why JOB (id or name) failed; or, with --log, why the run failed that wrote the FILEs.

    Several FILEs are the logs of one run. A rank is taken from a name such as rank-3.log where the lines have none.
    It reads and changes nothing.
    """
    if logs and not what:
        raise click.UsageError("--log needs at least one FILE, or - for stdin")
    if not logs and len(what) != 1:
        raise click.UsageError("one JOB is expected, or --log and the FILEs of a run")
    document = _of_logs(what) if logs else _of_job(app, app.store.find(what[0]))
    if as_json:
        print_json(document)
    else:
        _show(document)


def _of_logs(names: tuple[str, ...]) -> dict[str, Any]:
    reader = Reader()
    for name in names:
        match = _RANK_IN_NAME.search(name)
        try:
            with _opened(name) as file:
                reader.read(_chunks(file), int(match[1] or match[2]) if match else None)
        except OSError as error:
            raise InputError(f"{name}: {error.strerror or error}", "name a log file that you can read") from None
    return _document(explain(reader.evidence))


def _opened(name: str) -> BinaryIO:
    return sys.stdin.buffer if name == "-" else open(name, "rb")


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def _of_job(app: App, job: Job) -> dict[str, Any]:
    """The record says which rank failed first and why; its log says where and in which words."""
    failure = job.first_failure if job.state != JobState.SUCCEEDED else None
    about = {"job": job.id, "state": job.state.value, "node": failure.node if failure else None}
    if failure is None:
        cancelled = Finding("cancelled", job.reason or "it was cancelled") if job.state == JobState.CANCELLED else None
        return _document(cancelled) | about
    folder = app.store.files(job.id).logs(job.attempt)
    others = [rank for rank in job.ranks if rank.rank != failure.rank and (rank.exit_code or rank.signal)]
    found = dataclasses.replace(_in_its_words(job, failure, folder), consequences=len(others), rank=failure.rank)
    return _document(found) | about


def _in_its_words(job: Job, failure: FirstFailure, folder: Path) -> Finding:
    """What the log of the rank (or of torchrun on the node) shows; where that is something else, the record's words."""
    shares = job.placement.shares if job.placement else ()
    node_rank = next((share.node_rank for share in shares if share.node == failure.node), 0)
    log = node_log(folder, node_rank) if failure.rank is None else rank_log(folder, failure.rank)
    found = diagnose(log, failure.exit_code, failure.signal)
    recorded = Finding(failure.cause, failure.message, evidence=(failure.message,))
    return found if found.cause == failure.cause else recorded


def _document(found: Finding | None) -> dict[str, Any]:
    """The stable JSON form (docs/diagnosis.md); for a run that ended well, `cause` is null and nothing else is said."""
    return {
        "cause": found.cause if found else None,
        "rank": found.rank if found else None,
        "evidence": list(found.evidence) if found else [],
        "suggestion": found.advice.suggestion if found else None,
        "retry_helps": found.advice.retry_helps if found else None,
        "message": found.message if found else None,
        "where": found.where if found else None,
        "facts": found.facts if found else {},
        "consequences": found.consequences if found else 0,
    }


def _show(document: dict[str, Any]) -> None:
    """One screen: what, where, the lines that show it, what followed, and what to do."""
    cause = document["cause"]
    job = f"{document['job']} ({document['state']}): " if "job" in document else ""
    if cause is None:
        click.echo(f"{job}nothing shows that it ended badly")
        return
    click.echo(job + click.style(CAUSES[cause].words, fg="red", bold=True) + f" ({cause})")
    rank = "not known" if document["rank"] is None else str(document["rank"])
    node = f" on {printable(document['node'])}" if document.get("node") else ""
    click.echo(f"  rank  {rank}{node}")
    if document["where"]:
        click.echo(f"  at    {printable(document['where'])}")
    for line in document["evidence"]:
        click.echo(f"  │ {printable(line)[:QUOTE_WIDTH]}")
    if document["consequences"]:
        click.echo(f"  and {document['consequences']} more that only followed from it")
    click.echo(f"{click.style('next:', fg='cyan')}  {document['suggestion']}")
    click.echo(f"retry: {'may help' if document['retry_helps'] else 'will not help as it is'}")
