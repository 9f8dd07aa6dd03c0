"""The ways to name a job beside its id and its name: its number, `@last`, `@last-failed`, a pattern."""

from __future__ import annotations

import fnmatch
import re
from typing import Protocol

LAST, LAST_FAILED = "@last", "@last-failed"
"""The job that was submitted last, and of those that are failed the one that ended last. No name begins with `@`."""

_NUMBER = re.compile(r"(?:job-)?([0-9]{1,18})")


class Named(Protocol):
    """What a pattern is compared with."""

    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...


def is_pattern(reference: str) -> bool:
    """Whether a reference may mean several jobs; no name has such a character."""
    return any(sign in reference for sign in "*?[")


def is_relative(reference: str) -> bool:
    """Whether a reference means another job tomorrow: a pattern, or one that begins with `@`."""
    return reference.startswith("@") or is_pattern(reference)


def number_in(reference: str) -> int | None:
    """Return the number of the job that `55`, `055` or `job-55` means; None: it is no number."""
    found = _NUMBER.fullmatch(reference)
    return int(found[1]) if found else None


def matches(pattern: str, job: Named) -> bool:
    """Whether the id or the name of a job is like a pattern (`*`, `?`, `[abc]`), upper and lower case apart."""
    return fnmatch.fnmatchcase(job.id, pattern) or fnmatch.fnmatchcase(job.name, pattern)
