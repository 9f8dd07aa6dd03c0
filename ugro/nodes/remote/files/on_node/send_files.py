"""Sends files of a folder over stdout, each from where the reader has it already.

usage: send_files.py FOLDER

stdin: a line of JSON, [{"name": PATH, "have": BYTES, "sha256": SUM of so many of its first bytes}, …]; with
"have": null only its sum is sent.

For each file, in that order: a line of JSON, {"size", "from", "bytes", "mode", "mtime"} or {"problem"}; so many bytes
of it from there on; a line of JSON, {"sha256": SUM of all of it, "changed": null, "grown" or "rewritten"}. A file that
was cut short meanwhile is filled up with zeros, and was rewritten. At the end comes a line with {"end": true}.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from typing import Any

from ugro.nodes.remote.files.on_node.below import PIECE, open_file, open_top
from ugro.nodes.remote.on_node.answer import error_in_words


def say(out: Any, fields: dict[str, Any]) -> None:
    """Print a line of JSON."""
    out.write(json.dumps(fields).encode() + b"\n")


def digest_of(file: Any, size: int) -> Any:
    """The sum of so many bytes from where the file stands."""
    digest = hashlib.sha256()
    while size > 0:
        chunk = file.read(min(PIECE, size))
        if not chunk:
            break
        digest.update(chunk)
        size -= len(chunk)
    return digest


def send(file: Any, have: Any, known: str, out: Any) -> None:
    """Send one open file, as much of it as there is now."""
    status = os.fstat(file.fileno())
    size, begin, digest = status.st_size, 0, hashlib.sha256()
    if have is None:
        digest, begin = digest_of(file, size), size
    elif 0 < have <= size:
        prefix = digest_of(file, have)
        if prefix.hexdigest() == known:
            digest, begin = prefix, have
        else:
            file.seek(0)
    head = {"size": size, "from": begin, "bytes": size - begin, "mode": status.st_mode & 0o777}
    say(out, dict(head, mtime=status.st_mtime_ns))
    left, short = size - begin, False
    while left:
        chunk = file.read(min(PIECE, left))
        if not chunk:
            chunk, short = bytes(min(PIECE, left)), True
        digest.update(chunk)
        out.write(chunk)
        left -= len(chunk)
    say(out, {"sha256": digest.hexdigest(), "changed": changed(file, status, digest.hexdigest(), short)})


def changed(file: Any, before: os.stat_result, sent: str, short: bool) -> Any:
    """Whether a file changed while it was read: what was sent is a part of it as it is now, or of no moment at all."""
    now = os.fstat(file.fileno())
    if short:
        return "rewritten"
    if (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns):
        return None
    file.seek(0)
    same = now.st_size >= before.st_size and digest_of(file, before.st_size).hexdigest() == sent
    return "grown" if same else "rewritten"


def main() -> None:
    wanted = json.loads(sys.stdin.buffer.readline())
    out = sys.stdout.buffer
    try:
        top = open_top(sys.argv[1])
    except OSError as error:
        sys.exit(error_in_words(error))
    for one in wanted:
        try:
            found = open_file(top, one["name"])
        except OSError as error:
            say(out, {"problem": error.strerror or error_in_words(error)})
            continue
        with open(found, "rb") as file:
            send(file, one["have"], one["sha256"], out)
    say(out, {"end": True})
    out.flush()


if __name__ == "__main__":
    main()
