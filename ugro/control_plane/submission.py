"""Takes a job in: the code as it is now, the frozen spec, the first record."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from ugro.common.errors import InputError
from ugro.common.job_spec import JobSpec
from ugro.common.models import Job
from ugro.common.text import printable
from ugro.control_plane.metadata_store import MetadataStore
from ugro.nodes.code_sync import Selection, select_files, take_snapshot


def choose_code(spec: JobSpec) -> Selection:
    """The files of the job's working directory that go with it.

    Raises:
        InputError: the directory or the script is not there, or the script is among what is ignored.
    """
    directory = Path(spec.workdir)
    try:
        there = directory.is_dir() and directory.resolve().is_dir()
    except OSError:  # the shell's own directory was removed under it
        there = False
    if not there:
        raise InputError(f"the working directory {printable(spec.workdir)} is not there")
    require_script(directory, spec.script)
    selection = select_files(directory)
    if os.path.normpath(spec.script) not in selection.files:
        raise InputError(
            f"{spec.script} is ignored (.gitignore, .ugroignore or the built-in list), so nodes would not get it",
            f"add a line !/{spec.script} to .ugroignore",
        )
    return selection


def require_script(directory: Path, script: str) -> None:
    """See that a script is there.

    Raises:
        InputError: it is not.
    """
    if not (directory / script).is_file():
        hint = "name one of the working directory, or none: then the inventory's 'script' counts"
        raise InputError(f"there is no script {printable(script)!r} in {directory.resolve()}", hint)


def namesake(store: MetadataStore, spec: JobSpec) -> Job | None:
    """The job that the name of one to be submitted stands for until then."""
    try:
        return None if spec.name is None else store.find(spec.name)
    except InputError:
        return None


def submit(store: MetadataStore, spec: JobSpec, selection: Selection, predicted_mib: int | None = None) -> Job:
    """Record a job, queued or held, with its own copy of the code and what it is expected to need of each GPU.

    Raises:
        StateError: the state directory cannot be written; nothing of the job remains.
    """
    files = store.reserve()
    try:
        code = take_snapshot(Path(spec.workdir), selection, files.snapshot)
        return store.submit(files, spec, code, time.time(), predicted_mib)
    except BaseException:
        shutil.rmtree(files.folder, ignore_errors=True)
        raise
