"""Who acts now. A lock file has a readable text that says who holds it; a job's own lock is on its folder.

All are `flock`s: the kernel lets go of them when their holder dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ugro.common.errors import StateLocked
from ugro.common.files import FULL
from ugro.common.text import printable
from ugro.control_plane.metadata_store.records import make_home, state_errors

LOCK_PATIENCE = 60.0
"""Seconds a command waits for another controller before it gives up with exit code 4."""

RECORDS_LOCK = "lock"
"""The lock of whoever changes records."""

TURN_LOCK = "tick.lock"
"""The lock of whoever observes the cluster and decides. Slow work on nodes is done without it."""

RESIDENT_LOCK = "serve.lock"
"""The lock that `ugro serve` holds as long as it stays."""

TURN_POLL_SECONDS = 0.05


@contextlib.contextmanager
def held(path: Path, patience: float) -> Iterator[None]:
    """Be the one who holds a lock.

    Raises:
        StateLocked: somebody else does and did not finish within `patience` seconds; the message says who.
    """
    lock = FileLock(path, timeout=patience)
    with state_errors(path):
        try:
            lock.acquire(poll_interval=0.05)
        except Timeout:
            holder = printable(path.read_text(errors="replace").strip()) or "somebody"
            hint = "wait for it, or look why it takes so long"
            raise StateLocked(f"{path} is held by {holder}", hint) from None
    try:
        with state_errors(path):
            _sign(path)
        yield
    finally:
        lock.release()


class RecordsLock:
    """The lock around reading records and writing what follows from them. Whoever has it may take it again."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._depth = 0

    @contextlib.contextmanager
    def held(self, patience: float = LOCK_PATIENCE) -> Iterator[None]:
        """Be the one who has it.

        Raises:
            StateLocked: as `held` does.
        """
        if self._depth == 0:
            make_home(self._home)
        with held(self._home / RECORDS_LOCK, patience) if self._depth == 0 else contextlib.nullcontext():
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1


@contextlib.asynccontextmanager
async def held_in_turn(path: Path, patience: float) -> AsyncIterator[None]:
    """The same for what is held across awaits: the event loop goes on while another process holds it.

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
    """Be the only one, among all processes, who acts on what a folder or file stands for; False: another one does.

    It is itself locked, so that nothing has to be written on a full disk.
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
    """Whether somebody holds a lock just now. Nothing is written, but whoever takes it meanwhile has to wait."""
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
        path.write_text(f"{_own_command()} (pid {os.getpid()}) since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
    except OSError as error:
        if error.errno not in FULL:  # on a full disk `ugro gc` has to get its turn, signed or not
            raise


def _own_command() -> str:
    with open("/proc/self/cmdline", "rb") as file:
        return printable(file.read().replace(b"\0", b" ").decode("utf-8", "replace").strip())
