"""Reads what scripts on nodes answer. A node may say anything before and after an answer, or break off in it.

There are two forms. A Python script prints one line of JSON (`on_node/answer.py`). A shell script, which cannot quote
safely, prints sections: lines that begin with `@NONCE NAME`, each with the lines that follow it. No foreign text can
forge a nonce that it does not know.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ugro.common.errors import NodeRefused
from ugro.common.text import printable
from ugro.nodes.remote.on_node.answer import VERSION
from ugro.nodes.transport import Outcome, Transport

T = TypeVar("T")

CUT_SHORT = "the answer was cut short"
SENSELESS = "the answer cannot be understood"
ERROR_LIMIT = 500
"""Characters that are kept of what a node says of its error."""


def require(transport: Transport, outcome: Outcome, problem: str, hint: str = "") -> None:
    """See that a script ended with exit code 0.

    Raises:
        NodeRefused: it did not: `problem`, and why.
    """
    if outcome.status != 0:
        raise NodeRefused(transport.name, f"{problem}: {last_words(outcome)}", hint)


def last_words(outcome: Outcome) -> str:
    """Return the last output of a script that failed, or how it ended."""
    ended = f"signal {-outcome.status}" if outcome.status < 0 else f"exit {outcome.status}"
    return printable(outcome.error_text)[:ERROR_LIMIT] or ended


# --- one line of JSON ------------------------------------------------------------------------------------------------


def payload(
    transport: Transport, outcome: Outcome, kind: str, shape: TypeAdapter[T], problem: str, hint: str = ""
) -> T:
    """The answer of a Python script, if it has the kind and the shape that are expected.

    Raises:
        NodeRefused: `problem`, and why: the error that the script answers or ended with, or that its answer is missing,
            was cut short or makes no sense.
    """
    begin = json.dumps({"ugro": VERSION, "kind": kind})[:-1].encode()
    line = next((line for line in reversed(outcome.stdout.split(b"\n")) if line.startswith(begin)), b"")
    envelope: dict[str, Any] = {}
    with contextlib.suppress(ValueError, RecursionError):
        envelope = json.loads(line)
    if isinstance(error := envelope.get("error"), str):
        # A name in it may hold bytes that are no UTF-8.
        detail = printable(error.encode("utf-8", "replace").decode())[:ERROR_LIMIT]
        raise NodeRefused(transport.name, f"{problem}: {detail}", hint)
    require(transport, outcome, problem, hint)
    if not envelope and (line or outcome.truncated):
        raise NodeRefused(transport.name, f"{problem}: {CUT_SHORT}", hint)
    try:
        return shape.validate_python(envelope.get("payload"))
    except ValidationError:
        raise NodeRefused(transport.name, f"{problem}: {SENSELESS}", hint) from None


# --- sections --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Section:
    """The lines after one marker, without empty ones; `rest` is what stands behind its name."""

    name: str
    rest: str
    lines: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> tuple[str, ...]:
        """The words behind the name."""
        return tuple(self.rest.split())


def read_sections(output: str, nonce: str) -> list[Section]:
    """Return the complete sections: the last marker only ends one, and text after it was cut off somewhere."""
    found: list[Section] = []
    for line in output.split("\n"):
        if line.startswith(f"@{nonce} "):
            name, _, rest = line.removeprefix(f"@{nonce} ").partition(" ")
            found.append(Section(name, rest.strip()))
        elif found and line.strip():
            found[-1].lines.append(line)
    return found[:-1]
