"""Read the user's YAML: all values are literal text, and each key knows its line.

Whether `007` or `no` is text, a number or a flag is a matter of the key that it is for (`fields`), so nothing is turned
into anything else here. Of YAML's own there are anchors, aliases and `<<`; a tag other than `!!str` is refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml
from pydantic import ValidationError
from yaml.reader import Reader

from ugro.common.errors import InputError
from ugro.common.fields import Plain
from ugro.common.mistakes import MAPPING, Location, Mistake, and_more, dotted, mistakes, shown
from ugro.common.written import read_written

DEEPEST = 32
"""Levels of lists and mappings; real files have five."""

MOST_VALUES = 500_000
"""Keys and values of a file with every alias written out: enough for ten thousand nodes that share an environment."""

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's where PyYAML was built with it, which is ten times as fast. It takes tabs between words, too."""

_MERGE = "<<"
_TEXT_TAGS = (None, "!", "tag:yaml.org,2002:str")


class Keys(dict[str, Any]):
    """A mapping, with the line of each key."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, int] = {}

    def put(self, key: str, value: Any, line: int) -> None:
        """Add a key."""
        self[key], self.lines[key] = value, line


class Items(list[Any]):
    """A list, with the line of each of its values."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[int] = []


class _Anchored(NamedTuple):
    """The size of an alias: its keys and values, and its levels."""

    value: Any
    values: int
    levels: int


class _Refused(Exception):
    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def read_yaml(path: Path, kind: type[InputError]) -> Keys:
    """Read a file.

    Raises:
        InputError, of that kind: it cannot be read, or not in the bounds above, or is no mapping.
    """
    return parse_yaml(read_written(path, kind), path, kind)


def parse_yaml(text: str, path: Path, kind: type[InputError], loader: Any = LOADER) -> Keys:
    """Parse text that is, or will be, in a file."""
    try:
        if odd := Reader.NON_PRINTABLE.search(text):
            line = text.count("\n", 0, odd.start()) + 1
            raise _Refused(line, f"not valid YAML: a control character (U+{ord(odd[0]):04X})")
        return _Document(yaml.parse(text, Loader=loader)).read()
    except _Refused as error:
        raise kind(f"{path}:{error.line}: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise kind(f"{path}:{line}: not valid YAML: {error.problem}") from None


class _Document:
    """Builds a document from the events of a parser, one at a time, so that neither depth nor aliases run away."""

    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self._events: Iterator[Any] = events
        self._where: list[str | int] = []
        self._open: set[str] = set()
        self._anchors: dict[str, _Anchored] = {}
        self._values = 0
        self._depth = 0

    def read(self) -> Keys:
        next(self._events)  # the stream begins
        if isinstance(next(self._events), yaml.StreamEndEvent):
            raise _Refused(1, f"it is empty: {MAPPING}")
        document = self._value(next(self._events))
        if not isinstance(document, Keys):
            raise _Refused(1, f"found {shown(document)}: {MAPPING}")
        next(self._events)  # the document ends
        if not isinstance(after := next(self._events), yaml.StreamEndEvent):
            raise _Refused(after.start_mark.line + 1, "a second document begins here; one is expected")
        return document

    def _value(self, event: Any) -> Any:
        if isinstance(event, yaml.AliasEvent):
            return self._again(event)
        self._refuse_tag(event)
        return self._anchored(event) if event.anchor else self._new(event)

    def _anchored(self, event: Any) -> Any:
        values, depth, self._depth = self._values, self._depth, len(self._where)
        self._open.add(event.anchor)
        value = self._new(event)
        self._open.discard(event.anchor)
        self._anchors[event.anchor] = _Anchored(value, self._values - values, self._depth - len(self._where))
        self._depth = max(depth, self._depth)
        return value

    def _new(self, event: Any) -> Any:
        self._count(1, event)
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event)
        self._deepen(1, event)
        return self._mapping() if isinstance(event, yaml.MappingStartEvent) else self._sequence()

    def _deepen(self, levels: int, event: Any) -> None:
        self._depth = max(self._depth, len(self._where) + levels)
        if self._depth > DEEPEST:
            self._refuse(event, f"nested too deeply to be meant (more than {DEEPEST} levels)", place=False)

    def _mapping(self) -> Keys:
        own, merged = Keys(), Keys()
        seen: dict[str, int] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            line, key = event.start_mark.line + 1, self._key(event)
            self._where.append(key)
            if key in seen:
                self._refuse(event, f"stands twice (first on line {seen[key]})")
            seen[key] = line
            value = self._value(following := next(self._events))
            if key == _MERGE and isinstance(key, Plain):
                self._merge(merged, value, following)
            else:
                own.put(key, value, line)
            self._where.pop()
        if not merged:
            return own
        for key, value in own.items():
            merged.put(key, value, own.lines[key])
        return merged

    def _key(self, event: Any) -> str:
        self._count(1, event)
        self._refuse_tag(event)
        if not isinstance(event, yaml.ScalarEvent):
            self._refuse(event, "text is expected as a key")
        key = _scalar(event)
        if event.anchor:
            self._anchors[event.anchor] = _Anchored(key, 1, 0)
        return key

    def _merge(self, into: Keys, value: Any, event: Any) -> None:
        """Add what `<<` names. The first of several wins, and the mapping's own keys win over all."""
        parts = value if isinstance(value, Items) else [value]
        if not parts or not all(isinstance(part, Keys) for part in parts):
            self._refuse(event, f"found {shown(value)}: another mapping is expected, as in <<: *name")
        for part in parts:
            for key in [key for key in part if key not in into]:
                into.put(key, part[key], part.lines[key])

    def _sequence(self) -> Items:
        items = Items()
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            self._where.append(len(items))
            items.append(self._value(event))
            items.lines.append(event.start_mark.line + 1)
            self._where.pop()
        return items

    def _again(self, event: Any) -> Any:
        if event.anchor in self._open:
            self._refuse(event, f"*{event.anchor} contains itself")
        if event.anchor not in self._anchors:
            self._refuse(event, f"nothing is called &{event.anchor} before this line")
        found = self._anchors[event.anchor]
        self._count(found.values, event)
        self._deepen(found.levels, event)
        return found.value

    def _count(self, values: int, event: Any) -> None:
        self._values += values
        if self._values > MOST_VALUES:
            self._refuse(event, f"more than {MOST_VALUES} values with all aliases written out", place=False)

    def _refuse_tag(self, event: Any) -> None:
        tag = getattr(event, "tag", None)
        if tag not in _TEXT_TAGS or (tag and not isinstance(event, yaml.ScalarEvent)):
            self._refuse(event, f"the tag {shown(tag)} is not known here; the value alone is expected")

    def _refuse(self, event: Any, message: str, place: bool = True) -> NoReturn:
        where = dotted(tuple(self._where)) if place else ""
        raise _Refused(event.start_mark.line + 1, f"{where}: {message}" if where else message)


def _scalar(event: Any) -> str:
    return str(event.value) if event.style or event.tag else Plain(event.value)


def line_of(document: Keys, where: Location) -> int | None:
    """Return the line of a place; a missing place has its parent's."""
    return next(reversed(_lines_to(document, where)), None)


def stands(document: Keys, where: Location) -> bool:
    """Return whether a place exists."""
    return len(_lines_to(document, where)) == len(where)


def _lines_to(document: Keys, where: Location) -> list[int]:
    """Return the lines of the parts of a place that exist."""
    lines: list[int] = []
    here: Any = document
    for part in where:
        if isinstance(here, Keys) and part in here.lines:
            lines.append(here.lines[str(part)])
        elif isinstance(here, Items) and isinstance(part, int) and part < len(here):
            lines.append(here.lines[part])
        else:
            break
        here = here[part]
    return lines


def as_it_stands(where: Location) -> Location:
    """Return a place of a model that is the same in the file."""
    return where


def describe_in_file(
    error: ValidationError,
    path: Path,
    document: Keys,
    keys: Mapping[str, str],
    place: Callable[[Location], Location] = as_it_stands,
) -> str:
    """Describe the first error in one line: `file:line: field: found X: Y is expected`, and count the others.

    `keys` has the known keys, by every name that a file may use. `place` maps a place in the model to one in the file.
    """
    found = [Mistake(place(one.where), one.text, one.unknown) for one in mistakes(error)]
    first = found[0]
    line = line_of(document, first.where)
    said = str(first)
    if first.unknown:
        near = difflib.get_close_matches(str(first.where[-1]).replace("-", "_"), keys, 1)
        said += f"; did you mean {keys[near[0]]!r}?" if near else ""
    return f"{path}:{line}: {said}{and_more(found)}" if line else f"{path}: {said}{and_more(found)}"
