"""Write files so that a crash at any moment leaves the old content or the new, never half of it."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What is said of a full disk, or of a full share of it."""

FULL_HINT = (
    "free some space (`ugro gc` shows what could go), or set UGRO_HOME to a directory on another disk; "
    "what was recorded before is intact"
)
"""What to do where the state directory's disk is full."""


SKEW_LEAST = 1.0
"""Seconds; a smaller difference of two clocks is not measurable."""


def write_atomic(path: Path, text: str, mode: int | None = None) -> None:
    """Replace a file: temporary file beside it, fsync, rename, fsync of the folder. Its mode is `mode`, else 0600.

    Raises:
        OSError: the disk is full or not writable; the old content stays.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f".tmp-{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    _sync_folder(path.parent)


def file_skew(folder: Path) -> float:
    """Return how far the clock of a folder's files (a file server's, perhaps) is ahead of this machine's, in seconds.

    Nothing where it is as good as ours, or where nothing can be written to find out.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            skew = os.fstat(file.fileno()).st_mtime - time.time()
    except OSError:
        return 0.0
    return skew if abs(skew) > SKEW_LEAST else 0.0


def append_line(path: Path, line: str) -> None:
    """Append one line in one write. An incomplete last line, left by a crash, is closed first; readers drop it.

    Raises:
        OSError: the disk is not writable, or full; it may hold an incomplete line.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        data = (("\n" if torn else "") + line + "\n").encode("utf-8", "surrogateescape")
        if os.write(descriptor, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
