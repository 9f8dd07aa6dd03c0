"""What goes over the socket: one JSON line for each notice and each item of an answer, then how it ended.

→ POST /call/queue.hold        {"job": "job-001", "reason": ""}
← {"notice": "StillWorking", "body": {…}}
← {"item": {…}}                of a stream: any number
← {"answer": {…}}              of a request: the last line; of a stream `{"answer": null}`
← {"error": {"code", "message", "hint", "kinds": ["NoSuchNode", …], "facts": {…}}}    the last line instead
"""

from __future__ import annotations

import functools
import importlib
import json
import pkgutil
from typing import Any

import ugro.service.schemas as schemas
from ugro.common.errors import UgroError
from ugro.service.schemas.base import Notice, Request, Stream

SOCKET = "ugro.sock"
"""The socket's name in the state directory."""

SESSION = "UGRO-Session"
"""The header that names the session of a command, to which the code it brought belongs."""

HELLO_WITHIN = 2.0
"""Seconds that the resident controller may take to answer before a command acts without it."""


def line(**fields: Any) -> bytes:
    """Return one line."""
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


@functools.cache
def requests() -> dict[str, type[Request[Any] | Stream[Any]]]:
    """Return every request by the function that answers it."""
    return {each.function: each for base in (Request, Stream) for each in _below(base) if hasattr(each, "function")}


@functools.cache
def notices() -> dict[str, type[Notice]]:
    """Return every kind of notice by its name."""
    return {each.__name__: each for each in _below(Notice)}


def _below(base: type[Any]) -> list[type[Any]]:
    for module in pkgutil.iter_modules(schemas.__path__):
        importlib.import_module(f"{schemas.__name__}.{module.name}")
    found, due = list[type[Any]](), [base]
    while due:
        found += (children := due.pop().__subclasses__())
        due += children
    return found


def error_fields(error: UgroError) -> dict[str, Any]:
    """Return an error as it goes over the wire."""
    kinds = [each.__name__ for each in type(error).__mro__ if issubclass(each, UgroError)]
    facts = {name: value for name, value in vars(error).items() if isinstance(value, str | tuple) and name[0] != "_"}
    return error.as_dict() | {"kinds": kinds, "exit_code": error.exit_code, "facts": facts}


def error_from(fields: dict[str, Any]) -> UgroError:
    """Return the error that came over the wire: of the nearest class that is known here."""
    classes: list[type[UgroError]] = [UgroError, *_errors_below(UgroError)]
    known = {each.__name__: each for each in classes}
    kind = next((known[name] for name in fields["kinds"] if name in known), UgroError)
    error: UgroError = kind.__new__(kind)
    UgroError.__init__(error, fields["message"], fields["hint"])
    error.code, error.exit_code = fields["code"], fields["exit_code"]
    for name, value in fields["facts"].items():
        setattr(error, name, tuple(value) if isinstance(value, list) else value)
    return error


def _errors_below(base: type[UgroError]) -> list[type[UgroError]]:
    return [each for child in base.__subclasses__() for each in (child, *_errors_below(child))]
