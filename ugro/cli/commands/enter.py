"""`ugro exec`, `ugro ssh` and `ugro forward`: enter a running job or a node."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator

import click

from ugro.cli.app import App, Whole, command, json_option
from ugro.cli.complete import complete_job, complete_node, complete_target
from ugro.cli.output import print_json
from ugro.common.errors import EXIT_OK, InputError
from ugro.common.text import printable
from ugro.service.schemas.entry import Execute, ExecuteOnInput, Forward, Forwarding, OpenTerminal
from ugro.service.schemas.maintenance import CommandEnd, CommandOutput

HIGHEST_PORT = 65535

rank_option = click.option("--rank", type=Whole(min=0), metavar="N", help="Where this rank runs. Default: 0.")
node_option = click.option(
    "--node", metavar="NODE", shell_complete=complete_node, help="On this node of the job instead."
)


@command(name="exec", context_settings={"ignore_unknown_options": False})
@click.argument("job", shell_complete=complete_job)
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND [ARG]...")
@rank_option
@node_option
@click.option("-t", "--tty", is_flag=True, help="Give the command this terminal, for what is interactive.")
@json_option
def exec_(
    app: App, job: str, words: tuple[str, ...], rank: int | None, node: str | None, tty: bool, as_json: bool
) -> int:
    """Run a command where a job runs: in its directory, with its environment and GPUs.

    The job's python comes first in PATH. The command is no part of the job and ends when this one does. Several words
    are passed literally. A single word is a line for /bin/sh: ugro exec job-001 -- 'ls out | wc -l'

    A pipe or file on stdin is passed on: ugro exec job-001 -- tar x < data.tar. In a loop that reads the same stdin,
    write `</dev/null`. A terminal is not: use --tty.

    Exit code: that of the command; 3 for an unreachable node.
    """
    if tty:
        if as_json:
            raise InputError("--json and --tty cannot be combined", "leave one of the two out")
        line = ("/bin/sh", "-c", *words) if len(words) == 1 else words
        return _in_terminal(app, OpenTerminal(target=job, rank=rank, node=node, words=line))
    request = ExecuteOnInput if _has_input() else Execute
    for item in app.stream(request(job=job, rank=rank, node=node, words=words, live=not as_json)):
        if isinstance(item, CommandOutput):
            _pass_on(item)
        else:
            return _ended(item, as_json)
    raise AssertionError("a command that was run has an end")


@command(name="ssh", context_settings={"ignore_unknown_options": False})
@click.argument("target", metavar="NODE|JOB", shell_complete=complete_target)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND [ARG]...]")
@rank_option
@node_option
def ssh_(app: App, target: str, words: tuple[str, ...], rank: int | None, node: str | None) -> int:
    """Open a terminal on a node, or where a job runs.

    With a job, the shell begins in its directory, with its environment and GPUs. The login is the one that UGRO uses:
    user, port, key and jump hosts are those of the inventory and of ssh_config.
    """
    return _in_terminal(app, OpenTerminal(target=target, rank=rank, node=node, words=words))


@command(name="forward")
@click.argument("target", metavar="NODE|JOB", shell_complete=complete_target)
@click.argument("ports", metavar="[LOCAL:]PORT")
@rank_option
@node_option
@json_option
def forward_(app: App, target: str, ports: str, rank: int | None, node: str | None, as_json: bool) -> int:
    """Forward a port of this machine to a port of a node, until Ctrl-C.

    Programs that listen on the node's 127.0.0.1 are reached, such as a server that the job started. LOCAL is PORT
    unless it is named; 0 is a free one. Only this machine can connect to it.
    """
    local_port, remote_port = _ports(ports)
    request = Forward(target=target, rank=rank, node=node, local_port=local_port, remote_port=remote_port)
    try:
        for one in app.stream(request):
            _tell(one, as_json)
    except KeyboardInterrupt:  # the way to end it
        click.echo("", err=True)
    return EXIT_OK


def _tell(one: Forwarding, as_json: bool) -> None:
    if as_json:
        print_json(one.as_json())
        sys.stdout.flush()
        return
    click.echo(f"http://127.0.0.1:{one.local_port} leads to port {one.remote_port} of {one.node}; Ctrl-C ends it")
    if one.problem:
        click.echo(f"note: {printable(one.problem)}; it is tried again with each connection", err=True)


def _ports(text: str) -> tuple[int, int]:
    """Read `6006` or `8080:6006`.

    Raises:
        InputError: it is neither.
    """
    match = re.fullmatch(r"(?:([0-9]{1,5}):)?([0-9]{1,5})", text)
    if match:
        remote_port = int(match[2])
        local_port = int(match[1]) if match[1] else remote_port
        if local_port <= HIGHEST_PORT and 1 <= remote_port <= HIGHEST_PORT:
            return local_port, remote_port
    raise InputError(f"{printable(text)!r} names no port", "write PORT or LOCAL:PORT, as in 6006 or 8080:6006")


def _in_terminal(app: App, request: OpenTerminal) -> int:
    """Run the command line of a terminal in this one. Returns its exit code."""
    words = app.call(request).words
    sys.stdout.flush()
    try:
        with _interrupts_left_to_it():
            return subprocess.run(words, check=False).returncode
    except FileNotFoundError:
        raise InputError(f"there is no program {words[0]!r} here", "install it: apt install openssh-client") from None


@contextlib.contextmanager
def _interrupts_left_to_it() -> Iterator[None]:
    """Leave Ctrl-C to the program in the terminal, which has its own use for it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _has_input() -> bool:
    """Return whether stdin has data to pass on: it is not a terminal, not /dev/null, and not closed."""
    try:
        found = os.fstat(sys.stdin.fileno()) if sys.stdin else None
    except (OSError, ValueError):
        return False
    if found is None or sys.stdin.isatty():
        return False
    return not stat.S_ISCHR(found.st_mode) or found.st_rdev != os.stat(os.devnull).st_rdev


def _pass_on(item: CommandOutput) -> None:
    """Pass bytes on as they are; a terminal gets no escapes of the node's."""
    stream = sys.stderr if item.stream == "stderr" else sys.stdout
    if stream.isatty():
        lines = item.data.decode("utf-8", "replace").split("\n")
        stream.write("\n".join(map(printable, lines)))
    else:
        stream.flush()
        stream.buffer.write(item.data)
    stream.flush()


def _ended(end: CommandEnd, as_json: bool) -> int:
    if as_json:
        print_json(end.answer.as_json())
    elif error := end.answer.error:
        click.echo(printable(error.message), err=True)
    return end.worst
