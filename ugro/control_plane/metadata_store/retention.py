"""Logs are kept for their own time: what can go, and a word left where it was. What killed commands left goes, too."""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from ugro.common.files import FULL, file_skew, write_atomic
from ugro.common.paths import JOBS
from ugro.common.text import clock
from ugro.control_plane.metadata_store.records import state_errors
from ugro.control_plane.metadata_store.store import MetadataStore

STRAY_AFTER = 3600.0
"""Seconds after which nobody is still writing a temporary file."""


@dataclass(frozen=True)
class OldLogs:
    """The logs of one job that ended, on the master."""

    id: str
    folder: Path
    bytes: int


def prunable(store: MetadataStore, before: float) -> list[OldLogs]:
    """The logs of jobs that ended before that moment."""
    found = []
    for row in store.summaries():
        folder = store.files(row.id).all_logs
        if row.ended_at < before and folder.is_dir():
            count = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
            found.append(OldLogs(row.id, folder, count))
    return found


def prune(store: MetadataStore, logs: OldLogs) -> None:
    """Remove a job's logs and note when. The note comes first, so that logs never just miss, but on a full disk."""
    pruned, note = store.files(logs.id).pruned, f"{clock(time.time())}\n"
    with state_errors(pruned):
        try:
            write_atomic(pruned, note)
        except OSError as error:
            if error.errno not in FULL:
                raise
        shutil.rmtree(logs.folder)
        if not pruned.exists():
            write_atomic(pruned, note)


def pruned_at(store: MetadataStore, job_id: str) -> str | None:
    """When a job's logs were removed, in words; None: they were not."""
    path = store.files(job_id).pruned
    return path.read_text(errors="replace").strip() if path.exists() else None


def strays(store: MetadataStore, before: float) -> list[Path]:
    """Temporary files and folders that were made before that moment, whose writers were killed.

    By the change time of the inode: a link to an older record has that record's modification time.
    """
    with state_errors(store.home):
        before += file_skew(store.home)
        made = [*store.home.glob(".tmp-*"), *store.home.glob(".master-*"), *store.home.glob(f"{JOBS}/*/.tmp-*")]
        return [path for path in made if _changed_at(path) < before]


def remove_stray(path: Path) -> None:
    """Remove one of them, if it is there still."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _changed_at(path: Path) -> float:
    try:
        return path.lstat().st_ctime
    except FileNotFoundError:  # its writer has just renamed it
        return math.inf
