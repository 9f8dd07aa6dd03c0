"""The list of a snapshot's files, by which a node checks what arrived, and what differs between two such lists."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ugro.nodes.remote.code.on_node.files import wire

LeftOut = Callable[[str, bool], bool]
"""Whether a relative path is left out; the second argument says whether it is a folder."""

Entry = dict[str, Any]
"""One file: `name`, and `size`, `mode`, `mtime` (ns), `sha256`, or `link` for a symlink's target."""


@dataclass(frozen=True)
class Differences:
    """The files, by name, in which a code differs from the one before it; a file's time is no difference."""

    changed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changed or self.added or self.removed)


def differences(before: Sequence[Entry], now: Sequence[Entry]) -> Differences:
    """Return how the second list differs from the first."""
    old, new = ({entry["name"]: entry | {"mtime": None} for entry in entries} for entries in (before, now))
    return Differences(
        changed=tuple(name for name in new if name in old and new[name] != old[name]),
        added=tuple(name for name in new if name not in old),
        removed=tuple(name for name in old if name not in new),
    )


def list_beside(snapshot: Path) -> Path:
    """Return the path of the list of a snapshot's files; snapshots of an earlier UGRO have none."""
    return snapshot.with_name(f"{snapshot.name}.json")


def read_manifest(snapshot: Path) -> list[Entry]:
    """Every file of a snapshot, by the list beside it where that still fits what is there; else each file is read.

    Raises:
        OSError: one cannot be read.
    """
    paths = list(walk(snapshot))
    try:
        told = json.loads(list_beside(snapshot).read_bytes())
        entries: list[Entry] = told["entries"]
        same = digest_of(entries) == told["digest"] and [entry["name"] for entry in entries] == list(map(wire, paths))
        if same and all(_looks_listed(snapshot / path, entry) for path, entry in zip(paths, entries, strict=True)):
            return entries
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        pass  # an earlier UGRO took it, or the list is broken
    return [_entry(snapshot / path, path) for path in paths]


def _looks_listed(path: Path, entry: Entry) -> bool:
    """Whether a file of a snapshot looks as its list says, without reading it."""
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return bool(wire(os.readlink(path)) == entry.get("link"))
    return is_listed(status, entry)


def is_listed(status: os.stat_result, entry: Entry) -> bool:
    """Whether a regular file has the size, mode and time of its entry."""
    told = (entry.get("size"), entry.get("mode"), entry.get("mtime"))
    return stat.S_ISREG(status.st_mode) and (status.st_size, status.st_mode & 0o777, status.st_mtime_ns) == told


def hash_of(file: io.BufferedReader) -> str:
    """The SHA-256 of a file, from its beginning."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def encoded(entries: Sequence[Entry]) -> bytes:
    """The list as a node gets it, on one line."""
    return json.dumps(entries).encode()


def digest_of(entries: Sequence[Entry]) -> str:
    """Return the identity of a code: the SHA-256 of its list, as in `code.sha256` beside it on the nodes."""
    return hashlib.sha256(encoded(entries)).hexdigest()


def walk(root: Path, left_out: LeftOut = lambda path, folder: False, below: str = "") -> Iterator[str]:
    """Relative paths of everything under a folder but `.git` and the folders themselves, unless one is unreadable."""
    try:
        with os.scandir(root / below) as entries:
            found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    except OSError:
        yield below
        return
    for name, folder in found:
        path = f"{below}/{name}" if below else name
        if name == ".git" or left_out(path, folder):
            continue
        if folder:
            yield from walk(root, left_out, path)
        else:
            yield path


def _entry(path: Path, name: str) -> Entry:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return {"name": wire(name), "link": wire(os.readlink(path))}
    with path.open("rb") as file:
        digest = hash_of(file)
    mode, mtime = status.st_mode & 0o777, status.st_mtime_ns
    return {"name": wire(name), "size": status.st_size, "mode": mode, "mtime": mtime, "sha256": digest}
