"""`ugro logs`, and following a job: its lines as they come, and how it stands.

Closing this view changes nothing about the job; `ugro logs -f` picks it up again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import click
from rich.console import Console

from ugro.cli.app import App, Whole, attempt_option, command, json_option, moment_option
from ugro.cli.complete import complete_job, complete_node
from ugro.cli.numbered import Numbered, numbered_lines
from ugro.cli.offer import offer
from ugro.cli.output import console, print_hanging, print_json_list
from ugro.cli.render.attention import unattended
from ugro.cli.render.files import tell_outputs
from ugro.cli.render.live import Following
from ugro.cli.render.logs import print_lines, print_numbered, words_of_left_out
from ugro.cli.render.notices import tell_going_on
from ugro.cli.several import one_job
from ugro.common.errors import InputError
from ugro.common.models.job_state import JobState
from ugro.common.text import printable
from ugro.service.schemas.jobs import JobDocument
from ugro.service.schemas.logs import Follow, JobUpdate, LogLine, LogLines, LogPart, LogsEnd, ReadLogs
from ugro.service.words import title


@command()
@click.argument("job", required=False, shell_complete=complete_job)
@click.option("-f", "--follow", "following", is_flag=True, help="Follow until the job has ended.")
@click.option("--rank", type=Whole(min=0), help="Only this rank.")
@click.option("--node", shell_complete=complete_node, help="Only ranks on this node.")
@click.option("--since", callback=moment_option, metavar="TIME",
              help="Only what arrived here since: 10m (ago), 22:30; some of it may be older.")  # fmt: skip
@click.option("--tail", type=Whole(min=0), metavar="N", help="Only the last N lines.")
@click.option("--since-line", type=Whole(min=1), metavar="N", help="Only from line N of each rank on.")
@click.option("--grep", metavar="TEXT", help="Only lines that contain TEXT.")
@click.option("--regex", is_flag=True, help="With --grep: TEXT is a regular expression.")
@click.option("--torchrun", is_flag=True, help="Also the output of torchrun, or of another launcher, on each node.")
@click.option("--setup", is_flag=True, help="Only what the setup command printed on each node.")
@attempt_option
@json_option
def logs(
    app: App,
    job: str | None,
    following: bool,
    rank: int | None,
    node: str | None,
    since: float | None,
    tail: int | None,
    since_line: int | None,
    grep: str | None,
    regex: bool,
    torchrun: bool,
    setup: bool,
    attempt: int | None,
    as_json: bool,
) -> int:
    """Show the output of a job's ranks.

    JOB is an id or a name. Default: the job that was submitted last. The lines of all ranks are interleaved, each
    with its rank, after those of the setup command. With --since-line or --grep they come rank by rank, with their
    numbers.
    """
    if regex and grep is None:
        raise InputError("--regex says how --grep reads its text", "add --grep TEXT")
    job = one_job(app, "logs", job, as_json)
    if since_line is not None or grep is not None:
        numberless = {"--follow": following, "--tail": tail is not None, "--torchrun": torchrun, "--setup": setup}
        _refuse_with_numbers(numberless | {"--node": node is not None, "--since": since is not None})
        _print_numbered(app, Numbered(job, attempt, rank, since_line or 1, grep, regex), as_json)
        return 0
    if setup and (rank is not None or torchrun):
        other = "--torchrun" if torchrun else "--rank"
        raise InputError(f"--setup shows no output of ranks and cannot be combined with {other}")
    if as_json and following:
        raise InputError("--json prints one document and cannot be combined with --follow")
    asked: dict[str, Any] = {"job": job, "rank": rank, "tail": tail, "torchrun": torchrun, "setup": setup}
    asked |= {"attempt": attempt, "node": node, "since": since}
    if following:
        return _until_ended(app, Follow(**asked))
    request = ReadLogs(**asked)
    if as_json:
        print_json_list(line.as_json() for line in _lines(app, request))
    else:
        _print_what_is_there(app, request)
    return 0


def _refuse_with_numbers(options: dict[str, bool]) -> None:
    for option, given in options.items():
        if given:
            raise InputError(f"--since-line and --grep show numbered lines and cannot be combined with {option}")


def _print_numbered(app: App, wanted: Numbered, as_json: bool) -> None:
    left_out: list[LogPart] = []
    lines = numbered_lines(app, wanted, left_out)
    if as_json:
        print_json_list(line.as_json() for line in lines)
    else:
        print_numbered(console(), lines)
    for part in left_out:
        click.echo(words_of_left_out(part), err=True)


def _lines(app: App, request: ReadLogs) -> Iterator[LogLine]:
    """Return the lines of the ranks, and torchrun's own only where they are asked for."""
    for update in app.stream(request):
        if isinstance(update, LogLines) and not update.explains:
            yield from update.lines


def _print_what_is_there(app: App, request: ReadLogs) -> None:
    out = console()
    with closing(app.stream(request)) as updates:
        for update in updates:
            if isinstance(update, LogLines):
                print_lines(out, update)
            else:
                _tell_end(update)
                if told := unattended(app, [update.job]):
                    print_hanging("", told, err=True, dim=True)


def _tell_end(end: LogsEnd) -> None:
    job = end.job
    if job.reason and not job.state.ended:
        click.echo(f"{title(job)}: {printable(job.reason)}", err=True)
    if end.missing:
        click.echo(printable(end.missing), err=True)
    _tell_unreadable(end)


def _tell_unreadable(end: LogsEnd) -> None:
    for error in end.unreadable:
        click.echo(f"{printable(error.message)}: its output since then is missing here", err=True)


def _until_ended(app: App, request: Follow) -> int:
    ended = follow(app, request, console())
    if ended.state == JobState.SUCCEEDED and ended.outputs:
        tell_outputs(ended)
    if offer(app, ended.id):
        click.echo(f"  ugro logs -f {ended.id}")
    return 0 if ended.state == JobState.SUCCEEDED else 1


def follow(app: App, request: Follow, out: Console) -> JobDocument:
    """Print a job's log lines until it has ended, and on a terminal how it stands; return it as it ended."""
    seen: JobDocument | None = None
    try:
        with closing(app.stream(request)) as updates, Following(out) as shown:
            for update in updates:
                match update:
                    case JobUpdate():
                        seen = update.job
                        shown.update(update)
                    case LogLines():
                        print_lines(out, update)
                    case LogsEnd():
                        _tell_unreadable(update)
    except KeyboardInterrupt:
        if seen and not seen.state.ended:
            tell_going_on(seen)
        raise
    if seen is None:
        raise AssertionError("a job is followed to its end, which is the last item")
    return seen
