"""A process that goes to another machine by itself, with all that it imported before: no program has to be started."""

from __future__ import annotations

import ctypes
import os
import signal
import tempfile
from typing import TypedDict

PR_SET_DUMPABLE = 4


class Entrance(TypedDict):
    """Namespaces, by the files that stand for them, and who the process is to be there."""

    namespaces: list[str]
    uid: int


def enter(place: Entrance) -> None:
    """Continue in a child in that place. The caller waits for it, and ends as it does."""
    libc = ctypes.CDLL(None, use_errno=True)
    files = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in place["namespaces"]]
    for file in files:
        if libc.setns(file, 0):
            raise OSError(ctypes.get_errno(), "no entrance", place["namespaces"][files.index(file)])
    for file in files:
        os.close(file)
    if child := os.fork():  # a PID namespace is its children's alone
        _end_as(child)
    os.setsid()
    os.setgroups([])
    os.setgid(place["uid"])
    os.setuid(place["uid"])
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # its files in /proc are the user's again
    tempfile.tempdir = None


def _end_as(child: int) -> None:
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)
