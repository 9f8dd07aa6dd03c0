"""What lies in a job's folder on one node."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from ugro.common.globs import glob_regex, literal_part
from ugro.common.models.record import Record
from ugro.common.text import visible
from ugro.nodes.remote.answers import payload
from ugro.nodes.remote.bundle import load
from ugro.nodes.remote.python import RUN_PROGRAM, require_python
from ugro.nodes.transport import Transport

LOOK_TIMEOUT = 120.0
MOST_FILES = 20_000
"""Entries of one answer; a folder with more is asked for in parts."""

Kind = Literal["file", "folder", "link", "other"]
Number = Annotated[int, Field(ge=0, le=2**63 - 1)]
Stamp = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]


@dataclass(frozen=True)
class FolderEntry:
    """One name below a folder; `modified` in nanoseconds since the epoch by the node's clock."""

    path: str
    kind: Kind
    size: int
    modified: int
    mode: int


@dataclass(frozen=True)
class FolderListing:
    """What was found. `found` are the places asked for that are there; with `more` it is not all of it.

    `odd`: how many names are no UTF-8, so that they are left out; `unread`: what the account may not read.
    """

    exists: bool
    found: tuple[str, ...] = ()
    storage: str = ""
    entries: tuple[FolderEntry, ...] = ()
    more: bool = False
    odd: int = 0
    unread: tuple[str, ...] = ()


class _Answer(Record):
    exists: bool
    found: tuple[str, ...] = ()
    storage: str = ""
    entries: tuple[tuple[str, Kind, Number, Stamp, Number], ...] = ()
    more: bool = False
    odd: Number = 0
    unread: tuple[str, ...] = ()


_ANSWER = TypeAdapter(_Answer)


async def list_folder(transport: Transport, folder: str, base_dir: str, path: str, depth: int) -> FolderListing:
    """List a folder on a node, from a path below it, so many levels deep.

    Raises:
        NodeRefused: it cannot be read. NodeError: as `Transport.run` does.
    """
    return await _look(transport, folder, base_dir, {"roots": [path], "patterns": None, "depth": depth})


async def find_files(transport: Transport, folder: str, base_dir: str, globs: Sequence[str]) -> FolderListing:
    """List the files and links below a folder on a node that globs name. Links are not followed.

    Raises:
        NodeRefused: it cannot be read. NodeError: as `Transport.run` does.
    """
    patterns = [glob_regex(glob) for glob in globs]
    roots = _outermost({literal_part(glob) for glob in globs})
    return await _look(transport, folder, base_dir, {"roots": roots, "patterns": patterns, "depth": 0})


def _outermost(roots: set[str]) -> list[str]:
    """Return the roots that lie in no other one."""
    return sorted(root for root in roots if not any(str(above) in roots for above in _above(root)))


def _above(root: str) -> list[str]:
    return ["" if str(above) == "." else str(above) for above in PurePosixPath(root).parents] if root else []


async def _look(transport: Transport, folder: str, base_dir: str, asked: dict[str, object]) -> FolderListing:
    outcome = await transport.run(
        RUN_PROGRAM,
        (transport.node.python, load("files/list_files.py"), folder, base_dir),
        data=json.dumps({**asked, "limit": MOST_FILES}).encode() + b"\n",
        timeout=LOOK_TIMEOUT,
    )
    require_python(transport, outcome)
    problem = f"{visible(folder)} cannot be listed"
    found = payload(transport, outcome, "list_files", _ANSWER, problem)
    entries = tuple(FolderEntry(*entry) for entry in found.entries if is_inside(entry[0]))
    return FolderListing(found.exists, found.found, found.storage, entries, found.more, found.odd, found.unread)


def is_inside(path: str) -> bool:
    """Return whether a path that a node names stays below the folder that it is of."""
    return bool(path) and "\0" not in path and all(part not in ("", ".", "..") for part in path.split("/"))
