"""Locks between processes. A lock file has a readable text that names its holder; a job's lock is on its folder.

All are `flock`s: the kernel lets go of them when their holder dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from ugro.common.errors import StateLocked
from ugro.common.files import FULL
from ugro.common.text import printable
from ugro.control_plane.metadata_store.records import make_home, state_errors

log = logging.getLogger(__name__)

LOCK_PATIENCE = 60.0
"""Seconds a command waits for another controller before it gives up with exit code 4."""

RECORDS_LOCK = "lock"
"""The lock around changes of records."""

TURN_LOCK = "tick.lock"
"""The lock around observations and decisions. Slow work on nodes is done without it."""

RESIDENT_LOCK = "serve.lock"
"""The lock that `ugro serve` holds as long as it stays."""

T = TypeVar("T")

TURN_POLL_SECONDS = 0.05


class RecordsLock:
    """The lock around reading records and writing what follows from them.

    One writer at a time: among the threads of this process first, then among processes by the file. A thread that has
    it may take it again.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._threads = threading.RLock()
        self._depth = 0

    @contextlib.contextmanager
    def held(self, patience: float = LOCK_PATIENCE) -> Iterator[None]:
        """Hold the lock for writing. It blocks an event loop: coroutines use `run`.

        Raises:
            StateLocked: another process holds it for longer than `patience` seconds; the message says which.
        """
        with self._threads, contextlib.ExitStack() as stack:
            if self._depth == 0:
                make_home(self._home)
                stack.enter_context(held(self._home / RECORDS_LOCK, patience))
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1

    async def run(self, change: Callable[[], T], patience: float) -> T:
        """Run a change as the writer, in a thread: the event loop waits neither for other writers nor for the disk.

        A change that has begun is finished, also where the caller is cancelled; that is raised afterwards.

        Raises:
            StateLocked: as `held` does; the change was not begun.
        """
        end = time.monotonic() + patience
        while True:
            attempt = asyncio.ensure_future(asyncio.to_thread(self._attempt, change))
            try:
                return await asyncio.shield(attempt)
            except _Busy as busy:
                if time.monotonic() >= end:
                    raise busy.error from None
            except asyncio.CancelledError:
                await asyncio.wait({attempt})
                if (error := attempt.exception()) and not isinstance(error, _Busy):
                    log.error("a change whose caller was cancelled failed", exc_info=error)
                raise
            await asyncio.sleep(TURN_POLL_SECONDS)

    def _attempt(self, change: Callable[[], T]) -> T:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self.held(0))
            except StateLocked as error:
                raise _Busy(error) from None
            return change()


class _Busy(Exception):
    """Another process writes just now, which a change itself never says."""

    def __init__(self, error: StateLocked) -> None:
        super().__init__(error.message)
        self.error = error


@contextlib.contextmanager
def held(path: Path, patience: float) -> Iterator[None]:
    """Hold a lock.

    Raises:
        StateLocked: another process held it for longer than `patience` seconds; the message says which.
    """
    lock = FileLock(path, timeout=patience)
    with state_errors(path):
        try:
            lock.acquire(poll_interval=0.05)
        except Timeout:
            holder = printable(path.read_text(errors="replace").strip()) or "another process"
            hint = "wait for it, or check why it takes so long"
            pid = re.search(r"\(pid (\d+)\) since ", holder)
            raise StateLocked(f"{path} is held by {holder}", hint, int(pid[1]) if pid else None) from None
    try:
        with state_errors(path):
            _sign(path)
        yield
    finally:
        lock.release()


@contextlib.asynccontextmanager
async def held_in_turn(path: Path, patience: float) -> AsyncIterator[None]:
    """Hold a lock across awaits: the event loop keeps running while another process holds it.

    Raises:
        StateLocked: as `held` does.
    """
    end = time.monotonic() + patience
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(held(path, 0))
                break
            except StateLocked:
                if time.monotonic() >= end:
                    raise
            await asyncio.sleep(TURN_POLL_SECONDS)
        yield


@contextlib.contextmanager
def alone_on(path: Path) -> Iterator[bool]:
    """Hold the lock on a folder or file, among all processes; False: another process holds it.

    The path itself is locked, so that nothing has to be written on a full disk.
    """
    with state_errors(path):
        descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds a lock just now. Nothing is written, but who takes it meanwhile has to wait."""
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _sign(path: Path) -> None:
    try:
        _write_over(path, f"{_own_command()} (pid {os.getpid()}) since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
    except OSError as error:
        if error.errno not in FULL:  # on a full disk `ugro gc` has to get its turn, signed or not
            raise


def _write_over(path: Path, text: str) -> None:
    """Replace what stands in a file. To empty it first would take longer than all else that a lock takes."""
    with path.open("r+b", buffering=0) as file:
        file.write(text.encode())
        file.truncate()


def _own_command() -> str:
    with open("/proc/self/cmdline", "rb") as file:
        return printable(file.read().replace(b"\0", b" ").decode("utf-8", "replace").strip())
