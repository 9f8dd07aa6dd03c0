"""Globs of files below a folder: `out/**`, `*.pt`, `logs/run-?.txt`; the name of a folder stands for all of it."""

from __future__ import annotations

import re
from functools import cache

GLOB_CHARACTERS = re.compile(r"[*?\[\]\\]")


def check_glob(glob: str) -> str:
    """Return a glob of paths below a folder, without what says nothing (`./`, a slash at the end).

    Raises:
        ValueError: it leads out of the folder, or names nothing.
    """
    parts = [part for part in glob.split("/") if part not in ("", ".")]
    if glob.startswith(("/", "~")):
        raise ValueError("a path below the job's folder is expected, not an absolute one")
    if ".." in parts:
        raise ValueError("'..' leads out of the job's folder")
    if not parts or "\0" in glob or "\n" in glob:
        raise ValueError("a path or a glob is expected, as in out/**; ** means all files")
    glob_regex("/".join(parts))
    return "/".join(parts)


@cache
def glob_regex(glob: str) -> str:
    """Return the regular expression of the paths that a glob names, where a newline in a path is written `\\0`.

    Raises:
        ValueError: it is no glob.
    """
    from pathspec import GitIgnoreSpec  # here, since few commands have a use for it

    [pattern] = GitIgnoreSpec.from_lines([f"/{glob}"]).patterns
    if pattern.regex is None:
        raise ValueError("it names nothing")
    return str(pattern.regex.pattern)


def literal_part(glob: str) -> str:
    """Return the folder or file below which everything is that a glob names; empty: it may be anywhere."""
    parts = glob.split("/")
    wild = next((number for number, part in enumerate(parts) if GLOB_CHARACTERS.search(part)), len(parts))
    return "/".join(parts[:wild])


def has_wildcard(glob: str) -> bool:
    """Return whether a glob is more than one path."""
    return GLOB_CHARACTERS.search(glob) is not None
