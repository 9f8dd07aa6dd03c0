"""Checkpoints on one node: finds them, says whether they are complete, and brings one to this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import Field, TypeAdapter

from ugro.common.errors import NodeRefused, StateError
from ugro.common.models.checkpoint import FoundCheckpoint
from ugro.common.models.record import Record
from ugro.common.text import printable, some
from ugro.nodes.remote.files import fetch as files
from ugro.nodes.remote.files.fetch import Fetch, Wanted, part_of
from ugro.nodes.remote.python import ask_script
from ugro.nodes.transport import Transport

LOOK_TIMEOUT = 120.0

Progress = Callable[[int, int], None]
"""Called with the bytes received so far and in all."""


class _Parts(Record):
    """The files of a checkpoint: path below a folder of the node, size, and name below the checkpoint."""

    folder: str
    files: tuple[tuple[str, Annotated[int, Field(ge=0)], str], ...]


_PARTS = TypeAdapter(_Parts)


@dataclass(frozen=True)
class SearchResult:
    """The checkpoints that a node has, and the places that were not searched, each with the reason."""

    found: list[FoundCheckpoint]
    passed: tuple[str, ...] = ()


class _Found(Record):
    found: list[FoundCheckpoint]
    passed: tuple[str, ...]


_SEARCH = TypeAdapter(_Found)


async def find(transport: Transport, job_dir: str, roots: Sequence[str], pattern: str, since: float) -> SearchResult:
    """Find the checkpoints below some directories of a node that a job may have written: since it began, by its own
    files in `job_dir`, or since `since` (the node's clock, epoch seconds) where these do not say.

    Raises:
        NodeRefused: the search did not finish. NodeError: as `Transport.run` does.
    """
    args = (f"{since:.3f}", pattern, job_dir, *roots)
    answer = await ask_script(
        transport, "checkpoints/checkpoints.py", args, _SEARCH, "its checkpoints cannot be listed", timeout=LOOK_TIMEOUT
    )
    try:
        for name in [name for one in answer.found for name in (one.name, *one.shards)]:
            _inside(name)
    except OSError:
        raise NodeRefused(transport.name, "its list of checkpoints cannot be understood") from None
    return SearchResult(answer.found, tuple(map(printable, answer.passed)))


async def fetch(
    transport: Transport,
    path: str,
    target: Path,
    progress: Progress | None = None,
    names: Sequence[str] = (),
) -> None:
    """Bring a checkpoint to `target` on this machine, a folder or a file as it is there: whole, or not at all.

    With `names` only these files and folders below `path`. Every file's SHA-256 sum is compared.

    Raises:
        StateError: it cannot be written here. NodeRefused: it cannot be read there, or changed meanwhile.
        NodeError: as `Transport.run` does.
    """
    parts = await ask_script(
        transport, "checkpoints/parts.py", (path, *names), _PARTS, f"{printable(path)} cannot be read",
        timeout=LOOK_TIMEOUT,
    )  # fmt: skip
    partial = target.with_name(f".{target.name}.partial")
    try:
        _remove(partial)
        wanted = [Wanted(part, size, partial / _inside(name) if name else partial) for part, size, name in parts.files]
        came = await files.fetch(transport, parts.folder, wanted, progress)
        if came.error:
            raise came.error
        _require_all(transport, path, came)
        _remove(target)
        os.replace(partial, target)
    except OSError as error:
        raise StateError(f"the checkpoint cannot be written to {target}: {error.strerror or error}") from None
    finally:
        _remove(partial)
        part_of(partial).unlink(missing_ok=True)


def _require_all(transport: Transport, path: str, came: Fetch) -> None:
    """See that all files of a checkpoint came as they are.

    Raises:
        NodeRefused: one did not, or changed meanwhile.
    """
    changed = [f"{one.wanted.path}: it changed meanwhile" for one in came.done if one.how == "grown"]
    if problems := [*(f"{part}: {why}" for part, why in came.problems.items()), *changed]:
        problem = f"{printable(path)} was received incomplete: {printable(some(problems, '; '))}"
        raise NodeRefused(transport.name, problem)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _inside(name: str) -> PurePosixPath:
    """A node's file name, which must stay below the checkpoint's folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or not path.parts:
        raise OSError(f"a file of it has the name {printable(name)!r}")
    return path
