"""Names the files of a checkpoint. Answers with one object.

usage: parts.py PATH [NAME…]

With names, only these files and folders below PATH. `folder` is where they are, all links to it followed; `files` are
`[PATH below it, SIZE, NAME]`, where the name is the path below PATH ("" for a file itself). Links below are left out.
"""

from __future__ import annotations

import os
import stat
import sys

from ugro.nodes.remote.on_node.answer import answer, refuse

KIND = "parts"


def files_of(root: str, part: str) -> list[tuple[str, int]]:
    """Path and size of every file of a part of a folder, or of all of it; links are not followed."""
    top = os.path.join(root, part) if part else root
    if os.path.isfile(top):
        return [(top, os.stat(top).st_size)]
    found = []
    for place, folders, names in os.walk(top):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(place, name)
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode):
                found.append((path, status.st_size))
    return found


def main() -> None:
    asked = os.path.expanduser(sys.argv[1])
    root = os.path.realpath(asked)
    files = [file for part in sys.argv[2:] or [""] for file in files_of(root, part)]
    if not files:
        refuse(KIND, f"there is nothing at {sys.argv[1]}")
    single = os.path.isfile(root)
    folder = os.path.dirname(root) if single else root
    try:
        named = [
            [os.path.relpath(os.path.realpath(path), folder), size, "" if single else os.path.relpath(path, root)]
            for path, size in files
        ]
    except OSError as error:
        refuse(KIND, error.strerror or str(error))
    answer(KIND, {"folder": folder, "files": named})


if __name__ == "__main__":
    main()
