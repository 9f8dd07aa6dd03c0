"""`ugro explain`: why a job, or any training whose logs are at hand, ended badly."""

from __future__ import annotations

import contextlib
import gzip
import io
import re
import sys
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import click
from click.shell_completion import CompletionItem

from ugro.cli.app import App, attempt_option, command, json_option
from ugro.cli.complete import complete_file, complete_job
from ugro.cli.output import print_json
from ugro.cli.render.attention import tell_proposed, unsettled
from ugro.cli.render.explain import print_finding
from ugro.cli.several import one_job
from ugro.common.errors import InputError
from ugro.common.job_names import LAST_FAILED
from ugro.service.schemas.explain import Explain, FailureAnswer, LogsAnswer

CHUNK = 1024 * 1024
GZIP = b"\x1f\x8b"

# rank-3.log, and the folders of torchrun --log-dir
_RANK_IN_NAME = re.compile(r"(?i:rank)[-_]?(\d{1,6})[^/]*$|attempt_\d+/(\d{1,6})/std(?:out|err)\.log$")


def _complete_what(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    return (complete_file if ctx.params.get("logs") else complete_job)(ctx, param, incomplete)


@command(name="explain")
@click.argument("what", nargs=-1, metavar="JOB | --log FILE...", shell_complete=_complete_what)
@click.option("--log", "logs", is_flag=True, help="Explain log files (- is stdin), also of runs without UGRO.")
@attempt_option
@json_option
def explain_(app: App, what: tuple[str, ...], logs: bool, attempt: int | None, as_json: bool) -> None:
    """Explain why a job failed, or any training from its logs.

    JOB is an id or a name. Default: the job that failed last. With --log, all FILEs are logs of one run. Where lines
    have no rank, it is taken from the file name, such as rank-3.log. Nothing is changed.
    """
    if logs and not what:
        raise click.UsageError("--log needs at least one FILE, or - for stdin")
    if not logs and len(what) > 1:
        raise click.UsageError("one JOB is expected, or --log and the FILEs of a run")
    if logs and attempt is not None:
        raise click.UsageError("--attempt needs a JOB and cannot be combined with --log")
    if what.count("-") > 1:
        raise click.UsageError("stdin (-) can be given only once")
    if logs:
        explained: LogsAnswer | FailureAnswer = _of_logs(what)
    else:
        job = one_job(app, "explain", what[0] if what else None, as_json, default=LAST_FAILED)
        explained = app.call(Explain(job=job, attempt=attempt))
    if as_json:
        print_json(explained.answer.as_json())
        return
    print_finding(explained.answer, explained.words)
    if not isinstance(explained, LogsAnswer):
        unsettled({explained.job.id: explained.recorded}, [explained.job])
        tell_proposed(explained.proposed)


def _of_logs(names: tuple[str, ...]) -> LogsAnswer:
    from ugro.service.findings import explain_logs  # here, since a JOB is explained elsewhere

    ranks = [match and int(match[1] or match[2]) for match in map(_RANK_IN_NAME.search, names)]
    return explain_logs((rank, _chunks(name)) for rank, name in zip(ranks, names, strict=True))


def _chunks(name: str) -> Iterator[bytes]:
    try:
        with _opened(name) as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{name}: {reason}", "name a log file that you can read") from None


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
