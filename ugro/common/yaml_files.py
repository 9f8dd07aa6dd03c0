"""YAML that people write: read so that a mistake is told with its file, line and field."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ugro.common.errors import InputError

Location = tuple[str | int, ...]

LARGEST = 1024 * 1024
"""Bytes of a file that are read: a list of some thousand nodes has fewer."""


def read_yaml(path: Path, kind: type[InputError]) -> tuple[dict[str, Any], dict[Location, int]]:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise kind(f"{path}: larger than {LARGEST // 1024} KiB", "is it the file you mean?")
        node = yaml.compose(text := content.decode(), Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise kind(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise kind(f"{path}: not valid YAML: {error}") from None
    except UnicodeDecodeError as error:
        raise kind(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise kind(f"{path}: cannot be read: {error.strerror}") from None
    except RecursionError:
        raise kind(f"{path}: nested too deeply to be meant") from None
    if not isinstance(document, dict):
        raise kind(f"{path}:1: a mapping is expected, found {shown(document)}")
    lines: dict[Location, int] = {}
    if node is not None:
        try:
            _index_lines(node, (), lines, path, kind)
        except RecursionError:
            raise kind(f"{path}: something in it contains itself") from None
    return document, lines


def _index_lines(
    node: yaml.Node, where: Location, lines: dict[Location, int], path: Path, kind: type[InputError]
) -> None:
    """Remember the line of every key, and refuse a key that stands twice (YAML would silently keep the last)."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            at = (*where, str(key.value))
            line = key.start_mark.line + 1
            if at in lines and key.value != "<<":
                raise kind(f"{path}:{line}: {'.'.join(map(str, at))}: stands twice (first on line {lines[at]})")
            lines[at] = line
            _index_lines(value, at, lines, path, kind)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*where, index)] = value.start_mark.line + 1
            _index_lines(value, (*where, index), lines, path, kind)


def describe_in_file(error: ValidationError, path: Path, lines: dict[Location, int], keys: Mapping[str, str]) -> str:
    """The first mistake in one line: `file:line: field: found X, expected Y`, and how many more there are.

    `keys` has what is known there, by every word that a person may use for it.
    """
    first, more = first_mistake(error)
    where = first["loc"]
    field = ".".join(str(part) for part in where)
    # A field that every node inherits is written under `defaults:`, and an absent one has its parent's line.
    inherited = ("defaults", *where[2:]) if where[:1] == ("nodes",) and len(where) > 2 else where
    line = next((lines[at] for at in (where, inherited, where[:-1], where[:-2]) if at in lines), None)
    said = mistake_in_words(first)
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(where[-1]).replace("-", "_"), keys, 1)
        said = f"unknown key; did you mean {keys[near[0]]!r}?" if near else "unknown key"
    prefix = f"{path}:{line}: " if line else f"{path}: "
    return f"{prefix}{field}: {said}{more}" if field else f"{prefix}{said}{more}"


def first_mistake(error: ValidationError) -> tuple[Any, str]:
    """The mistake to tell, with its place as a person knows it, and how many more there are, in words."""
    # A misspelt key is also a missing one: the spelling is what the person can mend.
    first, *rest = sorted(error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden")
    where: Location = tuple(part for part in first["loc"] if not _is_union_tag(part))
    more = f" (and {len(rest)} more)" if len({e["loc"][:3] for e in rest}) > 1 else ""
    return {**first, "loc": where}, more


_OWN_WORDS = dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "keys with values are expected")
"""Of mistakes that pydantic tells with the name of a class."""


def mistake_in_words(mistake: Any) -> str:
    message = _OWN_WORDS.get(mistake["type"]) or mistake["msg"].removeprefix("Value error, ")
    if mistake["type"] == "missing":
        return "is missing"
    if mistake["type"] != "value_error":  # pydantic's own words begin with a capital letter; ours may with a name
        message = message[0].lower() + message[1:]
    return f"found {shown(mistake['input'])}: {message}" if mistake["loc"] else message


def _is_union_tag(part: str | int) -> bool:
    return isinstance(part, str) and (
        part == "int" or part.startswith(("constrained", "tuple[", "function-", "lax-or"))
    )


def shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
