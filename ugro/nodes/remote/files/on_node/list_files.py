"""Lists what lies in a folder. Links are listed and not followed.

usage: list_files.py FOLDER BASE_DIR

stdin: a line of JSON, {"roots": [PATH…], "patterns": [REGEX…] or null, "depth": N, "limit": N}

With patterns, the files and links whose path below FOLDER one of them matches (a newline in it as a NUL), however deep;
else everything below the roots, down to that depth. BASE_DIR is where the id of the storage stands.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import stat
import sys
from typing import Any, Callable

from ugro.nodes.remote.files.on_node.below import names_of, open_folder, open_top
from ugro.nodes.remote.on_node.answer import answer, error_in_words, refuse

KIND = "list_files"
DEEPEST = 64
MOST_SEEN = 1000000
MOST_BYTES = 3 * 1024 * 1024
"""Of an answer; a longer one would be cut off on its way."""


class Full(Exception):
    """More is there than is listed."""


class FileWalk:
    """What was found so far."""

    def __init__(self, wanted: Callable[[str, int], bool], limit: int) -> None:
        self.wanted, self.limit = wanted, limit
        self.entries: list[list[Any]] = []
        self.unread: list[str] = []
        self.odd = self.seen = self.bytes = 0

    def take(self, path: str, status: os.stat_result) -> None:
        """One name, if it is wanted."""
        self.seen += 1
        if self.seen > MOST_SEEN:
            raise Full
        if not self.wanted(path, status.st_mode):
            return
        try:
            size = len(path.encode()) * 2 + 60
        except UnicodeEncodeError:
            self.odd += 1
            return
        if len(self.entries) >= self.limit or self.bytes + size > MOST_BYTES:
            raise Full
        self.bytes += size
        mode = stat.S_IMODE(status.st_mode)
        self.entries.append([path, kind_of(status.st_mode), status.st_size, status.st_mtime_ns, mode])

    def below(self, folder: int, before: str, depth: int) -> None:
        """Everything in an open folder, so many levels deep."""
        with os.scandir(folder) as found:
            names = sorted(entry.name for entry in itertools.islice(found, MOST_SEEN))
        for name in names:
            path = before + name
            try:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                self.take(path, status)
                if stat.S_ISDIR(status.st_mode) and depth > 1:
                    self.inside(folder, name, path, depth - 1)
            except FileNotFoundError:
                continue
            except OSError:
                self.unread.append(path)

    def inside(self, folder: int, name: str, path: str, depth: int) -> None:
        """The same of a folder in it."""
        child = open_folder(folder, [name])
        try:
            self.below(child, path + "/", depth)
        finally:
            os.close(child)


def kind_of(mode: int) -> str:
    """Return the kind of a file by its mode."""
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "link" if stat.S_ISLNK(mode) else "other"


def look(walk: FileWalk, top: int, root: str, depth: int) -> bool:
    """List what lies at a path below the folder; False: there is nothing."""
    names = names_of(root)
    if not names:
        walk.below(top, "", depth)
        return True
    try:
        above = open_folder(top, names[:-1])
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        status = os.stat(names[-1], dir_fd=above, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            walk.inside(above, names[-1], root, depth)
        else:
            walk.take(root, status)
    except FileNotFoundError:
        return False
    finally:
        os.close(above)
    return True


def main() -> None:
    asked: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    patterns = asked["patterns"]
    known = [re.compile(pattern) for pattern in patterns or ()]

    def wanted(path: str, mode: int) -> bool:
        if patterns is None:
            return True
        subject = path.replace("\n", "\0")
        return not stat.S_ISDIR(mode) and any(one.search(subject) for one in known)

    walk, more, found = FileWalk(wanted, asked["limit"]), False, []
    try:
        top = open_top(sys.argv[1])
    except FileNotFoundError:
        answer(KIND, {"exists": False, "found": []})
        return
    except OSError as error:
        refuse(KIND, error_in_words(error))
    try:
        for root in asked["roots"]:
            if look(walk, top, root, DEEPEST if patterns is not None else asked["depth"]):
                found.append(root)
    except Full:
        more = True
    except OSError as error:
        refuse(KIND, error_in_words(error))
    storage = ""
    try:
        with open(os.path.join(os.path.expanduser(sys.argv[2]), "storage-id"), "rb") as file:
            storage = file.read(100).decode("utf-8", "replace").strip()
    except OSError:
        pass
    answer(
        KIND,
        {
            "exists": True,
            "found": found,
            "storage": storage,
            "entries": walk.entries,
            "more": more,
            "odd": walk.odd,
            "unread": [path.encode("utf-8", "replace").decode()[:200] for path in walk.unread[:20]],
        },
    )


if __name__ == "__main__":
    main()
