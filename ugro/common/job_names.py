"""The ways to name jobs beside their ids and names: a number, `@last`, `@last-failed`, a pattern, a sweep."""

from __future__ import annotations

import fnmatch
import re
from typing import Protocol

LAST, LAST_FAILED = "@last", "@last-failed"
"""The job that was submitted last, and of those that are failed the one that ended last. No name begins with `@`."""

SWEEP_ID = re.compile(r"sweep-[0-9]{3,18}")
"""Ids of sweeps, which mean all of their jobs."""

_NUMBER = re.compile(r"(?:job-)?([0-9]{1,18})")


class HasName(Protocol):
    """What a pattern is compared with."""

    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def sweep_id(self) -> str | None: ...


def is_pattern(reference: str) -> bool:
    """Whether a reference may mean several jobs: it is the id of a sweep, or has a character that no name has."""
    return any(sign in reference for sign in "*?[") or SWEEP_ID.fullmatch(reference) is not None


def is_relative(reference: str) -> bool:
    """Whether a reference means another job tomorrow: a pattern, or one that begins with `@`."""
    return reference.startswith("@") or is_pattern(reference)


def number_in(reference: str) -> int | None:
    """Return the number of the job that `55`, `055` or `job-55` means; None: it is no number."""
    found = _NUMBER.fullmatch(reference)
    return int(found[1]) if found else None


def matches(pattern: str, job: HasName) -> bool:
    """Whether the id or the name of a job is like a pattern (`*`, `?`, `[abc]`), upper and lower case apart, or the job
    is part of a sweep of that id.
    """
    return job.sweep_id == pattern or fnmatch.fnmatchcase(job.id, pattern) or fnmatch.fnmatchcase(job.name, pattern)
