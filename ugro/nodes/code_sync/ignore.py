"""Ignore files, decided as git decides: folder by folder from the top.

Nothing below a folder that is left out comes back. Else the last pattern that names the path itself decides, in the
closest ignore file that has one. pathspec translates the patterns; its own matching also lets a pattern that names a
parent speak for the path, and then `*` with `!*/` and `!*.py`, which many repositories have, leaves out every folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from ugro.common.errors import InputError

IGNORE_FILE = ".ugroignore"
"""Names what is not sent with a job, in git's syntax."""


@dataclass(frozen=True)
class _Rule:
    """One line of an ignore file."""

    regex: re.Pattern[str]
    negated: bool
    folders_only: bool
    anchored: bool

    def names(self, path: str, folder: bool) -> bool:
        """Whether the line names this very path (relative to its ignore file), not only a folder above it."""
        if self.folders_only and not folder:
            return False
        # `.` does not match a newline, and no line of an ignore file can hold one.
        subject = (path if self.anchored else path.rpartition("/")[2]).replace("\n", "\0")
        found = self.regex.search(subject)
        # The one group of pathspec's expressions is the slash after a folder above.
        return found is not None and found.lastindex is None


class IgnoreFiles:
    """The ignore files of one name in a tree. `first` are patterns that every file of that name may overrule."""

    def __init__(self, root: Path, name: str, first: Iterable[str] = ()) -> None:
        self._root = root
        self._name = name
        self._rules = {"": _rules([*first, *read_lines(root / name)])}
        self._folders = {"": False}

    def leaves_out(self, path: str, folder: bool = False) -> bool:
        """Whether a path, relative to the root, is left out, itself or with a folder above it.

        Raises:
            InputError: an ignore file cannot be read.
        """
        if not folder:
            return self.leaves_out(path.rpartition("/")[0], folder=True) or self._decides(path, folder)
        if path not in self._folders:
            parent = path.rpartition("/")[0]
            self._folders[path] = self.leaves_out(parent, folder=True) or self._decides(path, folder)
        return self._folders[path]

    def admit(self, folder: str) -> None:
        """Take a folder in, whatever its name says; what is below it is decided as ever."""
        self._folders[folder] = False

    def _decides(self, path: str, folder: bool) -> bool:
        at = path
        while at:
            at = at.rpartition("/")[0]
            if at not in self._rules:
                self._rules[at] = _rules(read_lines(self._root / at / self._name))
            relative = path[len(at) :].lstrip("/")
            for rule in reversed(self._rules[at]):
                if rule.names(relative, folder):
                    return not rule.negated
        return False


def read_lines(path: Path) -> list[str]:
    """Return the lines of an ignore file, which need not exist.

    Raises:
        InputError: it cannot be read, so it is unknown what it leaves out.
    """
    try:
        return path.read_bytes().decode("utf-8-sig", "surrogateescape").split("\n")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def literal(path: str) -> str:
    """The pattern that names one path, relative to the root, and no other."""
    return "/" + re.sub(r"([\\*?\[\]! ])", r"\\\1", path)


def _rules(lines: Iterable[str]) -> list[_Rule]:
    return [rule for line in lines if (rule := _rule(line))]


def _rule(line: str) -> _Rule | None:
    """A line's rule, or None for comments, blank lines and what git would not take as a pattern."""
    line = line.removesuffix("\r")
    if not line.endswith("\\ "):
        line = line.rstrip(" ")
    if line.startswith("#"):
        return None
    negated, line = line.startswith("!"), line.removeprefix("!")
    folders_only, line = line.endswith("/"), line.removesuffix("/")
    anchored = "/" in line
    if line.endswith("/**"):
        line += "/*"  # everything inside, and not the folder itself
    if line.startswith(("!", "#")):
        line = "\\" + line
    try:
        patterns = list(GitIgnoreSpec.from_lines([line]).patterns)
    except ValueError:
        return None
    regex = getattr(patterns[0], "regex", None) if patterns else None
    return _Rule(regex, negated, folders_only, anchored) if regex else None
