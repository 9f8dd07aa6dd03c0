"""`ugro` commands that are forked from one process: what takes most of a second, the imports, is done once.

As a program this reads commands in JSON lines, `{args, cwd, env, …}`, and answers each with `{status, stdout, stderr}`.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import ugro.cli
import ugro.control_plane
import ugro.nodes
import ugro.service
from ugro.cli.main import main

Ugro = Callable[..., "subprocess.CompletedProcess[str]"]
"""Runs `ugro` with these words; `cwd` and `env` (all of it) may be given."""

PROGRAM = [sys.executable, "-P", "-m", "ugro.testing.commands"]  # no file of the project is taken for a module

FOR_NODES = (".on_node", ".gpu_jobs.")
"""Parts of the names of modules that no command imports: they are sent to nodes, and some of them begin with torch."""


@contextmanager
def commands(cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Iterator[Ugro]:
    """A `ugro` whose commands are forked from a process in that folder and with that whole environment."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(PROGRAM, cwd=cwd, env=env, stdin=pipe, stdout=pipe, text=True)
    with process, ugro_of(process) as ugro:
        yield ugro


@contextmanager
def ugro_of(process: subprocess.Popen[str]) -> Iterator[Ugro]:
    """A `ugro` whose commands are forked from a process that runs PROGRAM."""

    def run(
        *args: str, cwd: str | Path = ".", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        answer = ask(args=args, cwd=str(cwd), env=env)
        return subprocess.CompletedProcess(args, answer["status"], answer["stdout"], answer["stderr"])

    with answering(process) as ask:
        yield run


@contextmanager
def answering(process: subprocess.Popen[str]) -> Iterator[Callable[..., dict[str, Any]]]:
    """Ask a process that serves; it is ended when the block is left."""
    assert process.stdin and process.stdout
    asked, answered = process.stdin, process.stdout

    def ask(**command: Any) -> dict[str, Any]:
        asked.write(json.dumps(command) + "\n")
        asked.flush()
        answer: dict[str, Any] = json.loads(answered.readline())
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
        time.sleep(max(0.1, time.monotonic() - began))  # what is waited for needs the processor more than the looks do
    raise AssertionError(f"not seen within {seconds} s")


def run(
    args: list[str], cwd: str = ".", env: Mapping[str, str] | None = None, prepare: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """One command in a process of its own, which prepares itself. `env` is its whole environment, ours if None."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            os.chdir(cwd)
            if env is not None:
                os.environ.clear()
                os.environ.update(env)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.argv = ["ugro", *args]
            prepare()
            try:
                main()
            except SystemExit as ended:
                _leave(ended.code)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        for file in (out, err):
            file.seek(0)
        return {"status": status, "stdout": out.read().decode(), "stderr": err.read().decode()}


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
    for package in (ugro.cli, ugro.service, ugro.control_plane, ugro.nodes):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not any(part in module.name for part in FOR_NODES):
                importlib.import_module(module.name)
    gc.freeze()
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), flush=True)


if __name__ == "__main__":
    serve(run)
