"""Masks known secret values in text that goes to people: lines, documents, streams of bytes."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, Literal, Protocol, Self, TypeVar, get_origin, get_type_hints, runtime_checkable
from urllib.parse import quote

from pydantic import BaseModel

from ugro.common.errors import InputError
from ugro.common.fields import NAME
from ugro.common.models.value import Value
from ugro.common.text import printable

T = TypeVar("T")


@runtime_checkable
class Cut(Protocol):
    """A model whose text was cut out of a longer one, and which therefore masks itself."""

    def masked(self, masker: Masker) -> Self:
        """Return the same with each value masked."""


MASK = "****"
"""What stands in the place of a value."""

SHORTEST = 6
"""Characters of a value that is masked: shorter ones are part of too many words."""

SHORTEST_LINE = 12
"""Characters of a line of a value of several lines (a PEM key, JSON) that is masked by itself."""

SHORTEST_PART = 4
"""Characters of a value's beginning or end that are masked where a text was cut there."""


def check_secret_name(name: str) -> None:
    """Check that a secret may have this name.

    Raises:
        InputError: it may not.
    """
    if not NAME.fullmatch(name):
        words = "letters, digits, '.', '_' and '-' are expected, at most 63"
        shown = printable(name.partition("=")[0])[:80]  # behind it may be a value
        raise InputError(f"{shown!r} is no name of a secret: {words}", "as in: ugro secret set HF_TOKEN")


class Masker:
    """Masks these values, also as JSON and addresses write them, and the lines of values that have several."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        forms = sorted({form for value in values for form in _forms(value)}, key=lambda one: (-len(one), one))
        self._forms = forms
        self._text = re.compile("|".join(map(re.escape, forms))) if forms else None
        self._encoded = [form.encode("utf-8", "surrogateescape") for form in forms]
        self._bytes = re.compile(b"|".join(map(re.escape, self._encoded))) if forms else None

    def __bool__(self) -> bool:
        """Return whether there is anything to mask."""
        return self._text is not None

    def text(self, text: str) -> str:
        """Return a text with each value masked."""
        return self._text.sub(MASK, text) if self._text else text

    def cut(self, text: str, at_start: bool, at_end: bool) -> str:
        """Mask a text that was cut out of a longer one: also the part of a value that stands at a cut."""
        text = self.text(text)
        for form in self._forms:
            for size in range(len(form) - 1, SHORTEST_PART - 1, -1):
                if at_end and text.endswith(form[:size]):
                    text = text[:-size] + MASK
                if at_start and text.startswith(form[-size:]):
                    text = MASK + text[size:]
        return text

    def data(self, data: bytes) -> bytes:
        """Return bytes with each value masked."""
        return self._bytes.sub(MASK.encode(), data) if self._bytes else data

    async def stream(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield pieces of one text with each value masked, also where it begins in one piece and ends in another."""
        kept = b""
        async for piece in pieces:
            done, kept = self.piece(kept + piece)
            if done:
                yield done
        if kept:
            yield self.data(kept)

    def piece(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the beginning of a text, masked, and its end that may be part of a value: it goes before the rest."""
        if not self._bytes:
            return data, b""
        done, at = bytearray(), 0
        while True:
            open_from = self._open_from(data, at)
            found = self._bytes.search(data, at)
            if not found or found.start() >= open_from:
                return bytes(done + data[at:open_from]), data[open_from:]
            done += data[at : found.start()] + MASK.encode()
            at = found.end()

    def _open_from(self, data: bytes, at: int) -> int:
        """Return where the first value begins that the end of the data cuts short; its length where none does."""
        longest = max(map(len, self._encoded))
        for start in range(max(at, len(data) - longest + 1), len(data)):
            end = data[start:]
            if any(len(form) > len(end) and form.startswith(end) for form in self._encoded):
                return start
        return len(data)

    def document(self, found: T) -> T:
        """Return a model, or what JSON has, with each value masked in all its texts. Keys and choices stay."""
        return self._masked(found) if self else found

    def _masked(self, found: Any) -> Any:
        if type(found) is str:  # no enum: that is one of UGRO's own words
            return self.text(found)
        if type(found) is bytes:
            return self.data(found)
        if isinstance(found, Cut):
            return found.masked(self)
        if isinstance(found, Value | BaseModel):
            kind: Any = type(found)
            told = {name: getattr(found, name) for name in _texts(kind)}
            changed = {name: new for name, old in told.items() if (new := self._masked(old)) is not old and new != old}
            if not changed:
                return found
            return replace(found, **changed) if isinstance(found, Value) else found.model_copy(update=changed)
        if isinstance(found, tuple | list):
            return type(found)(map(self._masked, found)) if type(found) in (tuple, list) else found
        if isinstance(found, Mapping):
            return {key: self._masked(value) for key, value in found.items()}
        return found


def _forms(value: str) -> set[str]:
    """Return what a value looks like where it is printed."""
    lines = {line for each in value.splitlines() if len(line := each.strip()) >= SHORTEST_LINE}
    parts = {value, *(lines if "\n" in value.strip() else ())}
    parts = {part for part in parts if len(part) >= SHORTEST}
    return parts | {form for part in parts for form in (json.dumps(part)[1:-1], quote(part, safe=""), repr(part)[1:-1])}


@functools.cache
def _texts(model: Any) -> tuple[str, ...]:
    """Return the fields of a document or record that may have texts of other people: all but choices of a few words."""
    hints = get_type_hints(model)
    names = [field.name for field in fields(model)] if issubclass(model, Value) else list(model.model_fields)
    return tuple(name for name in names if get_origin(hints[name]) is not Literal)
