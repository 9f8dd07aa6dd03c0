"""An entry of the catalogue, and the functions that make one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class EntryKind(StrEnum):
    """Meaning of a match: a root cause, a follow-on error, or proof that makes a vague cause a sure one.

    A hint is a root cause given as a warning: it counts where a run failed and nothing else shows why.
    """

    ROOT = "root"
    CONSEQUENCE = "consequence"
    CONFIRMATION = "confirmation"
    HINT = "hint"


@dataclass(frozen=True)
class CatalogueEntry:
    """One line of the catalogue; its own suggestion, where it has one, goes before that of its cause (causes.py)."""

    cause: str
    kind: EntryKind
    pattern: re.Pattern[str]
    suggestion: str | None = None
    retry_helps: bool | None = None


def _any(patterns: str) -> re.Pattern[str]:
    """One pattern for all that stand in the lines of a text."""
    return re.compile("|".join(line.strip() for line in patterns.strip().splitlines()))


def root(cause: str, patterns: str, suggestion: str | None = None, retry_helps: bool | None = None) -> CatalogueEntry:
    """A reason why a run ended."""
    return CatalogueEntry(cause, EntryKind.ROOT, _any(patterns), suggestion, retry_helps)


def consequence(cause: str, patterns: str) -> CatalogueEntry:
    """Make an entry of messages that follow from another failure."""
    return CatalogueEntry(cause, EntryKind.CONSEQUENCE, _any(patterns))


def confirmation(cause: str, patterns: str) -> CatalogueEntry:
    """Proof that makes a vague cause a sure one."""
    return CatalogueEntry(cause, EntryKind.CONFIRMATION, _any(patterns))


def hint(cause: str, patterns: str) -> CatalogueEntry:
    """A reason in the words of a warning."""
    return CatalogueEntry(cause, EntryKind.HINT, _any(patterns))
