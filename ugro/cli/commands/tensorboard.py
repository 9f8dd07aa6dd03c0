"""`ugro tensorboard`: runs TensorBoard of this machine over the event files of jobs."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from ugro.cli.app import App, Whole, command, json_option
from ugro.cli.link import browser_option, show_link
from ugro.cli.output import print_hanging, print_json
from ugro.cli.several import JobChoice, choose, jobs_arguments
from ugro.common.errors import EXIT_OK, InputError
from ugro.common.job_names import LAST
from ugro.common.text import bytes_in_words, printable
from ugro.service.schemas.naming import ChosenJob
from ugro.service.schemas.tensorboard import BringEventFiles, EventFiles, TensorBoardLink

EVERY = 15.0
"""Seconds between two copies from jobs that run; TensorBoard itself looks for new data every 30 s."""

READY_WITHIN = 60.0
"""Seconds in which TensorBoard has to listen: it imports much."""

STOP_WITHIN = 5.0
HIGHEST_PORT = 65535
LOOPBACK = "127.0.0.1"


@command()
@jobs_arguments("[JOB]...", consent=False)
@click.option("--port", type=Whole(min=0, max=HIGHEST_PORT), default=0, metavar="LOCAL",
              help="Port of this machine. Default: a free one.")  # fmt: skip
@browser_option
@json_option
def tensorboard(app: App, choice: JobChoice, port: int, no_browser: bool, as_json: bool) -> int:
    """Show the event files of jobs in TensorBoard, on this machine.

    JOB is an id, a name or a pattern like 'lr-*'. Default: the job that was submitted last. Files named
    events.out.tfevents.* are copied from all nodes of the jobs, and every 15 s what is new of those that run. The
    copies stay with the job on this machine. Ctrl-C ends it. TensorBoard has to be installed here: pip install
    tensorboard. `ugro metrics` and the dashboard show the same curves without it.
    """
    program = _program()
    chosen = choose(app, "tensorboard", choice, as_json, default=LAST)
    chosen.checked()
    jobs = _folders([one.job for one in chosen.found if one.job])
    _require_free(port)
    with tempfile.TemporaryDirectory(prefix="ugro-tensorboard-") as name:
        folder = Path(name)
        found = _bring(app, jobs, folder, as_json)
        if all(one.ended and not one.files for one in found):
            _refuse_nothing(found)
        try:
            with _serving([*program, "--logdir", name, "--host", LOOPBACK], port, folder / ".log") as (url, server):
                _tell(url, folder, found, no_browser, as_json)
                _follow(app, server, {one.id: jobs[one.id] for one in found if not one.ended}, folder)
        except KeyboardInterrupt:  # the way to end it
            click.echo(err=True)
    return EXIT_OK


def _program() -> list[str]:
    """Return the command of TensorBoard: that of UGRO's own environment, else the one in PATH.

    Raises:
        InputError: there is none.
    """
    if importlib.util.find_spec("tensorboard"):
        return [sys.executable, "-m", "tensorboard.main"]
    if found := shutil.which("tensorboard"):
        return [found]
    raise InputError(
        "TensorBoard is not installed on this machine",
        "pip install tensorboard; `ugro metrics JOB` and the dashboard show the same curves without it",
    )


def _require_free(port: int) -> None:
    """See that a port can be used, before files are copied.

    Raises:
        InputError: it cannot.
    """
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((LOOPBACK, port))
        except OSError as error:
            raise InputError(
                f"port {port} of this machine cannot be used: {error.strerror}", "leave out --port for a free one"
            ) from None


def _free_port() -> int:
    with socket.socket() as tried:
        tried.bind((LOOPBACK, 0))
        number: int = tried.getsockname()[1]
        return number


# --- files -----------------------------------------------------------------------------------------------------------


def _folders(jobs: Sequence[ChosenJob]) -> dict[str, str]:
    """Return by job the folder in which TensorBoard finds it: its name, with its id where several have that name."""
    names = Counter(job.name for job in jobs)
    return {job.id: job.name if names[job.name] == 1 else f"{job.name}-{job.id}" for job in jobs}


def _bring(app: App, jobs: Mapping[str, str], folder: Path, as_json: bool) -> list[EventFiles]:
    """Copy what is new of these jobs, each to its folder."""
    found = list[EventFiles]()
    for job, name in jobs.items():
        one = app.call(BringEventFiles(job=job, shown=str(folder / name)))
        found.append(one)
        if as_json:
            continue
        if one.received:
            click.echo(f"{one.id}: event files: {one.files}, new: {bytes_in_words(one.received)}", err=True)
        for error in one.errors:
            print_hanging(f"{one.id}: ", f"{error.message}; what was copied before is shown", err=True)
    return found


def _refuse_nothing(found: Sequence[EventFiles]) -> None:
    """Raise what came in the way, else that there are no event files."""
    jobs = ", ".join(one.id for one in found)
    hint = f"does the script write below its working directory? See: ugro ls {found[0].id}; or: ugro metrics"
    raise InputError(f"{jobs}: no files named events.out.tfevents.*", hint)


def _follow(app: App, server: subprocess.Popen[bytes], live: dict[str, str], folder: Path) -> None:
    """Copy what is new until TensorBoard ends.

    Raises:
        InputError: it ended by itself.
    """
    while True:
        try:
            server.wait(EVERY)
        except subprocess.TimeoutExpired:
            for job, name in tuple(live.items()):
                if app.call(BringEventFiles(job=job, shown=str(folder / name))).ended:
                    del live[job]
        else:
            raise _ended(server, folder / ".log")


# --- the server ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _serving(words: list[str], port: int, log: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run TensorBoard, and end it with its children. Yields its address once it listens.

    Raises:
        InputError: it does not come to that.
    """
    port = port or _free_port()
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*words, "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + READY_WITHIN
        while not _listens(port):
            if server.poll() is not None or time.monotonic() > end:
                raise _ended(server, log)
            time.sleep(0.1)
        yield f"http://{LOOPBACK}:{port}/", server
    finally:
        _end(server)


def _listens(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), 1).close()
    except OSError:
        return False
    return True


def _ended(server: subprocess.Popen[bytes], log: Path) -> InputError:
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    how = "does not listen" if server.poll() is None else f"ended with exit code {server.returncode}"
    said = f": {printable(lines[-1])[:300]}" if lines else ""
    return InputError(f"TensorBoard {how}{said}", "does it run by itself? python -m tensorboard.main --version")


def _end(server: subprocess.Popen[bytes]) -> None:
    """End it and its data server, which are a session of their own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOP_WITHIN)


def _tell(url: str, folder: Path, found: Sequence[EventFiles], no_browser: bool, as_json: bool) -> None:
    if as_json:
        print_json(TensorBoardLink(url=url, folder=str(folder), jobs=tuple(found)).as_json())
    else:
        click.echo("TensorBoard runs until Ctrl-C", err=True)
        show_link(url, no_browser)
    sys.stdout.flush()
