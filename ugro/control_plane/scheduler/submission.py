"""Takes a job in: the code as it is now, the frozen spec, the first record. Or other code for one that ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ugro.common.errors import InputError, NodeError
from ugro.common.job_spec import JobSpec
from ugro.common.models.code_version import CodeVersion
from ugro.common.models.job import Job, SweepPart
from ugro.common.paths import RunPaths
from ugro.common.text import printable, visible
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.records import state_errors
from ugro.control_plane.scheduler.command import require_source, source_text
from ugro.control_plane.scheduler.launch_line import START
from ugro.nodes.code_sync import (
    CONFLICT_HINT,
    CodeSelection,
    Copy,
    Differences,
    conflict_in_words,
    conflicts,
    differences,
    list_beside,
    read_manifest,
    select_files,
    take_snapshot,
    walk,
)
from ugro.nodes.pool import Pool
from ugro.nodes.transport import Transport


@dataclass(frozen=True)
class NewCode:
    """A copy of the working directory for a job's next attempt, how it differs from what the last one ran, and the
    text of the script in it.
    """

    snapshot: Path
    version: CodeVersion
    differences: Differences
    script: str


def choose_code(spec: JobSpec, otherwise: str = "", start: Sequence[str] = START) -> CodeSelection:
    """The files of the job's working directory that go with it; `otherwise` says what to do where it is not there.

    A command that would do begins with `start`.

    Raises:
        InputError: the directory or the script is not there, or the script is among what is ignored.
    """
    directory = Path(spec.workdir)
    try:
        there = directory.is_dir() and directory.resolve().is_dir()
    except OSError:  # the shell's own directory was removed under it
        there = False
    if not there:
        raise InputError(f"the working directory {printable(spec.workdir)} is not there", otherwise)
    source = require_source(directory, spec, otherwise, start)
    selection = select_files(directory)
    if source is not None and source not in selection.files:
        raise InputError(
            f"{visible(source)} is ignored (.gitignore, .ugroignore or the built-in list), so nodes would not get it",
            f"add a line !/{visible(source)} to .ugroignore",
        )
    require_inputs(directory, spec, selection)
    return selection


def require_inputs(directory: Path, spec: JobSpec, selection: CodeSelection) -> None:
    """See that the files which the setup command depends on are among those that are sent.

    Raises:
        InputError: one is not.
    """
    for name in spec.setup.inputs or () if spec.setup else ():
        if name in selection.files:
            continue
        what = "python: uv" if spec.python == "uv" else "setup.inputs"
        if not os.path.isfile(directory / name):
            hint = "make it: uv lock" if name == "uv.lock" else "correct its path, or make it"
            raise InputError(f"{what} needs {visible(name)}, which is not in {visible(str(directory.resolve()))}", hint)
        raise InputError(
            f"{what} needs {visible(name)}, which is ignored, so nodes would not get it",
            f"add a line !/{visible(name)} to .ugroignore",
        )


def namesake(store: MetadataStore, spec: JobSpec) -> Job | None:
    """The job that the name of one to be submitted stands for until then."""
    try:
        return None if spec.name is None else store.jobs.find(spec.name)
    except InputError:
        return None


def submit(
    store: MetadataStore,
    spec: JobSpec,
    selection: CodeSelection,
    predicted_mib: int | None = None,
    part_of: Callable[[str], SweepPart] | None = None,
) -> Job:
    """Record a job, queued or held, with its own copy of the code and what it is expected to need of each GPU.

    `part_of` says for its id which part of a sweep it is.

    Raises:
        StateError: the state directory cannot be written; nothing of the job remains.
    """
    files = store.jobs.reserve()
    try:
        with store.alone_with(files.folder.name):  # so that `ugro gc` does not take it for one that was cut short
            directory, target = Path(spec.workdir), files.snapshot(1)
            code = take_snapshot(directory, selection, target, before=store.jobs.last_snapshot(directory))
            store.jobs.note_snapshot(directory, target)
            part = part_of(files.folder.name) if part_of else None
            return store.jobs.submit(files, spec, code, store.clock.now(), predicted_mib, part)
    except BaseException:
        shutil.rmtree(files.folder, ignore_errors=True)
        raise


def own_code(store: MetadataStore, job: Job) -> CodeSelection:
    """The files that a job ran or is to run, for another job; as their directory counts that which they came from.

    Raises:
        InputError: they are not kept any more. StateError: they cannot be read.
    """
    snapshot = store.jobs.files(job.id).snapshot(job.code.attempt)
    if not snapshot.is_dir():
        hint = f"with its working directory as it is now: ugro rerun {job.id} --new-code"
        raise InputError(f"the code of {job.id} is not kept any more", hint)
    with state_errors(snapshot):
        files = {path: (snapshot / path).lstat().st_size for path in walk(snapshot)}
    return CodeSelection(files, {}, copy=Copy(snapshot, job.code.git_commit, job.code.git_dirty))


def choose_new_code(directory: str, spec: JobSpec) -> CodeSelection:
    """Choose the code of the directory that the job's code came from, whatever the working directory is now.

    Raises:
        InputError: as `choose_code` does.
    """
    same = "put it back, or use the job's own code, without --new-code"
    return choose_code(spec.model_copy(update={"workdir": directory}), same)


@contextlib.contextmanager
def new_code(store: MetadataStore, job: Job, spec: JobSpec, selection: CodeSelection) -> Iterator[NewCode]:
    """A copy of the working directory as it is now, which is gone again unless it is adopted meanwhile.

    Raises:
        StateError: it cannot be made, or what the job ran cannot be read.
    """
    files = store.jobs.files(job.id)
    with state_errors(files.folder):
        folder = Path(tempfile.mkdtemp(prefix=".tmp-code-", dir=files.folder))
    try:
        snapshot = folder / "snapshot"
        directory = Path(job.code.directory)
        version = take_snapshot(directory, selection, snapshot, job.attempt + 1, store.jobs.last_snapshot(directory))
        with state_errors(files.folder):
            earlier = files.snapshot(job.code.attempt)
            before = [] if files.snapshot_pruned.exists() and not earlier.exists() else read_manifest(earlier)
            found = differences(before, read_manifest(snapshot))
            script = source_text(snapshot, spec)
        yield NewCode(snapshot, version, found, script)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def require_room(store: MetadataStore, pool: Pool, nodes: Iterable[str], job: Job, code: NewCode) -> None:
    """See that new code is in no conflict with what the job wrote on those nodes that can be asked. Changes nothing.

    Raises:
        InputError: it is.
    """
    files = store.jobs.files(job.id)
    before = [files.snapshot(version.attempt) for version in (job.code, *job.earlier_code)]

    async def one(transport: Transport) -> list[str]:
        job_dir = RunPaths(transport.node.base_dir, job.id, job.attempt, 0).job_dir
        return await conflicts(transport, code.snapshot, job_dir, before)

    for node, found in (await pool.each(nodes, one)).items():
        if found and not isinstance(found, NodeError):
            raise InputError(f"{node}: {conflict_in_words(found)}", CONFLICT_HINT)


def adopt(store: MetadataStore, job: Job, code: NewCode) -> Job:
    """Make new code that of a job's next attempt; it counts once the record does, which the caller writes.

    The caller holds the lock. What a command that was killed in between had put there is replaced.
    """
    target = store.jobs.files(job.id).snapshot(code.version.attempt)
    with state_errors(target):
        if target.exists():
            shutil.rmtree(target)
        code.snapshot.rename(target)
        list_beside(code.snapshot).replace(list_beside(target))
        store.jobs.note_snapshot(Path(code.version.directory), target)
    return job.changed(code=code.version)
