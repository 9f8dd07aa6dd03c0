"""Sends a file, or every file of a folder, over stdout.

usage: send_files.py PATH [NAME…]

With names, only these files and folders below PATH are sent.

First a line of JSON, `[[NAME, SIZE], …]` with names below PATH ("" for a file itself), then the bytes of each in that
order, then a line of JSON with their SHA-256 sums. A file that changes its size meanwhile ends it with exit code 74.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from typing import Any

CHUNK = 1024 * 1024
CHANGED = 74


def files_of(root: str, part: str) -> list[tuple[str, str, int]]:
    """Path, name and size of every file of a part of a folder, or of all of it; links are not followed."""
    top = os.path.join(root, part) if part else root
    if os.path.isfile(top):
        return [(top, part, os.stat(top).st_size)]
    found = []
    for place, folders, names in os.walk(top):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(place, name)
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode):
                found.append((path, os.path.relpath(path, root), status.st_size))
    return found


def send(path: str, size: int, out: Any) -> str:
    digest, left = hashlib.sha256(), size
    with open(path, "rb") as file:
        while left:
            chunk = file.read(min(CHUNK, left))
            if not chunk:
                sys.exit(CHANGED)
            digest.update(chunk)
            out.write(chunk)
            left -= len(chunk)
        if file.read(1):
            sys.exit(CHANGED)
    return digest.hexdigest()


def main() -> None:
    out = sys.stdout.buffer
    root = os.path.expanduser(sys.argv[1])
    files = [file for part in sys.argv[2:] or [""] for file in files_of(root, part)]
    if not files:
        sys.exit(f"there is nothing at {sys.argv[1]}")
    out.write(json.dumps([[name, size] for _, name, size in files]).encode() + b"\n")
    sums = [send(path, size, out) for path, _, size in files]
    out.write(json.dumps(sums).encode() + b"\n")
    out.flush()


if __name__ == "__main__":
    main()
