"""Opens what lies below a folder, one name after the other: no link on the way is followed."""

from __future__ import annotations

import os
import stat

PIECE = 1024 * 1024
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""A FIFO is opened without waiting for its writer, and refused then."""


class Outside(OSError):
    """A name that leads out of the folder, or to no regular file."""


def names_of(path: str) -> list[str]:
    """The names on the way to a path below a folder."""
    names = path.split("/") if path else []
    if any(name in ("", ".", "..") or "\0" in name for name in names):
        raise Outside(22, "the path leads out of the folder")
    return names


def open_top(path: str) -> int:
    """The folder itself. What leads to it is the node's own business, but it is no link."""
    above, _, name = os.path.expanduser(path).rstrip("/").rpartition("/")
    parent = os.open(above or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return os.open(name, FOLDER, dir_fd=parent)
    finally:
        os.close(parent)


def open_folder(top: int, names: list[str]) -> int:
    """A folder below the top one; a new descriptor in any case."""
    found = os.dup(top)
    for name in names:
        try:
            below = os.open(name, FOLDER, dir_fd=found)
        finally:
            os.close(found)
        found = below
    return found


def open_file(top: int, path: str) -> int:
    """A regular file below the top folder, for reading."""
    names = names_of(path)
    if not names:
        raise Outside(22, "it is no regular file")
    folder = open_folder(top, names[:-1])
    try:
        found = os.open(names[-1], FILE, dir_fd=folder)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        raise Outside(22, "it is no regular file")
    return found
