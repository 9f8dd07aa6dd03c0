"""Find the processes of a sandbox by the mark in their environment, without reused pids, and end them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from ugro.sandbox.machines import MARK

GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL."""


def start_time(pid: int) -> str:
    """Return when a process started; with its pid it identifies the process.

    The kernel's own count does not jump with the clock.

    Raises:
        psutil.NoSuchProcess: there is none.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19].decode()
    except OSError:
        return str(psutil.Process(pid).create_time())


def belongs(process: psutil.Process, root: Path) -> bool:
    """Return whether a process was started through the sandbox in a folder, or is its daemon."""
    try:
        return process.environ().get(MARK) == str(root)
    except (psutil.Error, OSError):
        return False


def members(root: Path) -> list[psutil.Process]:
    """Return every process of the sandbox but this one: those with its mark, and their children without it."""
    found: dict[int, psutil.Process] = {}
    for pid in psutil.pids():
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            if belongs(process, root):
                found |= {other.pid: other for other in [process, *process.children(recursive=True)]}
    found.pop(os.getpid(), None)
    return [process for process in found.values() if _lives(process)]


def end(processes: Iterable[psutil.Process]) -> None:
    """End processes: SIGTERM, a short grace, SIGKILL."""
    left = list(processes)
    for send in (psutil.Process.terminate, psutil.Process.kill):
        for process in left:
            with contextlib.suppress(psutil.Error):
                send(process)
        left = _left_after(left, GRACE)


def _left_after(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    deadline = time.monotonic() + seconds
    while (left := [process for process in processes if _lives(process)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def _lives(process: psutil.Process) -> bool:
    # A zombie has ended, though in a container no process may ever reap it.
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
