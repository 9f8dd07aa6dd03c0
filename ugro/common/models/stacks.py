"""Stack traces of a running job's ranks."""

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


class StackFrame(Record):
    """One frame of a Python stack."""

    function: str
    """Name of the function."""
    file: str
    """Path of its file."""
    line: int | None
    """Line in the file, from 1."""


class Thread(Record):
    """One thread."""

    tid: int
    """Its id on the node."""
    name: str
    """Its name."""
    state: str | None = None
    """The kernel's letter for its state."""
    waits_in: str = ""
    """What it does, in words."""
    syscall: int | None = None
    """Number of the system call that it is in."""
    wchan: str | None = None
    """Kernel function that it waits in."""
    kernel: tuple[str, ...] = ()
    """Its kernel stack, where root may read it."""
    frames: tuple[StackFrame, ...] = ()
    """Its Python stack, the innermost frame first."""


class RankStack(Record):
    """A rank's stack traces. `state` is None if its process has ended; `problem` is why there are no Python stacks."""

    rank: int
    pid: int | None = None
    state: str | None = None
    cpu_seconds: float | None = None
    problem: str | None = None
    threads: tuple[Thread, ...] = ()
