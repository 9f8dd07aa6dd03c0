"""Find which of many patterns a text may match at all, in one pass over it.

Searching a line for every pattern one by one is slow, and nearly no line matches any. The text that a match must
contain is derived from the pattern itself: for `CUDA (?:runtime )?error: \\d+` it is ` error: `.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from importlib import import_module
from typing import Any

LONGEST = 10
"""Characters of a required part that are searched for; more exclude little more and cost time."""

SHORTEST = 3

_COMMON = re.compile(
    r"error|fail|except|exit|value|found|model|loss|grad|time|server|train|killed|\.py|code|file|ended|torchrun|folder|"
    r"python|process|limit|send|path|directory|status|succe|finish|done|data|\s"
)
"""Words that most logs are full of: they exclude the fewest patterns."""


class Prefilter:
    """`possible` says which patterns may match; never too few. All texts are given in small letters."""

    def __init__(self, patterns: Iterable[re.Pattern[str]]) -> None:
        self._patterns = tuple(patterns)

    def any(self, text: str) -> bool:
        """Whether any of the patterns may match."""
        return self._some.search(text) is not None

    def possible(self, text: str) -> list[re.Pattern[str]]:
        """The patterns that may match, in their order."""
        numbers = {number for part in set(self._all.findall(text)) for number in self._by_part[part]}
        return [self._patterns[number] for number in sorted(numbers)]

    @cached_property
    def _by_part(self) -> dict[str, frozenset[int]]:
        """The numbers of the patterns that a part may be of: also of those whose part is the beginning of it."""
        own: dict[str, set[int]] = {}
        for number, pattern in enumerate(self._patterns):
            for part in required(pattern):
                own.setdefault(part, set()).add(number)
        return {part: frozenset().union(*(own.get(part[:end], ()) for end in range(len(part) + 1))) for part in own}

    @cached_property
    def _some(self) -> re.Pattern[str]:
        short = [part for part in self._by_part if not any(part[:end] in self._by_part for end in range(1, len(part)))]
        return re.compile(_tree(short))

    @cached_property
    def _all(self) -> re.Pattern[str]:
        return re.compile(f"(?=({_tree(self._by_part)}))")


def required(pattern: re.Pattern[str]) -> frozenset[str]:
    """Parts, in small letters, of which every text has one that the pattern matches.

    Raises:
        ValueError: no part is required, or only parts that are too short to exclude anything.
    """
    # The standard library's own parser, which is not public: a second one would be longer, and wrong in other places.
    found = _required(import_module("re._parser").parse(pattern.pattern, pattern.flags & ~re.UNICODE))
    if len(min(found, key=len, default="")) < SHORTEST:
        raise ValueError(f"no text of {SHORTEST} characters has to be in what this matches: {pattern.pattern}")
    return frozenset(part[:LONGEST] for part in found)


def _required(items: Iterable[Any]) -> frozenset[str]:
    """The most telling of what a sequence needs: a run of characters, or one of the parts of its alternatives."""
    best: frozenset[str] = frozenset()
    run = ""

    def offer(parts: frozenset[str]) -> None:
        nonlocal best
        if parts and (not best or _telling(parts) > _telling(best)):
            best = parts

    for operation, argument in _flat(items):
        character = _character(operation, argument)
        if character is None:
            offer(frozenset(filter(None, [run])))
            run = ""
        run += character or ""
        if operation == "BRANCH":
            alternatives = [_required(alternative) for alternative in argument[1]]
            offer(frozenset().union(*alternatives) if all(alternatives) else frozenset())
    offer(frozenset(filter(None, [run])))
    return best


def _telling(parts: frozenset[str]) -> tuple[bool, int, int]:
    """Rate the least selective part: whether it is long enough, its length without common words, its length."""
    return min((len(part) >= SHORTEST, len(_COMMON.sub("", part)), len(part.strip())) for part in parts)


def _flat(items: Iterable[Any]) -> Iterable[tuple[str, Any]]:
    """Yield the items of a sequence, with groups opened and repeats as often as they must occur."""
    for operation, argument in items:
        name = str(operation)
        if name == "SUBPATTERN":
            yield from _flat(argument[-1])
        elif name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            least, most, repeated = argument
            for _ in range(min(least, LONGEST)):
                yield from _flat(repeated)
            if least != most:
                yield "GAP", None
        else:
            yield name, argument


def _character(operation: str, argument: Any) -> str | None:
    """The one character, in small letters, that something stands for; nothing for a mere condition; None: any."""
    if operation in ("AT", "ASSERT", "ASSERT_NOT"):
        return ""
    if operation == "LITERAL":
        return chr(argument).lower()
    if operation == "IN" and all(str(kind) == "LITERAL" for kind, _ in argument):
        letters = {chr(code).lower() for _, code in argument}
        return letters.pop() if len(letters) == 1 else None
    return None


def _tree(parts: Iterable[str]) -> str:
    """A pattern for any of some texts, the longest that fits, in which common beginnings stand once."""
    branches: dict[str, list[str]] = {}
    for part in sorted(parts):
        branches.setdefault(part[:1], []).append(part[1:])
    ends = branches.pop("", None) is not None
    made = [re.escape(first) + _tree(rests) for first, rests in branches.items()]
    if not made:
        return ""
    return f"(?:{'|'.join(made)}){'?' if ends else ''}" if ends or len(made) > 1 else made[0]
