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
import traceback
import types
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NoReturn

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


def serve(folder: str) -> None:
    """Answer each asker in a process of its own."""
    for module in MODULES:
        importlib.import_module(module)
    known = {text: compile(text, "<script>", "exec") for text in map(load, SCRIPTS)}
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # their ends are not waited for
    asked = os.open(f"{folder}/asked", os.O_RDWR)
    while True:
        if 0 in select.select([0, asked], [], [])[0]:
            return
        for pid in os.read(asked, 4096).split():
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                answer(int(pid), f"{folder}/{int(pid)}", known)


def answer(asker: int, path: str, known: dict[str, types.CodeType]) -> NoReturn:
    """Do what a process asks for, and tell it the exit status."""
    os.setsid()
    try:
        pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:  # the asker was killed before it could read
        os.unlink(path)
        os._exit(0)
    os.unlink(path)
    gone = os.pidfd_open(asker)
    status = ITSELF
    with suppress(OSError, ValueError):
        streams = [
            os.open(f"/proc/{asker}/fd/{3 + number}", os.O_WRONLY if number else os.O_RDONLY) for number in range(3)
        ]
        if wanted := asked_for(asker):
            if (fork := os.fork()) == 0:
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                os.closerange(3, 64)
                run(wanted, known)
            for stream in (*streams, 0, 1, 2):  # who reads them waits for their end
                os.close(stream)
            status = str(ended(fork, gone))
    os.write(pipe, f"{status}\n".encode())
    os._exit(0)


def asked_for(asker: int) -> tuple[list[str], str | None] | None:
    """The arguments of a process, and its program where these have it; None if it is not one for a fork.

    This process has the folder, umask and environment of that one then.
    """
    _, _, *words = map(os.fsdecode, read(asker, "cmdline"))  # the shell and the file `python`
    environment = dict(word.split(b"=", 1) for word in read(asker, "environ"))
    os.chdir(os.readlink(f"/proc/{asker}/cwd"))
    status = Path(f"/proc/{asker}/status").read_text()
    os.umask(int(status.partition("Umask:")[2].split()[0], 8))
    os.environb.clear()
    os.environb.update(environment)
    if words[:1] == ["-"]:
        return words, None
    return (["-c", *words[4:]], words[3]) if words[:3] == ["-I", "-S", "-c"] else None


def read(pid: int, name: str) -> list[bytes]:
    """What a file in /proc has, each with a NUL behind it."""
    return Path(f"/proc/{pid}/{name}").read_bytes().split(b"\0")[:-1]


def ended(fork: int, gone: int) -> int:
    """The exit status of a fork, as a shell tells it. It is ended once the process that asked for it is `gone`."""
    done = os.pidfd_open(fork)
    if done not in select.select([done, gone], [], [])[0]:
        signal.pidfd_send_signal(done, signal.SIGTERM)
        if not select.select([done], [], [], GRACE)[0]:
            signal.pidfd_send_signal(done, signal.SIGKILL)
    status = os.waitpid(fork, 0)[1]
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def run(wanted: tuple[list[str], str | None], known: dict[str, types.CodeType]) -> NoReturn:
    """Be the Python that was asked for."""
    sys.argv, program = wanted
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
    serve(sys.argv[1])
