"""Limits what the suite takes from its machine and shell to as little as it can, decided here alone.

The tests and what they start find everything else as it is on a new machine: no settings of a user, no proxies, no
agent, UTC and UTF-8, no user's crontab and no GPU's tools.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import psutil

GIVEN: Mapping[str, str] = dict(os.environ)
"""The environment that the suite was started with."""

KEPT = re.compile(r"PATH|LD_LIBRARY_PATH|CI|UGRO_CRASH_STRIDE|(PYTEST|COV|COVERAGE|OPENBLAS|NVPL)_\w+")
"""What tests may know of it: where programs are, how much to test, and what numpy needs to run on this processor."""

SET = {"LANG": "C.UTF-8", "TZ": "UTC", "SHELL": "/bin/sh", "GIT_CONFIG_NOSYSTEM": "1", "UGRO_NVIDIA_PROC": os.devnull}
"""As on a new machine that has no GPUs."""

HIDDEN = ("crontab", "nvidia-smi")
"""Programs that tests do not find unless they bring their own."""

OPEN_FILES = 1024
"""What a login has. With a million, programs that close what they inherited one by one take seconds."""

SHORT_AND_PLAIN = re.compile(r"/[\w./-]{1,40}")
"""A TMPDIR that tests can use: a unix socket's path holds 107 bytes, and no test is about the quotes it would need."""


IN_MEMORY = Path("/dev/shm")
ROOM = 4 * 2**30
"""Bytes that have to be free there."""


def in_memory() -> Path | None:
    """Return a folder in memory for files of tests: UGRO waits for the disk to confirm its writes, which takes long.

    None if the user chose another place, there is too little room, or programs may not be run there.
    """
    if "TMPDIR" in GIVEN or not os.access(IN_MEMORY, os.W_OK | os.X_OK):
        return None
    told = os.statvfs(IN_MEMORY)
    return IN_MEMORY if told.f_bavail * told.f_frsize >= ROOM and not told.f_flag & os.ST_NOEXEC else None


def isolate(folder: Path) -> None:
    """Leave this process, and all that it starts, only what tests may take from the machine. `folder` is its own."""
    environment = {name: value for name, value in GIVEN.items() if KEPT.fullmatch(name)} | SET
    home = folder / "home"
    home.mkdir()
    name = psutil.Process().username()  # USER and LOGNAME are another's after `su` and `sudo -E`
    environment |= {"HOME": str(home), "USER": name, "LOGNAME": name, "TMPDIR": _temporary()}
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', os.defpath)}"
    environment["PATH"] = path_without(HIDDEN, path, folder / "programs")
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    os.umask(0o022)
    _limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    _limit(resource.RLIMIT_CORE, 0)
    # Those that `nohup`, a `&` in a script and some CI runners have ignored are ignored by all that is started here.
    for ignored in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(ignored, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def path_without(programs: tuple[str, ...], path: str, folder: Path) -> str:
    """That PATH, where a folder that has one of the programs is replaced by one with links to all others."""
    shown = []
    for number, place in enumerate(dict.fromkeys(path.split(os.pathsep))):
        if os.path.isabs(place) and any(os.path.lexists(os.path.join(place, program)) for program in programs):
            without = folder / str(number)
            without.mkdir(parents=True)
            for name in set(os.listdir(place)) - set(programs):
                (without / name).symlink_to(os.path.join(place, name))
            place = str(without)
        if os.path.isabs(place):  # others mean another place in each test
            shown.append(place)
    return os.pathsep.join(shown)


def _temporary() -> str:
    given = GIVEN.get("TMPDIR", "")
    return given if SHORT_AND_PLAIN.fullmatch(given) and os.access(given, os.W_OK | os.X_OK) else "/tmp"


def _limit(which: int, soft: int) -> None:
    _, hard = resource.getrlimit(which)
    resource.setrlimit(which, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
