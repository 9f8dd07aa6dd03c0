"""The files of a snapshot: frozen copies, shared as hard links with the snapshot before where nothing changed.

A snapshot stays a plain folder that needs no other one. Whichever goes first, the file system counts the links, so
nothing has to be counted here and no crash leaves a wrong count. Nothing ever writes into a snapshot.

Beside it stands its list, `<snapshot>.json`: what each file holds, and how its source looked when it was read. A source
that still looks so is not read again, under two conditions. It was last changed well before it was read, since a change
within one tick of its clock would not show (git calls such an entry racy). And the machine was not started since: what
a power failure left of the files is known only once they are hashed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import stat
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ugro.common.files import write_atomic
from ugro.nodes.code_sync.manifest import Entry, digest_of, hash_of, is_listed, list_beside
from ugro.nodes.remote.code.on_node.files import local, wire

RACY_SECONDS = 10.0
"""A file that was changed less than this before it was read is read again; timestamps may be as coarse as 2 s (FAT)."""

TRIES = 3
"""How often a file is read that changes meanwhile. Then the last copy counts: a log may grow for ever."""

CHUNK = 1024 * 1024

Look = tuple[int, ...]
"""What changes with every change of a file: inode, size, mode, and both times in ns."""


@dataclass(frozen=True)
class _Known:
    """What the list of an earlier snapshot says, by the name of each file. `seen` is empty after another boot."""

    folder: Path = Path()
    text: str = ""
    entries: Mapping[str, Entry] = field(default_factory=dict)
    seen: Mapping[str, Look] = field(default_factory=dict)
    this_boot: bool = False


def freeze(root: Path, names: Iterable[str], target: Path, before: Path | None) -> list[Entry]:
    """Bring files and symlinks of a folder to `target`, sharing with the snapshot `before` what is the same.

    Files that are gone by now are skipped. Writes the list to `<target>.json`, and returns it.

    Raises:
        OSError: a file cannot be read, or the copy not be written.
    """
    known = _known(before)
    entries: list[Entry] = []
    seen: dict[str, Look] = {}
    made = ""
    for name in sorted(names, key=lambda name: name.split("/")):
        if (folder := name.rpartition("/")[0]) != made:
            (target / folder).mkdir(parents=True, exist_ok=True)
            made = folder
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            entry, look = _freeze_one(root / name, target / name, name, known)
            entries.append(entry)
            if look:
                seen[entry["name"]] = look
    told = json.dumps({"digest": digest_of(entries), "boot": _boot_id(), "entries": entries, "seen": seen})
    if told != known.text or not _link(list_beside(known.folder), list_beside(target)):
        write_atomic(list_beside(target), told)
    return entries


def _known(before: Path | None) -> _Known:
    """Return what is known of an earlier snapshot; nothing if its list is missing or broken."""
    if before is None:
        return _Known()
    try:
        told = json.loads(text := list_beside(before).read_text(encoding="utf-8", errors="surrogateescape"))
        if digest_of(told["entries"]) != told["digest"]:
            return _Known()
        this_boot = bool(told["boot"]) and told["boot"] == _boot_id()
        entries = {entry["name"]: entry for entry in told["entries"]}
        seen = {name: tuple(look) for name, look in told["seen"].items()} if this_boot else {}
        return _Known(before, text, entries, seen, this_boot)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return _Known()


def _boot_id() -> str:
    """Changes whenever this machine starts; empty where it is not known."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _freeze_one(source: Path, target: Path, name: str, known: _Known) -> tuple[Entry, Look | None]:
    """One file or symlink: its entry, and how it looked where that can be relied on."""
    if source.is_symlink():
        link = os.readlink(source)
        os.symlink(link, target)
        return {"name": wire(name), "link": wire(link)}, None
    with _opened(source) as file:
        before = known.entries.get(wire(name))
        look = _look(file)
        if before and "sha256" in before:
            same = known.seen.get(before["name"]) == look or _entry(name, hash_of(file), look) == before
            if same and _linked(known, before, target):
                return before, _settled(look)
        for _ in range(TRIES):
            entry = _copy(file, target, name)
            look, earlier = _look(file), look
            if look == earlier:
                return entry, _settled(look)
        return entry, None


def _opened(source: Path) -> io.BufferedReader:
    """A file as it is now; opening it is what makes a network file system ask its server how it looks."""
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no file any more", str(source))
    return os.fdopen(descriptor, "rb")


def _look(file: io.BufferedReader) -> Look:
    status = os.fstat(file.fileno())
    return (status.st_ino, status.st_size, stat.S_IMODE(status.st_mode), status.st_mtime_ns, status.st_ctime_ns)


def _settled(look: Look) -> Look | None:
    """Return a file's stat if it is old enough for another change to show in it, else None."""
    return look if max(look[3:]) < time.time_ns() - int(RACY_SECONDS * 1e9) else None


def _entry(name: str, digest: str, look: Look) -> Entry:
    return {"name": wire(name), "size": look[1], "mode": look[2] & 0o777, "mtime": look[3], "sha256": digest}


def _linked(known: _Known, entry: Entry, target: Path) -> bool:
    """Share a file of the earlier snapshot, if it is there as its list says and the file system takes the link."""
    if not _link(known.folder / local(entry["name"]), target):
        return False
    if is_listed(target.lstat(), entry) and (known.this_boot or _holds(target, entry["sha256"])):
        return True
    target.unlink()
    return False


def _link(source: Path, target: Path) -> bool:
    """Whether a second name could be given: not where the file is gone or has too many, or without links at all."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        return False
    return True


def _holds(path: Path, digest: str) -> bool:
    with path.open("rb") as file:
        return hash_of(file) == digest


def _copy(file: io.BufferedReader, target: Path, name: str) -> Entry:
    """Copy what a file holds from its beginning, with its mode and time. The entry is that of the copy."""
    look = _look(file)
    digest = hashlib.sha256()
    file.seek(0)
    target.unlink(missing_ok=True)
    with target.open("xb") as copy:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            copy.write(chunk)
        copy.flush()
        os.fchmod(copy.fileno(), look[2])
        os.utime(copy.fileno(), ns=(look[3], look[3]))
        return _entry(name, digest.hexdigest(), (look[0], copy.tell(), *look[2:]))


def freed_bytes(snapshots: Sequence[Path]) -> int:
    """The bytes of files that would be free if all these snapshots went, and no other one shares them."""
    links: dict[tuple[int, int], int] = {}
    found: dict[tuple[int, int], os.stat_result] = {}
    for snapshot in snapshots:
        for folder, _, files in os.walk(snapshot):
            for name in files:
                with contextlib.suppress(FileNotFoundError):
                    status = os.lstat(os.path.join(folder, name))
                    key = (status.st_dev, status.st_ino)
                    links[key], found[key] = links.get(key, 0) + 1, status
    return sum(status.st_size for key, status in found.items() if status.st_nlink <= links[key])
