"""Validation errors in UGRO's own messages: no message of pydantic reaches the user."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

Location = tuple[str | int, ...]
"""The keys and indexes that lead to a value."""

MAPPING = "keys with values are expected"
LONGEST = 60
"""Characters of a value that a message shows."""


class Misplaced(ValueError):
    """An error that only a complete mapping shows, to be corrected at one of the places in it."""

    def __init__(self, where: Location, message: str) -> None:
        super().__init__(message)
        self.where = where


@dataclass(frozen=True)
class Mistake:
    """One error: its place, the value found and the value expected."""

    where: Location
    text: str
    unknown: bool = False

    def __str__(self) -> str:
        return f"{field}: {self.text}" if (field := dotted(self.where)) else self.text


def mistakes(error: ValidationError) -> list[Mistake]:
    """Return all errors, unknown keys first: a misspelt key is also a missing one, and its spelling is the error."""
    return _sorted(_mistake(one) for one in error.errors(include_url=False))


def without_values(errors: Sequence[Any]) -> str:
    """Return what is wrong with a request, of the errors that pydantic lists. It says no value: it may be secret."""
    found = _sorted(_mistake(one, says_found=False) for one in errors)
    return f"{found[0]}{and_more(found)}" if found else "it is malformed"


def _sorted(found: Iterable[Mistake]) -> list[Mistake]:
    return sorted(found, key=lambda mistake: not mistake.unknown)


def first_mistake(error: ValidationError) -> Mistake:
    """Return the error to report where one is enough."""
    return mistakes(error)[0]


def and_more(found: list[Mistake]) -> str:
    """Return how many other places have an error, for the end of a message."""
    others = {mistake.where[:3] for mistake in found} - {found[0].where[:3]}
    return f" (and {len(others)} more)" if others else ""


def dotted(where: Location) -> str:
    """Return a place in dotted form: `nodes.gpu1.port`."""
    return ".".join(map(str, where))


def shown(value: object) -> str:
    """Return a value for a message, in quotes if it is text."""
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "…"


def _mistake(one: Any, says_found: bool = True) -> Mistake:
    where: Location = tuple(part for part in one["loc"] if part != "[key]")
    kind, details = one["type"], one.get("ctx", {})
    if kind == "missing":
        return Mistake(where, "is missing")
    if kind in UNKNOWN_KEY:
        return Mistake(where, "unknown key", unknown=True)
    cause = details.get("error")
    if isinstance(cause, Misplaced):
        return Mistake((*where, *cause.where), str(cause))
    expected = str(cause) if kind == "value_error" else _expected(kind, details)
    return Mistake(where, f"found {shown(one['input'])}: {expected}" if where and says_found else expected)


UNKNOWN_KEY = frozenset({"extra_forbidden", "unexpected_keyword_argument"})
"""What pydantic calls a key that a record does not know, and one that a value does not know."""

_KINDS = {
    "int": "a whole number is expected",
    "float": "a number is expected",
    "finite": "a number is expected",
    "bool": "true or false is expected",
    "string": "text is expected",
    "tuple": "a list is expected, such as [a, b]",
    "list": "a list is expected, such as [a, b]",
    "dict": MAPPING,
    "model": MAPPING,
    "dataclass": MAPPING,
    "json": "JSON is expected",
}
"""By the first word of pydantic's name of a mistake."""


def _expected(kind: str, details: Mapping[str, Any]) -> str:
    match kind:
        case "greater_than_equal":
            return f"at least {details['ge']} is expected"
        case "less_than_equal":
            return f"at most {details['le']} is expected"
        case "greater_than":
            return f"more than {details['gt']} is expected"
        case "less_than":
            return f"less than {details['lt']} is expected"
        case "string_too_long":
            return f"at most {details['max_length']} characters are expected"
        case "string_pattern_mismatch":
            return f"text that matches {details['pattern']} is expected"
        case "too_short":
            return f"at least {details['min_length']} is expected"
        case "literal_error" | "enum":
            return f"{details['expected']} is expected"
        case _:
            return _KINDS.get(kind.partition("_")[0], "another kind of value is expected")
