"""Read a file of variables, as `docker run --env-file`, compose and dotenv have them. An error names file and line.

    # a comment
    NAME=value                  taken as it stands, to the end of the line or to ` #`
    export NAME='value'         between single quotes everything is literal, also line ends
    NAME="a \"b\"\n"            between double quotes \\n \\t \\r \\" \\\\ \\$ stand for one character

`$NAME` is not expanded: a value is what the file says.
"""

from __future__ import annotations

import re
from pathlib import Path

from ugro.common.errors import InputError
from ugro.common.fields import ENV_NAME
from ugro.common.written import read_written

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "$": "$", "\n": ""}
_NAME = re.compile(r"[ \t]*(?:export[ \t]+)?([^\s=#'\"]+)[ \t]*=[ \t]*")
_PLAIN = re.compile(r"[^\n]*")
_SINGLE = re.compile(r"'([^']*)'")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_REST = re.compile(r"[ \t]*(?:#[^\n]*)?(?=\n|$)")
_COMMENT = re.compile(r"(?:^|[ \t])#.*")
_SHOWN = re.compile(r"[^\s=]{1,40}")


class Variable:
    """A variable of a file, with its line."""

    def __init__(self, name: str, value: str, line: int) -> None:
        self.name, self.value, self.line = name, value, line


def read_dotenv(path: Path, kind: type[InputError] = InputError) -> dict[str, Variable]:
    """Return the variables of a file, by name. The last of several of one name counts.

    Raises:
        InputError, of that kind: it cannot be read, or has a line that is no assignment. No value is in the message.
    """
    text = read_written(path, kind, "name a file with `NAME=value` lines")
    try:
        return {one.name: one for one in _variables(text.replace("\r\n", "\n"))}
    except _Refused as error:
        raise kind(f"{path}:{error.line}: {error}", error.hint) from None


class _Refused(Exception):
    def __init__(self, line: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.line, self.hint = line, hint


def _variables(text: str) -> list[Variable]:
    found, at = list[Variable](), 0
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        if not (stripped := text[at:end].strip()) or stripped.startswith("#"):
            at = end + 1
            continue
        line = text.count("\n", 0, at) + 1
        name, start = _name(text, at, line)
        value, at = _value(text, start, line, name)
        if "\0" in value:
            raise _Refused(line, f"{name}: a NUL byte cannot be passed to a program")
        found.append(Variable(name, value, line))
    return found


def _name(text: str, at: int, line: int) -> tuple[str, int]:
    """Return the name that a line assigns to, and where its value begins."""
    if not (match := _NAME.match(text, at)):
        raise _Refused(line, "NAME=VALUE is expected", "a comment begins with #")
    if not ENV_NAME.fullmatch(match[1]):
        shown = _SHOWN.match(match[1])
        raise _Refused(line, f"{shown[0] if shown else ''!r} is not a variable name")
    return match[1], match.end()


def _value(text: str, start: int, line: int, name: str) -> tuple[str, int]:
    """Return the value that begins at a place, and where the next line begins."""
    quote = text[start : start + 1]
    if quote not in ("'", '"'):
        plain = _PLAIN.match(text, start)
        assert plain
        return _COMMENT.sub("", plain[0]).strip(), plain.end() + 1
    quoted = (_SINGLE if quote == "'" else _DOUBLE).match(text, start)
    if not quoted:
        raise _Refused(line, f"{name}: the closing {quote} is missing", "quote a value that has quotes in it")
    rest = _REST.match(text, quoted.end())
    if not rest:
        raise _Refused(line, f"{name}: more follows after the closing {quote}", "quote the value as a whole")
    value = quoted[1] if quote == "'" else re.sub(r"\\(.)", _unescaped, quoted[1], flags=re.DOTALL)
    return value, rest.end() + 1


def _unescaped(match: re.Match[str]) -> str:
    return _ESCAPES.get(match[1], match[0])
