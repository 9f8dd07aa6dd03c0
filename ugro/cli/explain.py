"""`ugro explain`: why a job, or any training whose logs are at hand, ended badly."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import io
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import click
from click.shell_completion import CompletionItem

from ugro.cli.app import App, attempt_option, command, json_option
from ugro.cli.complete import complete_file, complete_job
from ugro.cli.output import print_json
from ugro.common.errors import InputError, InventoryError
from ugro.common.models.job import FirstFailure, Job, JobState
from ugro.common.text import clock, printable
from ugro.control_plane.diagnosis import Finding, Reader, diagnose, explain
from ugro.control_plane.diagnosis.causes import CAUSES, Advice
from ugro.control_plane.metadata_store.log_ends import node_log, rank_log
from ugro.control_plane.scheduler.attempts import in_attempt, next_after

if TYPE_CHECKING:
    from ugro.control_plane.controller.tick import Controller
    from ugro.nodes.pool import Pool

LOGS_WITHIN = 10.0
"""Seconds that a node has to bring the end of an earlier attempt's logs."""

CHUNK = 1024 * 1024
GZIP = b"\x1f\x8b"
QUOTE_WIDTH = 300
LAST_WORDS = 5
"""Lines that are quoted from the end of a log that does not say why."""

# rank-3.log, and the folders of torchrun --log-dir
_RANK_IN_NAME = re.compile(r"(?i:rank)[-_]?(\d{1,6})[^/]*$|attempt_\d+/(\d{1,6})/std(?:out|err)\.log$")


def _complete_what(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    return (complete_file if ctx.params.get("logs") else complete_job)(ctx, param, incomplete)


@command(name="explain")
@click.argument("what", nargs=-1, metavar="JOB | --log FILE...", shell_complete=_complete_what)
@click.option("--log", "logs", is_flag=True, help="Explain log files (- is stdin), also of a run UGRO never saw.")
@attempt_option
@json_option
def explain_(app: App, what: tuple[str, ...], logs: bool, attempt: int | None, as_json: bool) -> None:
    """Why JOB (id or name) failed; or, with --log, why the run failed that wrote the FILEs.

    Several FILEs are the logs of one run. A rank is taken from a name such as rank-3.log where the lines have none.
    It reads and changes nothing.
    """
    if logs and not what:
        raise click.UsageError("--log needs at least one FILE, or - for stdin")
    if not logs and len(what) != 1:
        raise click.UsageError("one JOB is expected, or --log and the FILEs of a run")
    if logs and attempt is not None:
        raise click.UsageError("--attempt is one of a JOB, so it does not go with --log")
    if what.count("-") > 1:
        raise click.UsageError("stdin can be read once")
    if logs:
        _print(_of_logs(what), as_json)
        return
    from ugro.cli.looking import (  # here, since they reach nodes, and --log has no need of that
        as_it_is,
        tell_proposals,
        tell_unsettled,
    )

    record = app.store.jobs.find(what[0])
    found = in_attempt(record, attempt)
    with contextlib.suppress(InventoryError):  # without an inventory what is here has to do
        if found.attempt != record.attempt:
            _bring_logs(app, found)
        elif record.state.on_nodes:
            found = as_it_is(app, record)
    _print(_of_job(app, found, record), as_json)
    if not as_json and found.attempt == record.attempt:
        tell_unsettled([record], [found])
        tell_proposals(app, [found])


def _print(document: dict[str, Any], as_json: bool) -> None:
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
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{name}: {reason}", "name a log file that you can read") from None
    return _document(explain(reader.evidence))


@contextlib.contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    """A log, also one that logrotate has compressed."""
    if name == "-":
        if sys.stdin is None:  # as Python has it where it was closed
            raise InputError("stdin is closed", "name a log file")
        stdin = io.BufferedReader(cast(io.RawIOBase, sys.stdin.buffer))
        yield _plain(stdin)
        stdin.detach()  # it is not ours to close
        return
    with open(name, "rb") as file:
        yield _plain(file)


def _plain(file: io.BufferedReader[Any]) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if file.peek(2)[:2] == GZIP else file


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def _bring_logs(app: App, job: Job) -> None:
    """Bring the ends of an earlier attempt's logs, where that of the rank that failed never came here."""
    rank = job.first_failure.rank if job.first_failure else None
    if any(app.store.jobs.files(job.id).logs(job.attempt).glob("*.log" if rank is None else f"rank-{rank}.log")):
        return

    async def bring(controller: Controller, _: Pool) -> None:
        with app.store.optional():
            await controller.logs_of(job).bring_ends(LOGS_WITHIN)

    app.run(bring)


def _of_job(app: App, job: Job, record: Job) -> dict[str, Any]:
    """The record says which rank failed first and why; its log says where and in which words."""
    from ugro.cli.aftermath import NOTHING, aftermath, of_earlier  # here, since they reach nodes, and --log needs none

    followed_by = next_after(record, job.attempt)
    found = _finding(app, job, f" --attempt {job.attempt}" if followed_by else "")
    if found and (earlier := next((past for past in record.past if past.attempt == job.attempt), None)):
        found = dataclasses.replace(found, consequences=earlier.followed)
    failure = job.first_failure if found else None
    document = _document(found) | {
        "job": job.id,
        "state": job.state.value,
        "attempt": job.attempt,
        "node": (failure.node or None) if failure else None,
        "exit_code": failure.exit_code if failure else None,
        "signal": failure.signal if failure else None,
    }
    if found is None and job.state == JobState.UNKNOWN:
        silent = f"{job.reason or 'a node of it does not answer'}, since {clock(job.unknown_since)}"
        document |= {"message": silent, "suggestion": "look at the node: ugro check; what it ran may still go on"}
    if followed_by:
        return document | of_earlier(app, job, followed_by)
    told = found is not None or job.state == JobState.UNKNOWN
    after = aftermath(app, job, found.cause if found else None) if told else NOTHING
    if after["earlier_failures_here"]:
        document["retry_helps"] = False
    return document | after


def _finding(app: App, job: Job, which: str) -> Finding | None:
    """Why it ended badly, or does not go on; None where nothing shows that. `which`: the option for its attempt."""
    failure = job.first_failure
    if job.alert and not job.state.ended:
        advice = Advice(
            CAUSES["hang"].words,
            f"see where each rank stands: ugro stacks {job.id}; to end it: ugro cancel {job.id}, and ugro explain "
            f"{job.id} then tells how to go on",
            CAUSES["hang"].retry_helps,
        )
        return Finding("hang", job.alert, evidence=(job.alert,), own_advice=advice)
    if job.state == JobState.CANCELLED and failure is None:
        return Finding("cancelled", job.reason or "it was cancelled")
    if job.state not in (JobState.FAILED, JobState.CANCELLED):
        return None
    if failure is None:
        return Finding("unknown", job.reason, evidence=(job.reason,) if job.reason else ())
    found = _in_its_words(job, failure, app.store.jobs.files(job.id).logs(job.attempt), which)
    return dataclasses.replace(found, consequences=job.followed, rank=failure.rank)


def _in_its_words(job: Job, failure: FirstFailure, folder: Path, which: str) -> Finding:
    """What the log of the rank (or of torchrun on the node) shows; where that is something else, the record's words."""
    shares = job.placement.shares if job.placement else ()
    node_rank = next((share.node_rank for share in shares if share.node == failure.node), 0)
    log = node_log(folder, node_rank) if failure.rank is None else rank_log(folder, failure.rank)
    if failure.cause == "unknown":
        return _last_words(job, failure, log, which)
    found = diagnose(log, failure.exit_code, failure.signal)
    recorded = Finding(failure.cause, failure.message, evidence=(failure.message,))
    return found if found.cause == failure.cause else recorded


def _last_words(job: Job, failure: FirstFailure, log: str, which: str) -> Finding:
    """Where the log does not say why: how the process ended, the last lines of its log, and where to look."""
    said = [line for text in log.splitlines()[-100:] if (line := printable(text).strip())]
    rank = "" if failure.rank is None else f" --rank {failure.rank}"
    read = f"read what came before: ugro logs {job.id}{which}{rank} --tail 200"
    code = f"; look in the script for what exits with {failure.exit_code}" if failure.exit_code else ""
    advice = Advice(CAUSES["unknown"].words, read + code, CAUSES["unknown"].retry_helps)
    return Finding("unknown", failure.message, evidence=tuple(said[-LAST_WORDS:]), own_advice=advice)


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
    """One screen: what, where, the lines that show it, what followed, what was lost, and what to do."""
    cause = document["cause"]
    which = f", attempt {document['attempt']}" if document.get("next_attempt") else ""
    job = f"{document['job']}{which} ({document['state']}): " if "job" in document else ""
    if cause is None and not document["message"]:
        well = document.get("state") == JobState.SUCCEEDED
        click.echo(job + ("it ended well" if well else "nothing shows that it ended badly"))
        return
    if cause is None:
        click.echo(job + printable(document["message"]))
    else:
        click.echo(job + click.style(CAUSES[cause].words, fg="red", bold=True) + f" ({cause})")
    for name, words in _facts(document):
        click.echo(f"  {name:<5} {words}")
    for line in document["evidence"]:
        click.echo(f"  │ {printable(line)[:QUOTE_WIDTH]}")
    if document["consequences"]:
        click.echo(f"  and {document['consequences']} more that only followed from it")
    if "job" in document:
        from ugro.cli.aftermath import show_aftermath

        show_aftermath(document)
    click.echo(f"{click.style('next:', fg='cyan')}   {printable(document['suggestion'])}")
    if next_attempt := document.get("next_attempt"):
        click.echo(f"then:   attempt {next_attempt['attempt']} from {next_attempt['from']}: {next_attempt['state']}")
    elif cause is not None:
        click.echo(f"retry:  {_retry(document)}")
    if document.get("resume"):
        changes = f"   ({printable('; '.join(document['changes']))})" if document["changes"] else ""
        click.echo(f"resume: {printable(document['resume'])}{changes}")


def _facts(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Which rank, how it ended where nothing else tells, and where in the script."""
    if document["cause"] is not None and (
        document["rank"] is not None or document.get("node") or "job" not in document
    ):
        rank = "not known" if document["rank"] is None else str(document["rank"])
        yield "rank", rank + (f" on {printable(document['node'])}" if document.get("node") else "")
    if document["cause"] == "unknown" and document.get("signal"):
        yield "ended", f"by SIG{printable(document['signal'])}"
    elif document["cause"] == "unknown" and document.get("exit_code") is not None:
        yield "ended", f"with exit code {document['exit_code']}"
    elif document["cause"] == "unknown" and "job" in document and document["message"]:
        yield "ended", printable(document["message"])
    if document["where"]:
        yield "at", printable(document["where"])


def _retry(document: dict[str, Any]) -> str:
    if times := document.get("earlier_failures_here"):
        step = "" if document["step"] is None else f" (step {document['step']})"
        return f"will not help by itself: this is the {_ordinal(times + 1)} time here{step}"
    return "may help" if document["retry_helps"] else "will not help as it is"


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")
