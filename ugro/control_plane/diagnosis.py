"""What a rank's log says of why it ended: a catalogue as data, and pure functions over text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ugro.common.text import printable

TAIL_BYTES = 64 * 1024
"""How much of the end of a log is read for a diagnosis."""

_RANK_PREFIX = re.compile(r"^\[(?:rank|default)\d+\]:\s?")


@dataclass(frozen=True)
class Entry:
    """One line of the catalogue. A consequence is what a rank says when another one took it down."""

    cause: str
    pattern: re.Pattern[str]
    consequence: bool = False


def _entry(cause: str, pattern: str, consequence: bool = False) -> Entry:
    return Entry(cause, re.compile(pattern), consequence)


# The first entry that matches any line wins, so what is more telling stands first. Wordings: docs/architecture.md.
CATALOGUE = (
    _entry("cuda_oom", r"(?:CUDA|HIP) out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED"),
    _entry(
        "shm_full", r"insufficient shared memory|out of shared memory|unable to open shared memory object.*No space"
    ),
    _entry("too_many_files", r"Too many open files"),
    _entry("disk_full", r"No space left on device|Disk quota exceeded|PytorchStreamWriter failed writing"),
    _entry("port_in_use", r"EADDRINUSE|[Aa]ddress already in use"),
    _entry("cuda_mismatch", r"driver on your system is too old|no kernel image is available|Error 80[34]: "),
    _entry("host_oom", r"DefaultCPUAllocator: can't allocate memory|Cannot allocate memory"),
    _entry("dataloader_worker_died", r"DataLoader worker \(pid.*(?:killed by signal|exited unexpectedly)"),
    _entry("checkpoint_mismatch", r"Error\(s\) in loading state_dict|PytorchStreamReader failed reading"),
    _entry("import_error", r"^(?:ModuleNotFoundError|ImportError)\b"),
    _entry("bad_arguments", r"^\S+: error: "),
    _entry("file_not_found", r"^FileNotFoundError\b|can't open file .*No such file"),
    _entry("permission_denied", r"^PermissionError\b"),
    _entry("collective_timeout", r"Watchdog caught collective operation timeout"),
    _entry(
        "rendezvous_timeout", r"waiting for clients\. \d+/\d+|RendezvousTimeoutError|client socket has timed out", True
    ),
    _entry("peer_lost", r"(?:Connection (?:closed by|reset by)) (?:remote )?peer|Broken pipe|ncclRemoteError", True),
    _entry("peer_lost", r"Failed to recv, got 0 bytes|remote process exited or there was a network error", True),
    _entry("nccl_error", r"NCCL (?:error|failure)\b|ncclSystemError|ncclInternalError|ncclUnhandledCudaError"),
    _entry("cuda_error", r"CUDA error: "),
)

# Signals that speak for themselves. SIGTERM is how torchrun and UGRO end the ranks that were still well.
_SIGNALS = {"KILL": ("killed", False), "SEGV": ("segfault", False), "TERM": ("killed", True), "INT": ("killed", True)}


@dataclass(frozen=True)
class Finding:
    """Why a rank ended: a cause of docs/architecture.md, the line that shows it, and whether another rank did it."""

    cause: str
    message: str
    consequence: bool = False


def diagnose(log: str, exit_code: int | None, signal: str | None) -> Finding:
    """The cause that the end of a rank's log and its exit code or signal speak for."""
    if signal in _SIGNALS:
        cause, consequence = _SIGNALS[signal]
        return Finding(cause, f"ended by SIG{signal}", consequence)
    lines = [_RANK_PREFIX.sub("", printable(line)).strip() for line in log.splitlines()]
    exception = _last_exception(log)
    if found := (exception and _in_catalogue([exception])) or _in_catalogue(lines):
        return found
    if exception:
        return Finding("python_exception", exception)
    ended = f"ended by SIG{signal}" if signal else f"exit code {exit_code}"
    last = next((line for line in reversed(lines) if line), "")
    return Finding("unknown", f"{ended}, last words: {last}" if last else ended)


def _in_catalogue(lines: Sequence[str]) -> Finding | None:
    for entry in CATALOGUE:
        for line in reversed(lines):
            if entry.pattern.search(line):
                return Finding(entry.cause, line, entry.consequence)
    return None


def _last_exception(log: str) -> str | None:
    """The line that ends the last traceback."""
    lines = [_RANK_PREFIX.sub("", printable(line)) for line in log.splitlines()]
    starts = [index for index, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    after = lines[starts[-1] + 1 :] if starts else []
    return next((line for line in after if line and not line[0].isspace()), None)
