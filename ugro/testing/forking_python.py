"""A `python` for simulated nodes whose short scripts are forked from one process.

Most of what such a script costs is to start Python, to import and to compile. What a node's `python` is to run as
`python - …` or `python -I …` is therefore done in a fork of this process: with the streams, folder, environment and
arguments of the process that asks, which are read from /proc. That one waits for the exit status. Where its streams
cannot be opened so, and for everything else, such as the ranks of a job, it becomes Python itself.

As a program this answers at the named pipe `asked` in the folder that it is given, until its stdin ends.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
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
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple, NoReturn

from ugro.nodes.remote.bundle import load

ITSELF = "itself"
"""The answer to a process that has to run Python itself."""

CLIENT = f"""\
case $1 in - | -I)
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
def client() -> str:
    """Shell lines for the beginning of a `python`, answered by a process that ends with this one."""
    folder = tempfile.mkdtemp(prefix="python-")
    os.mkfifo(f"{folder}/asked")
    program = [sys.executable, "-m", "ugro.testing.forking_python", folder]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(program, stdin=subprocess.PIPE, cwd=root, start_new_session=True)
    atexit.register(process.communicate)
    return CLIENT.replace("FOLDER", shlex.quote(folder))


class AskedScript(NamedTuple):
    """What a process asks for, as /proc shows it: its arguments, program (None: on stdin) and surroundings.

    Opened here are its streams, its working directory and, as `gone`, a handle of the process.
    """

    streams: list[int]
    folder: int
    gone: int
    words: list[str]
    program: str | None
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
    if words[:1] == ["-"]:
        program = None
    elif words[:3] == ["-I", "-S", "-c"]:
        words, program = ["-c", *words[4:]], words[3]
    else:
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
            mode = os.O_WRONLY if number else os.O_RDONLY
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
    sys.path[0] = ""
    if program is None:
        program = sys.stdin.read()
    else:
        del sys.path[0]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    status: object = 0
    try:
        exec(known.get(program) or compile(program, "<string>", "exec"), main.__dict__)
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


if __name__ == "__main__":
    for module in MODULES:
        importlib.import_module(module)
    Server(sys.argv[1]).serve()
