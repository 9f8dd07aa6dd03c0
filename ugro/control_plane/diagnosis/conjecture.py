"""Separate the facts of a message from what it only thinks possible: lists of reasons and advice are no facts."""

from __future__ import annotations

import re

_SUPPOSED = re.compile(
    r"There are (?:some|several|a few) (?:potential|possible)|[Pp](?:ossible|otential) (?:root )?(?:cause|reason)s?\b|"
    r"\b(?:[Tt]his|[Ii]t|[Tt]hat|which) (?:is|may|might|can|could) ?(?:also |sometimes )?"
    r"(?:usually|typically|often|probably|likely|be|been|have been)\b|"
    r"\b(?:usually|typically|commonly) (?:means|indicates|due|caused)|"
    r"\b(?:[Mm]ay|[Mm]ight|[Cc]ould|[Cc]an) (?:also )?be (?:caused|due|because|a result)|[Tt]his most likely\b|"
    r"\b[Ii]f you (?:see|get|encounter|run into)\b"
)

HEADING = re.compile(
    r"(?i)\b(?:possible|potential|common|likely|probable|typical) (?:root )?(?:cause|reason|explanation|fix|fixes|"
    r"solution|workaround)s?\b.{0,40}:\s*$|\b(?:one|some|any) of the following\b.{0,60}:\s*$|"
    r"^\W*(?:troubleshooting|suggestions?|hints?|tips?|things to (?:try|check)|try the following)\b.{0,40}:\s*$"
)
"""The heading of a list of what may have been."""

_ITEM = re.compile(r"\s*(?:[-*•·+>]|\(?(?:\d{1,2}|[a-z])[.)])\s")
_LONGEST_LIST = 12
"""Lines after a heading in which its items stand."""


def stated(text: str) -> str:
    """Return the part of a message before its suppositions and advice."""
    supposed = _SUPPOSED.search(text)
    return text[: supposed.start()] if supposed else text


def is_item(text: str, lines_since_heading: int) -> bool:
    """Whether a line is one of the things listed under a heading."""
    return 0 < lines_since_heading <= _LONGEST_LIST and _ITEM.match(text) is not None
