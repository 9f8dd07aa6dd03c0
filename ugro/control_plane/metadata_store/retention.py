"""The master's files of ended jobs: their size, and their removal, with a note left in their place.

Files that killed commands left go, too.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ugro.common.errors import InputError
from ugro.common.files import FULL, file_skew, write_atomic
from ugro.common.models.job import Job
from ugro.common.paths import JOBS
from ugro.common.text import clock, printable
from ugro.control_plane.metadata_store.job_folders import SNAPSHOTS
from ugro.control_plane.metadata_store.records import state_errors
from ugro.control_plane.metadata_store.store import MetadataStore
from ugro.nodes.code_sync.manifest import list_beside

SNAPSHOT_NAME = re.compile(r"snapshot(-\d+)?")

STRAY_AFTER = 3600.0
"""Seconds after which no process is still writing a temporary file."""


@dataclass(frozen=True)
class OldLogs:
    """The logs of one job that ended, on the master."""

    id: str
    folder: Path
    bytes: int


def prunable(store: MetadataStore, before: float) -> list[OldLogs]:
    """The logs of jobs that ended before that moment."""
    return [logs for row in store.jobs.summaries() if row.ended_at < before and (logs := logs_of(store, row.id))]


def logs_of(store: MetadataStore, job_id: str) -> OldLogs | None:
    """The logs of a job, and its copies of event files, which are as old; None: there are none."""
    folder = store.jobs.files(job_id).all_logs
    copies = store.jobs.files(job_id).event_files
    if not (folder.is_dir() or copies.is_dir()):
        return None
    return OldLogs(job_id, folder, bytes_below(folder) + bytes_below(copies))


def bytes_below(folder: Path) -> int:
    """The bytes of all files in a folder; links are not followed."""
    found = 0
    for place, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                found += os.lstat(os.path.join(place, name)).st_size
    return found


def prune(store: MetadataStore, logs: OldLogs) -> None:
    """Remove a job's logs and note when. The note comes first, so that logs never just miss, but on a full disk."""
    folders = filter(Path.is_dir, (logs.folder, store.jobs.files(logs.id).event_files))
    _remove_noted(store.jobs.files(logs.id).pruned, [*folders], store.clock.now())


def snapshots_of(store: MetadataStore, job_id: str) -> list[Path]:
    """The snapshots of a job's code."""
    folder = store.jobs.files(job_id).folder
    with state_errors(folder):
        return sorted(path for path in folder.glob("snapshot*") if path.is_dir() and SNAPSHOT_NAME.fullmatch(path.name))


def prune_snapshots(store: MetadataStore, job_id: str) -> None:
    """Remove a job's code and note when, so that a resume can say so."""
    snapshots = snapshots_of(store, job_id)
    with state_errors(store.jobs.files(job_id).folder):
        for snapshot in snapshots:
            list_beside(snapshot).unlink(missing_ok=True)
    _remove_noted(store.jobs.files(job_id).snapshot_pruned, snapshots, store.clock.now())


def _remove_noted(note: Path, folders: Sequence[Path], now: float) -> None:
    text = f"{clock(now)}\n"
    with state_errors(note):
        try:
            write_atomic(note, text)
        except OSError as error:
            if error.errno not in FULL:
                raise
        for folder in folders:
            # Under another name first: half of it must not be taken for all of it. `strays` knows that name.
            gone = folder.with_name(f".tmp-gone-{folder.name}")
            shutil.rmtree(gone, ignore_errors=True)
            folder.rename(gone)
            shutil.rmtree(gone)
        if not note.exists():
            write_atomic(note, text)


def pruned_at(store: MetadataStore, job_id: str) -> str | None:
    """Return in words when a job's logs were removed; None: they were not."""
    path = store.jobs.files(job_id).pruned
    return path.read_text(errors="replace").strip() if path.exists() else None


def require_code(store: MetadataStore, job: Job) -> None:
    """See that a job's own code is still there to be run again.

    Raises:
        InputError: `ugro gc` removed it.
    """
    files = store.jobs.files(job.id)
    note = files.snapshot_pruned
    if note.exists() and not files.snapshot(job.code.attempt).exists():
        with state_errors(note):
            when = printable(note.read_text().strip())
        raise InputError(
            f"the code of {job.id} was removed by `ugro gc` ({when})",
            f"with its working directory as it is now: ugro resume {job.id} --new-code",
        )


def strays(store: MetadataStore, before: float) -> list[Path]:
    """Temporary files and folders that were made before that moment, and launches cut short, whose writers were killed.

    By the change time of the inode: a link to an older record has that record's modification time.
    """
    with state_errors(store.home):
        before += file_skew(store.home)
        patterns = (".tmp-*", ".master-*", f"{SNAPSHOTS}/.tmp-*", f"{JOBS}/.tmp-*", f"{JOBS}/*/.tmp-*")
        made = [path for pattern in patterns for path in store.home.glob(pattern)]
        made += [store.jobs.files(name).folder for name in store.jobs.cut_short()]
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
