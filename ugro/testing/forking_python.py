"""A `python` for simulated nodes whose short scripts are forked from one process.

Most of what such a script costs is to start Python, to import and to compile. What a node's `python` is to run as
`python - …` or `python -I …` is therefore done in a fork of this process: with the streams, folder, environment and
arguments of the process that asks, which are read from /proc. That one waits for the exit status. Where its streams
cannot be opened so, and for everything else, such as the ranks of a job, it becomes Python itself.

Most of what a short training costs is to import its libraries. With `client(MODULES)` it is scripts in files that are
forked, from a process that has these modules, and so is the Python that such a script starts: rank.py, and its rank.

As a program this answers at the named pipe `asked` in the folder that it is given, until its stdin ends.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import os
import runpy
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ugro.nodes.remote.bundle import load

ITSELF = "itself"
"""The answer to a process that has to run Python itself."""

CLIENT = f"""\
case $1 in FORKED)
    if mkfifo FOLDER/$$ && exec 3<&0 4>&1 5>&2 6<> FOLDER/$$ && echo $$ > FOLDER/asked &&
        read -r status <&6 && [ "$status" != {ITSELF} ]; then exit "$status"; fi
    exec 3<&- 4>&- 5>&- 6<&- ;;
esac
"""
"""What stands in front of a node's `python`."""

SCRIPTS = ("code/receive_code.py", "run/prepare.py", "training_files/training_files.py", "checkpoints/checkpoints.py")
"""Those that nearly every job needs: they are compiled once."""

MODULES = (
    "concurrent.futures.thread", "csv", "fcntl", "glob", "hashlib", "importlib.util", "json", "pickletools", "shutil",
    "socket", "stat", "struct", "tarfile", "ugro.sandbox.nvidia_smi", "zipfile",
)  # fmt: skip

GRACE = 2.0
"""Seconds that a script has to end after SIGTERM, once the process that asked for it is gone."""


@cache
def client(*modules: str) -> str:
    """Shell lines for the beginning of a `python`, answered by a process that ends with this one."""
    folder = tempfile.mkdtemp(prefix="python-")
    os.mkfifo(f"{folder}/asked")
    program = [sys.executable, "-m", "ugro.testing.forking_python", folder, *modules]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(program, stdin=subprocess.PIPE, cwd=root, start_new_session=True)
    atexit.register(process.communicate)
    return CLIENT.replace("FORKED", "*.py" if modules else "- | -I").replace("FOLDER", shlex.quote(folder))


class AskedScript(NamedTuple):
    """What a process asks for, as /proc shows it: its arguments, program (None: on stdin) and surroundings.

    Opened here are its streams, its working directory and, as `gone`, a handle of the process.
    """

    streams: list[int]
    folder: int
    gone: int
    words: list[str]
    program: str | Path | None
    umask: int
    environment: dict[bytes, bytes]


@dataclass
class Fork:
    """A script under way: the handles of its process and of the one that asked, and where that waits for the status."""

    pid: int
    done: int
    gone: int
    pipe: int
    kill_at: float | None = None
    """The monotonic time of SIGKILL for a script whose asker is gone."""


class Server:
    """Answers each asker by a fork of this process, and watches over both."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._known = {text: compile(text, "<script>", "exec") for text in map(load, SCRIPTS)}
        self._forks: list[Fork] = []

    def serve(self) -> None:
        """Answer until stdin ends."""
        asked = os.open(f"{self._folder}/asked", os.O_RDWR)
        gc.freeze()
        while True:
            handles = [handle for fork in self._forks for handle in (fork.done, *[fork.gone] * (not fork.kill_at))]
            ends = [fork.kill_at for fork in self._forks if fork.kill_at]
            timeout = max(0.0, min(ends) - time.monotonic()) if ends else None
            ready = select.select([0, asked, *handles], [], [], timeout)[0]
            if 0 in ready:
                return
            for fork in list(self._forks):
                self._look_after(fork, ready)
            for pid in os.read(asked, 4096).split() if asked in ready else ():
                self._answer(int(pid))

    def _look_after(self, fork: Fork, ready: list[int]) -> None:
        """Tell the status of a script that has ended; end one whose asker is gone."""
        if fork.done in ready:
            self._forks.remove(fork)
            tell(fork.pipe, str(shell_status(os.waitpid(fork.pid, 0)[1])))
            os.close(fork.done)
            os.close(fork.gone)
        elif fork.gone in ready:
            signal.pidfd_send_signal(fork.done, signal.SIGTERM)
            fork.kill_at = time.monotonic() + GRACE
        elif fork.kill_at and fork.kill_at < time.monotonic():
            signal.pidfd_send_signal(fork.done, signal.SIGKILL)
            fork.kill_at = time.monotonic() + GRACE

    def _answer(self, asker: int) -> None:
        """Do what a process asks for, or tell it to do so itself."""
        path = f"{self._folder}/{asker}"
        try:
            pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # the asker was killed before it could read
            os.unlink(path)
            return
        os.unlink(path)
        asked = None
        with suppress(OSError, ValueError):
            asked = asked_of(asker)
        if asked is None:
            tell(pipe, ITSELF)
            return
        if (pid := os.fork()) == 0:
            run(asked, self._known)
        for handle in (*asked.streams, asked.folder):  # who reads a stream waits for its end
            os.close(handle)
        self._forks.append(Fork(pid, os.pidfd_open(pid), asked.gone, pipe))


def tell(pipe: int, status: str) -> None:
    """Tell an asker the exit status, if it is still there."""
    with suppress(OSError):
        os.write(pipe, f"{status}\n".encode())
    os.close(pipe)


def asked_of(asker: int) -> AskedScript | None:
    """What a process asks for; None if it is not one for a fork.

    Raises:
        OSError: it is gone, or its streams cannot be opened.
    """
    _, _, *words = map(os.fsdecode, read(asker, "cmdline"))  # the shell and the file `python`
    program: str | Path | None = None
    if words[0].endswith(".py"):
        program = Path(words[0])
    elif words[:3] == ["-I", "-S", "-c"]:
        words, program = ["-c", *words[4:]], words[3]
    elif words[0] != "-":
        return None
    environment: dict[bytes, bytes] = dict(word.split(b"=", 1) for word in read(asker, "environ"))
    umask = int(Path(f"/proc/{asker}/status").read_text().partition("Umask:")[2].split()[0], 8)
    *streams, folder, gone = handles_of(asker)
    return AskedScript(streams, folder, gone, words, program, umask, environment)


def handles_of(asker: int) -> list[int]:
    """The three streams of a process, its working directory and a handle of it.

    No stream is waited for: other askers would wait, too.

    Raises:
        OSError: one cannot be opened, such as a socket.
    """
    handles: list[int] = []
    try:
        for number in range(3):
            mode = os.O_WRONLY | os.O_APPEND if number else os.O_RDONLY
            handles.append(os.open(f"/proc/{asker}/fd/{3 + number}", mode | os.O_NONBLOCK))
            os.set_blocking(handles[-1], True)
        handles.append(os.open(f"/proc/{asker}/cwd", os.O_PATH))
        return [*handles, os.pidfd_open(asker)]
    except OSError:
        for handle in handles:
            os.close(handle)
        raise


def read(pid: int, name: str) -> list[bytes]:
    """What a file in /proc has, each with a NUL behind it."""
    return Path(f"/proc/{pid}/{name}").read_bytes().split(b"\0")[:-1]


def shell_status(status: int) -> int:
    """The exit status of a process, as a shell tells it."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def run(asked: AskedScript, known: dict[str, types.CodeType]) -> NoReturn:
    """Be the Python that was asked for."""
    os.setsid()
    os.fchdir(asked.folder)
    for number, stream in enumerate(asked.streams):
        os.dup2(stream, number)
    os.closerange(3, 4096)
    os.umask(asked.umask)
    os.environb.clear()
    os.environb.update(asked.environment)
    sys.argv, program = asked.words, asked.program
    if isinstance(program, Path):
        end_with(partial(run_file, program))
    sys.path[0] = ""
    if program is None:
        program = sys.stdin.read()
    else:
        del sys.path[0]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    end_with(lambda: exec(known.get(program) or compile(program, "<string>", "exec"), main.__dict__))


def run_file(script: Path) -> None:
    """Run a script as Python runs a file, and end as it ends: what its libraries do then may fail."""
    sys.path[0] = str(script.parent.absolute())
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
    ctypes.pythonapi.Py_Exit(0)


def end_with(main: Callable[[], object]) -> NoReturn:
    """Do that, and end as Python then ends."""
    status: object = 0
    try:
        main()
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    if not isinstance(status, int):
        print(status, file=sys.stderr)
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status & 0xFF)


class ForkingPopen(subprocess.Popen[Any]):
    """A process that is a fork of this one, where it would be Python that runs a file."""

    def __init__(self, args: list[str], **options: Any) -> None:
        if args[:2] == [sys.executable, "-u"] and args[2].endswith(".py"):
            options["preexec_fn"] = partial(become, args[2:], options["env"])
        super().__init__(args, **options)


def become(words: list[str], environment: dict[str, str]) -> NoReturn:
    """Be the Python that was to be started, in the process that was made for it. Its libraries are imported."""
    os.closerange(3, 4096)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = words
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    end_with(partial(run_file, Path(words[0])))


if __name__ == "__main__":
    folder, *libraries = sys.argv[1:]
    for module in (*MODULES, *libraries):
        importlib.import_module(module)
    if libraries:
        subprocess.Popen = ForkingPopen  # type: ignore[assignment, misc]
    Server(folder).serve()
