"""Find all patterns of the catalogue and of launchers' messages in a text, in one search."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache

from ugro.common.text import printable
from ugro.control_plane.diagnosis.catalogue import CATALOGUE
from ugro.control_plane.diagnosis.conjecture import HEADING, stated
from ugro.control_plane.diagnosis.course import LEFT, RESTARTED, SUCCESS
from ugro.control_plane.diagnosis.ends import ENDS, TABLE
from ugro.control_plane.diagnosis.entry import CatalogueEntry
from ugro.control_plane.diagnosis.prefilter import Prefilter
from ugro.control_plane.diagnosis.traceback import BEGINNING, EXCEPTION, RAISED

NAN = re.compile(
    r"(?i)\b(?:(?!best|min|lowest|prev)\w*loss|grad[_ ]?norm|perplexity)['\"]?(?:\s*[:=]\s*|\s+)"
    r"(?:tensor\()?['\"]?[-+]?(?:nan|inf)\b|"
    r"^\s*\d+/\d+ +[\d.]+G +(?:[\d.]+ +)*nan\b"  # the columns of Ultralytics
)

TELLING = Prefilter(
    (
        *(entry.pattern for entry in CATALOGUE), *ENDS, SUCCESS, BEGINNING, EXCEPTION, RAISED, NAN,
        *TABLE, RESTARTED, LEFT, HEADING,
    )
)  # fmt: skip
"""All that is looked for. A line in which none of it may be is nearly every line of a long log, and is passed over."""

_ENTRIES = {entry.pattern.pattern: entry for entry in CATALOGUE}  # by their text: to hash a pattern is slow
_ENDS = {pattern.pattern for pattern in ENDS}


def entry_of(text: str) -> CatalogueEntry | None:
    """The entry of the catalogue that fits a text."""
    match = _found(text, _ENTRIES)
    return _ENTRIES[match.re.pattern] if match else None


def end_in(text: str) -> re.Match[str] | None:
    """Return the match of an end of a process; None: the text reports none."""
    return _found(text, _ENDS)


def _found(text: str, known: Collection[str]) -> re.Match[str] | None:
    """The first of some patterns that is in what a text states, beside what it only supposes."""
    patterns = [pattern for pattern in possible(text) if pattern.pattern in known]
    match = next((match for pattern in patterns if (match := pattern.search(text))), None)
    if match is None or match.start() < len(facts := stated(text)):
        return match
    return next((match for pattern in patterns if (match := pattern.search(facts))), None)


@lru_cache(maxsize=16)
def possible(text: str) -> list[re.Pattern[str]]:
    """Return the patterns that may match a text; cached, since one line is searched for several of them."""
    return TELLING.possible(text.lower())


def searched(raw: bytes) -> str:
    """A raw line as it is looked through at first: in small letters, without what a terminal would not show."""
    text = raw.decode("utf-8", "replace")
    return (text if text.isprintable() else printable(text.replace("\0", ""))).lower()
