"""Names and contents of a job's files, as a manifest has them."""

from __future__ import annotations

import contextlib
import hashlib
import os

CHUNK = 1024 * 1024


class Refused(Exception):
    """What was asked for cannot be done, in words."""


def local(text: str) -> str:
    """A name off the wire (its bytes as UTF-8, others escaped) as this Python spells it, whatever the locale is."""
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


def wire(text: str) -> str:
    """The opposite of `local`."""
    return os.fsencode(text).decode("utf-8", "surrogateescape")


def noted_digest(job_dir: str) -> str:
    """The digest that stands beside the code of a job; empty: none does."""
    with contextlib.suppress(FileNotFoundError), open(os.path.join(job_dir, "code.sha256")) as marker:
        return marker.read().strip()
    return ""


def sha256_of(path: str) -> str:
    """The SHA-256 sum of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()
