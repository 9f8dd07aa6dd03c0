"""Files of jobs: list them on their nodes, copy them to a folder of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from ugro.common.errors import EXIT_INPUT, EXIT_NODES, EXIT_OK, InputError, StateError
from ugro.common.globs import check_glob, glob_regex
from ugro.common.models.job import Job
from ugro.common.paths import CODE, RunPaths
from ugro.common.text import visible
from ugro.control_plane.metadata_store.output_store.choosing import one_of_each_storage, sharing
from ugro.control_plane.metadata_store.output_store.files import FetchedFiles, JobFilesOnNodes, NodeFiles, places
from ugro.control_plane.metadata_store.records import state_errors
from ugro.control_plane.scheduler.attempts import in_attempt
from ugro.nodes.remote.files.fetch import PART
from ugro.nodes.remote.files.listing import MOST_FILES, FolderEntry
from ugro.nodes.remote.files.on_node.below import open_top
from ugro.nodes.remote.files.on_node.list_files import FileWalk, Full
from ugro.service.context import Context
from ugro.service.documents import error_document
from ugro.service.schemas.files import (
    FileDocument,
    FilesDocument,
    ListFiles,
    ListOutputs,
    MissingFile,
    NodeFilesDocument,
    OutputFilesDocument,
    Pull,
    PullAnswer,
    PullDocument,
    PulledFile,
)

DEEPEST = 64
"""Levels of folders that a listing goes down at most."""


async def listing(context: Context, request: ListFiles) -> FilesDocument:
    """List what a job's folder holds on each node.

    Raises:
        InputError: there is no such job, attempt, node or path, or the job has not started.
        NodeError: none of its nodes could be asked.
    """
    job = in_attempt(context.store.jobs.find(request.job), request.attempt)
    configs = places(context.cluster, job, request.node)
    path = "" if request.path in ("", ".", "./") else _checked(request.path)
    files = JobFilesOnNodes((await context.reach()).pool, job, configs)
    found = await files.list_folder(path, max(1, min(request.depth, DEEPEST)))
    if found.silent and not found.listings:
        raise next(iter(found.silent.values()))
    if not found.silent and not any(one.found for one in found.listings.values()):
        what = f"no {visible(path)}" if path else "no folder of it"
        hint = f"see what there is: ugro ls {job.id}" if path else "it was removed, or its start failed: ugro events"
        raise InputError(f"{job.id} has {what} on {', '.join(found.listings)}", hint)
    shares = sharing(found.listings)
    return FilesDocument(
        id=job.id,
        attempt=job.attempt,
        path=path,
        nodes=tuple(
            NodeFilesDocument(
                node=node,
                same_as=shares[node],
                folder=f"{RunPaths(configs[node].base_dir, job.id, job.attempt, 0).job_dir}/{CODE}",
                exists=bool(one.found),
                files=tuple(map(_file, one.entries[: request.limit])),
                more=one.more,
                beyond=len(one.entries[request.limit :]) if request.limit is not None else 0,
                unnamed=one.odd,
                unreadable=one.unread,
            )
            for node, one in one_of_each_storage(found.listings).items()
        ),
        silent=tuple(map(error_document, found.silent.values())),
    )


def _checked(path: str) -> str:
    try:
        return check_glob(path)
    except ValueError as error:
        raise InputError(f"'{visible(path)}': {error}", "name it as `ugro ls JOB` shows it") from None


async def on_master(context: Context, request: ListOutputs) -> OutputFilesDocument:
    """List the files of a job's outputs that are on the master; none where none came so far.

    Raises:
        InputError: there is no such job. StateError: their folder cannot be read.
    """
    job = context.store.jobs.find(request.job)
    folder = context.store.jobs.files(job.id).outputs
    found = await asyncio.to_thread(_whole_files, folder)
    return OutputFilesDocument(
        id=job.id,
        folder=str(folder),
        files=tuple(map(_file, found[: request.limit])),
        beyond=len(found[request.limit :]) if request.limit is not None else 0,
    )


def _whole_files(folder: Path) -> list[FolderEntry]:
    """Return the files below a folder; one that is still coming is none."""
    walk = FileWalk(lambda path, mode: stat.S_ISREG(mode) and not path.endswith(PART), MOST_FILES)
    with state_errors(folder), contextlib.suppress(FileNotFoundError, Full):
        top = open_top(str(folder))
        try:
            walk.below(top, "", DEEPEST)
        finally:
            os.close(top)
    return [FolderEntry(*entry) for entry in walk.entries]


def _file(entry: FolderEntry) -> FileDocument:
    return FileDocument(
        path=entry.path,
        kind=entry.kind,
        bytes=entry.size,
        modified_at=entry.modified / 1e9,
        executable=entry.kind == "file" and bool(entry.mode & 0o100),
    )


async def pull(context: Context, request: Pull) -> PullAnswer:
    """Copy files of a job from its nodes to this machine.

    Raises:
        InputError: there is no such job, attempt or node, the job has not started, nothing is named or found, or the
            folder cannot be made.
        NodeError: none of its nodes could be asked. StateError: the folder has too little space.
    """
    job = in_attempt(context.store.jobs.find(request.job), request.attempt)
    configs = places(context.cluster, job, request.node)
    globs = tuple(dict.fromkeys(map(_checked, request.paths))) or context.store.jobs.spec(job.id).outputs
    if not globs:
        raise InputError(
            f"{job.id} declares no outputs, so it is not known what to copy",
            f"name files: ugro pull {job.id} 'out/**'; or declare them: --outputs 'out/**', `outputs:` in job.yaml",
        )
    target = _here(job.id if request.to is None else request.to)
    files = JobFilesOnNodes((await context.reach()).pool, job, configs)
    found = await files.find(globs)
    if found.silent and not found.listings:
        raise next(iter(found.silent.values()))
    unmatched = unmatched_of(globs, found)
    if not found.silent and len(unmatched) == len(globs):
        hint = f"see what there is: ugro ls {job.id}"
        raise InputError(f"{job.id} has nothing named {_named(globs)} on {', '.join(found.listings)}", hint)
    brought = await files.bring(found, target, context.tell_sent)
    document = pull_document(job, target, brought, unmatched)
    return PullAnswer(answer=document, exit_code=_exit_code(brought, unmatched if request.paths else ()))


def _here(folder: str) -> Path:
    """Return a folder of this machine as it was typed.

    Raises:
        InputError: it is empty, or names a place on another machine.
    """
    if not folder:
        raise InputError("--to is empty", "name a folder of this machine, or leave --to out")
    if re.match(r"[^/]*:", folder):  # as for scp and rsync
        raise InputError(
            f"{visible(folder)} is a place on another machine: a pull copies to this one",
            f"name a folder of this machine; one with a colon in its name: --to {shlex.quote(f'./{visible(folder)}')}",
        )
    return Path(folder).expanduser().absolute()


def unmatched_of(globs: Sequence[str], found: NodeFiles) -> tuple[str, ...]:
    """Return the globs that name nothing on any node."""
    paths = [entry.path.replace("\n", "\0") for one in found.listings.values() for entry in one.entries]
    return tuple(glob for glob in globs if not any(map(re.compile(glob_regex(glob)).search, paths)))


def _named(globs: Iterable[str]) -> str:
    return ", ".join(map(visible, globs))


def pull_document(job: Job, target: Path, brought: FetchedFiles, unmatched: tuple[str, ...]) -> PullDocument:
    """Return the document of what came."""
    return PullDocument(
        id=job.id,
        attempt=job.attempt,
        folder=str(target),
        files=tuple(
            PulledFile(
                path=choice.name,
                node=choice.node,
                same_on=choice.others,
                bytes=one.size,
                received=one.received,
                sha256=one.sha256,
                how=one.how,
            )
            for choice, one in brought.done
        ),
        missing=tuple(MissingFile(path=one.path, node=one.node, reason=one.why) for one in brought.missing),
        left_out=brought.left_out,
        unmatched=unmatched,
        errors=tuple(map(error_document, brought.errors)),
    )


def _exit_code(brought: FetchedFiles, unmatched: Sequence[str]) -> int:
    for error in brought.errors:
        if isinstance(error, StateError):
            return error.exit_code
    if brought.missing or brought.errors:
        return EXIT_NODES
    return EXIT_OK if brought.done and not unmatched else EXIT_INPUT
