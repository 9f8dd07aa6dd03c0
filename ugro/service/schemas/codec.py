"""JSON of documents and requests, as this version of UGRO writes and reads it itself.

What others send is checked by pydantic (`Value.checked`). Between a command and its resident controller nothing needs
that, and a command would wait for pydantic's import longer than for its answer.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import functools
import types
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from ugro.common.models.value import Value, json_name

Way = Callable[[Any], Any]


class Ways(NamedTuple):
    """How values of a type come from JSON, and how they become JSON."""

    read: Way
    write: Way


def _same(value: Any) -> Any:
    return value


AS_IS = Ways(_same, _same)
PLAIN = (str, int, float, bool, type(None))


# --- types whose JSON is another one ----------------------------------------------------------------------------------


def iso(at: float | None) -> str | None:
    """Return seconds since the epoch as ISO 8601 in UTC, with milliseconds; None for what no calendar has."""
    try:
        return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        return None


def _seconds(at: Any) -> Any:
    return datetime.fromisoformat(at).timestamp() if isinstance(at, str) else at


def _decoded(data: Any) -> Any:
    return base64.b64decode(data) if isinstance(data, str) else data


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclasses.dataclass(frozen=True)
class InJson:
    """Says in an `Annotated` how values of a type are in JSON; pydantic follows it, too."""

    ways: Ways
    written: Any
    """The type in JSON."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(
            self.ways.read,
            handler(source),
            serialization=core_schema.plain_serializer_function_ser_schema(
                self.ways.write, return_schema=handler.generate_schema(self.written), when_used="json"
            ),
        )


Moment = Annotated[float, InJson(Ways(_seconds, iso), str | None)]
"""A point in time: seconds since the epoch here, ISO 8601 in UTC in JSON."""

Bytes = Annotated[bytes, InJson(Ways(_decoded, _encoded), str)]
"""Any bytes: base64 in JSON."""


@dataclasses.dataclass(frozen=True)
class LooksLike:
    """Says in an `Annotated` what a text from outside has to match; pydantic checks it."""

    pattern: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.str_schema(pattern=self.pattern)


class AnyText:
    """Says in an `Annotated` that a text may have surrogates, as names of files do whose bytes are no UTF-8."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        in_json = core_schema.plain_serializer_function_ser_schema(str, return_schema=core_schema.str_schema())
        any_schema = core_schema.any_schema()
        return core_schema.no_info_plain_validator_function(
            str, json_schema_input_schema=any_schema, serialization=in_json
        )


# --- all types -------------------------------------------------------------------------------------------------------


def to_json(value: Value) -> Any:
    """Return the JSON form of a document or request."""
    kind: Any = type(value)
    return _of_class(kind).write(value)


def ways(hint: Any) -> Ways:
    """Return how values of a type come from JSON and become JSON."""
    return _known(hint) or _checked(hint)


def _known(hint: Any) -> Ways | None:
    """Return the ways of a type; None where pydantic has to know them."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint in (*PLAIN, Any) or origin is Literal:
        return AS_IS
    if isinstance(hint, type) and issubclass(hint, Value):
        return _of_value(hint)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return Ways(hint, lambda value: value.value)
    if origin is Annotated:
        return next((one.ways for one in parts[1:] if isinstance(one, InJson)), None) or _known(parts[0])
    if origin in (Union, types.UnionType):
        return _of_union(parts)
    if origin is tuple:
        return _of_items(parts)
    if origin is dict:
        return _of_mapping(*parts)
    return None


def _of_value(kind: Any) -> Ways:
    """Of a class that is looked at when its first value is read or written: it may be inside itself."""
    return Ways(lambda data: _of_class(kind).read(data), lambda value: _of_class(kind).write(value))


def _checked(hint: Any) -> Ways:
    from ugro.common.models.checking import adapter  # here, since it imports pydantic

    made = adapter(hint)
    return Ways(made.validate_python, lambda value: made.dump_python(value, mode="json", by_alias=True))


def _of_items(parts: Sequence[Any]) -> Ways:
    if parts[-1] is not ...:
        return _of_places([ways(part) for part in parts])
    item = ways(parts[0])
    if item is AS_IS:
        return Ways(tuple, list)
    return Ways(
        lambda found: tuple([item.read(one) for one in found]), lambda found: [item.write(one) for one in found]
    )


def _of_places(places: Sequence[Ways]) -> Ways:
    """Of a tuple with a type for each place."""
    if all(place is AS_IS for place in places):
        return Ways(tuple, list)
    return Ways(
        lambda found: tuple(place.read(one) for place, one in zip(places, found, strict=True)),
        lambda found: [place.write(one) for place, one in zip(places, found, strict=True)],
    )


def _of_mapping(key: Any, item: Any) -> Ways:
    keys, items = ways(key), ways(item)
    return Ways(
        lambda found: {keys.read(name): items.read(one) for name, one in found.items()},
        lambda found: {keys.write(name): items.write(one) for name, one in found.items()},
    )


def _of_union(parts: Sequence[Any]) -> Ways | None:
    if all(part in PLAIN for part in parts):
        return AS_IS
    rest = [part for part in parts if part is not type(None)]
    if len(rest) > 1:
        return _of_kinds(rest)
    one = ways(rest[0])
    return Ways(
        lambda found: None if found is None else one.read(found),
        lambda found: None if found is None else one.write(found),
    )


def _of_kinds(kinds: Sequence[Any]) -> Ways | None:
    """Of documents that say in a field of one word which of them they are; None where they do not."""
    if not all(isinstance(kind, type) and issubclass(kind, Value) for kind in kinds):
        return None
    hints = [get_type_hints(kind) for kind in kinds]
    tags = [name for name in hints[0] if all(get_origin(each.get(name)) is Literal for each in hints)]
    if not tags:
        return None
    tag = tags[0]
    by_word = {get_args(each[tag])[0]: kind for each, kind in zip(hints, kinds, strict=True)}
    return Ways(lambda found: _of_class(by_word[found[tag]]).read(found), to_json)


@functools.cache
def _of_class(kind: Any) -> Ways:
    """Return the ways of a class, by those of its fields."""
    hints = get_type_hints(kind, include_extras=True)
    fields = {each.name: (json_name(each.name), *ways(hints[each.name])) for each in dataclasses.fields(kind)}
    reading = {named: (name, read) for name, (named, read, _) in fields.items()}
    short = kind.left_out_where_empty

    def read(found: Mapping[str, Any]) -> Value:
        made = {}
        try:
            for named, data in found.items():
                name, way = reading[named]
                made[name] = way(data)
            value: Value = kind(**made)
            return value
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"no {kind.__name__}: {error}") from None

    def write(value: Value) -> dict[str, Any]:
        form = {named: way(getattr(value, name)) for name, (named, _, way) in fields.items()}
        return {name: one for name, one in form.items() if one or name not in short} if short else form

    return Ways(read, write)
