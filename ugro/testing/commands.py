"""`ugro` commands that are forked from one process: what takes most of a second, the imports, is done once.

As a program this reads commands in JSON lines, `[number, {args, cwd, env, …}]`, and answers each with
`[number, {status, stdout, stderr}]`.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import itertools
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel

import ugro.api_server
import ugro.cli
import ugro.control_plane
import ugro.nodes
import ugro.service
from ugro.cli.main import main
from ugro.common.models.checking import adapter
from ugro.control_plane.diagnosis.searching import entry_of
from ugro.service.schemas.jobs import AttemptSummary, JobDocument
from ugro.service.schemas.nodes import NodeDocument
from ugro.testing.entering import Entrance, enter

Ugro = Callable[..., "subprocess.CompletedProcess[str]"]
"""Runs `ugro` with these words; `cwd`, `env` (all of it), `input` and a `place` to enter may be given."""

Ask = Callable[..., dict[str, Any]]
"""Asks a process that runs PROGRAM for a command, and gives its answer."""

PROGRAM = [sys.executable, "-P", "-m", "ugro.testing.commands"]  # no file of the project is taken for a module

FOR_NODES = (".on_node", ".gpu_jobs.")
"""Parts of the names of modules that no command imports: they are sent to nodes, and some of them begin with torch."""


@contextmanager
def commands(cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Iterator[Ugro]:
    """A `ugro` whose commands are forked from a process in that folder and with that whole environment."""
    with program(cwd, env) as ask:
        yield ugro_of(ask)


@contextmanager
def program(cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Iterator[Ask]:
    """A process in that folder and with that whole environment, from which commands are forked."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(PROGRAM, cwd=cwd, env=env, stdin=pipe, stdout=pipe, text=True)
    with process, answering(process) as ask:
        yield ask


def ugro_of(ask: Ask) -> Ugro:
    """A `ugro` whose commands are forked from a process that runs PROGRAM."""

    def run(
        *args: str,
        cwd: str | Path = ".",
        env: Mapping[str, str] | None = None,
        input: str = "",
        place: Entrance | None = None,
    ) -> subprocess.CompletedProcess[str]:
        answer = ask(args=args, cwd=str(cwd), env=env, input=input, place=place)
        return subprocess.CompletedProcess(args, answer["status"], answer["stdout"], answer["stderr"])

    return run


@contextmanager
def answering(process: subprocess.Popen[str]) -> Iterator[Ask]:
    """Ask a process that serves; it is ended when the block is left."""
    assert process.stdin and process.stdout
    asked, answered, numbers = process.stdin, process.stdout, itertools.count()

    def ask(**command: Any) -> dict[str, Any]:
        number = next(numbers)
        asked.write(json.dumps([number, command]) + "\n")
        asked.flush()
        answer: dict[str, Any]
        while True:
            of, answer = json.loads(answered.readline())
            if of == number:  # and not what a test that ran out of time asked
                return answer

    try:
        yield ask
    finally:
        with suppress(OSError):
            process.communicate("", timeout=20)


def document(done: subprocess.CompletedProcess[str]) -> Any:
    """The JSON on stdout of a command that succeeded."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def until(look: Callable[[], Any], seconds: float = 60) -> Any:
    """Look again until there is something to see; returns it."""
    end = time.monotonic() + seconds
    while (began := time.monotonic()) < end:
        if seen := look():
            return seen
        took = time.monotonic() - began
        time.sleep(max(0.1, 2 * took))  # what is waited for needs the processor more than the looks do
    raise AssertionError(f"not seen within {seconds} s")


def run(
    args: list[str],
    cwd: str = ".",
    env: Mapping[str, str] | None = None,
    input: str = "",
    place: Entrance | None = None,
    prepare: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """One command in a process of its own, which prepares itself. `env` is its whole environment, ours if None.

    With a `place` it enters namespaces before all else.
    """
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(input.encode())
        given.seek(0)
        pid = os.fork()
        if pid == 0:
            stdin = given.fileno() if input else os.open(os.devnull, os.O_RDONLY)
            _be(args, cwd, env, place, prepare, (stdin, out.fileno(), err.fileno()))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        for file in (out, err):
            file.seek(0)
        return {"status": status, "stdout": out.read().decode(), "stderr": err.read().decode()}


def begin(
    carrier: int, args: list[str], cwd: str, env: Mapping[str, str], place: Entrance | None = None
) -> dict[str, Any]:
    """A command that is not waited for, with the output of a process that waits for its status on stdin.

    What watches over it is the answer's `watcher`.
    """
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    told = os.open(f"/proc/{carrier}/fd/0", os.O_WRONLY)
    if watcher := os.fork():
        os.close(told)
        return {"watcher": watcher}
    out, err = (os.open(f"/proc/{carrier}/fd/{number}", os.O_WRONLY) for number in (1, 2))
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):  # where commands come from, and answers go
        os.dup2(nothing, number)
    pid = os.fork()
    if pid == 0:
        os.close(told)
        sys.stdout, sys.stderr = (os.fdopen(file, "w", 1, "utf-8", closefd=False) for file in (out, err))
        _be(args, cwd, env, place, lambda: None, (nothing, out, err))
    os.write(told, f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n".encode())
    os._exit(0)


def _be(
    args: list[str],
    cwd: str,
    env: Mapping[str, str] | None,
    place: Entrance | None,
    prepare: Callable[[], None],
    stdio: Sequence[int],
) -> NoReturn:
    """Become that command."""
    for number, file in enumerate(stdio):
        os.dup2(file, number)
    if place:
        enter(place)
    os.chdir(cwd)
    if env is not None:
        os.environ.clear()
        os.environ.update(env)
    sys.argv = ["ugro", *args]
    prepare()
    try:
        main()
    except SystemExit as ended:
        _leave(ended.code)
    _leave(0)


def _leave(status: Any) -> NoReturn:
    """End a forked process as Python does, but do not take apart all that was imported before."""
    gc.collect()  # what was left open is complained of
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status or 0)


def serve(run: Callable[..., dict[str, Any]]) -> None:
    """Answer the commands on stdin until there are no more."""
    for package in (ugro.cli, ugro.api_server, ugro.service, ugro.control_plane, ugro.nodes):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not any(part in module.name for part in FOR_NODES):
                importlib.import_module(module.name)
    build_models()
    for document in CHECKED:
        adapter(document)
    entry_of("")  # it builds what all logs are searched for
    gc.freeze()
    for line in sys.stdin:
        number, command = json.loads(line)
        print(json.dumps([number, run(**command)]), flush=True)


CHECKED: tuple[Any, ...] = (AttemptSummary, JobDocument, NodeDocument)
"""Documents that most commands make of records, and so check."""


def build_models(base: type[BaseModel] = BaseModel) -> None:
    """Build the validators of UGRO's models. Else each fork builds those that it needs, which is half its work."""
    for model in base.__subclasses__():
        if model.__module__.startswith("ugro.") and not model.__pydantic_generic_metadata__["parameters"]:
            model.model_rebuild()
        build_models(model)


def answer(**command: Any) -> dict[str, Any]:
    """One command, which is waited for unless it has a carrier."""
    return begin(**command) if "carrier" in command else run(**command)


if __name__ == "__main__":
    serve(answer)
