"""Where a rank of a running job stands: the stacks of its threads."""

from __future__ import annotations

from ugro.common.models.record import Record

STATES = {
    "R": "runs",
    "S": "waits",
    "D": "waits in the kernel and cannot be interrupted: a disk, a network file system or a driver",
    "T": "is stopped by a signal",
    "t": "is stopped by a debugger",
    "Z": "has ended",
    "I": "is idle",
}
"""The kernel's letters in words."""


class Frame(Record):
    """One frame of a Python stack, the innermost first."""

    function: str
    file: str
    line: int | None


class Thread(Record):
    """One thread. `waits_in` says in words what it does; `kernel` is its kernel stack, where root may read it."""

    tid: int
    name: str
    state: str | None = None
    waits_in: str = ""
    syscall: int | None = None
    wchan: str | None = None
    kernel: tuple[str, ...] = ()
    frames: tuple[Frame, ...] = ()


class RankStack(Record):
    """Where a rank stands. `state` is None when its process has ended; `problem` is why there are no Python stacks."""

    rank: int
    pid: int | None = None
    state: str | None = None
    cpu_seconds: float | None = None
    problem: str | None = None
    threads: tuple[Thread, ...] = ()
