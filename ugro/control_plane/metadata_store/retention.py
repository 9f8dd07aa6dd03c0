"""Logs are kept for their own time: what can go, and a word left where it was."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from ugro.common.files import write_atomic
from ugro.common.text import clock
from ugro.control_plane.metadata_store.records import state_errors
from ugro.control_plane.metadata_store.store import MetadataStore


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
    """Remove a job's logs and note when. The note comes first, so that logs never just miss."""
    files = store.files(logs.id)
    with state_errors(files.folder):
        write_atomic(files.pruned, f"{clock(time.time())}\n")
        shutil.rmtree(logs.folder)


def pruned_at(store: MetadataStore, job_id: str) -> str | None:
    """When a job's logs were removed, in words; None: they were not."""
    path = store.files(job_id).pruned
    return path.read_text().strip() if path.exists() else None
