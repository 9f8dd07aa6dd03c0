"""The interpreters of a node and what each can do: `on_node/interpreters.sh` tries them, this reads the answers."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from collections.abc import Callable, Iterator
from typing import TypeVar

from pydantic import Field, ValidationError

from ugro.common.errors import CommandTimedOut, LinkLost, NodeRefused
from ugro.common.models.record import Record
from ugro.common.text import printable
from ugro.nodes.remote.answers import ERROR_LIMIT, Section, read_sections
from ugro.nodes.remote.bundle import load
from ugro.nodes.remote.on_node.answer import VERSION
from ugro.nodes.remote.python import with_env
from ugro.nodes.transport import Transport
from ugro.nodes.transport.base import OUTPUT_LIMIT

Answer = TypeVar("Answer", bound=Record)

EACH = 60
"""Seconds for one interpreter: importing torch from a cold disk or a slow NFS takes that long."""

MOST = 24
"""Interpreters of a node that are tried."""

TIMEOUT = 600.0

NO_DEVICE = "none"
"""In the place of a device: nothing is computed, since the GPU would hang."""

CPU = "cpu"

SOURCES = ("configured", "ugro", "conda", "venv", "pyenv", "path", "system", "uv", "made")
"""Where an interpreter may be found, as the script names it."""

PROBLEM = "its Python interpreters cannot be read"

_STATUS_OF_TIMEOUT = (124, 137)

Trying = Callable[[str], None]
"""Called with the path of each interpreter when it is tried."""


class Facts(Record):
    """Facts about an interpreter and its torch. `can_make`: it can make a virtual environment with pip."""

    python: str = Field(pattern=r"^\d{1,3}(\.\d{1,3}){2}$")
    executable: str
    prefix: str
    machine: str
    can_make: bool
    torch: str | None
    torch_error: str | None
    distributed: bool
    cuda: str | None
    archs: tuple[str, ...]


class Matmul(Record):
    """A product of two matrices, compared with the one of the CPU."""

    device: str
    passed: bool
    error: str | None
    seconds: float = Field(ge=0, allow_inf_nan=False)


class Interpreter(Record):
    """One interpreter. `version` is None where it does not run; `facts` where it broke off or is older than 3.8.

    `problem` is its last line of output where an answer is missing, or that it did not end.
    """

    path: str
    source: str
    version: str | None = None
    facts: Facts | None = None
    matmul: Matmul | None = None
    problem: str | None = None


class NodeInterpreters(Record):
    """The interpreters of a node. `uv` is the path of its uv. `complete` is False if the answer ended early;
    `more` counts those that were not tried.
    """

    found: tuple[Interpreter, ...] = ()
    uv: str | None = None
    machine: str | None = None
    more: int = 0
    complete: bool = True


async def try_all(transport: Transport, device: str, trying: Trying | None = None) -> NodeInterpreters:
    """Try every interpreter of a node, one after the other, on a device: the UUID of a GPU, `CPU` or `NO_DEVICE`.

    A GPU is used for a few seconds, with a few hundred MiB. Nothing is written there.

    Raises:
        NodeRefused: the answer cannot be understood. NodeError: as `Transport.run` does.
    """
    return await _ask(transport, device, "", trying)


async def try_one(transport: Transport, device: str, path: str) -> Interpreter:
    """Try one interpreter by its path.

    Raises:
        NodeRefused: there is none at that path. NodeError: as `try_all`.
    """
    for one in (await _ask(transport, device, path, None)).found:
        return one
    raise NodeRefused(transport.name, f"there is no interpreter {path}", "see: ugro node python " + transport.name)


async def _ask(transport: Transport, device: str, only: str, trying: Trying | None) -> NodeInterpreters:
    nonce = secrets.token_hex(8)
    heard = bytearray()
    told = 0

    def keep(stream: str, chunk: bytes) -> None:
        nonlocal told
        if stream != "stdout" or len(heard) >= OUTPUT_LIMIT:
            return
        heard.extend(chunk)
        if trying:
            lines = _begun(heard, nonce)
            for line in lines[told:]:
                trying(_words(line).path)
            told = len(lines)

    node = transport.node
    args = (nonce, node.base_dir, node.python, device, str(EACH), str(MOST), only)
    script, data = with_env(node, load("interpreters/interpreters.sh")), load("interpreters/interpreter.py").encode()
    try:
        await transport.run(script, args, data=data, timeout=TIMEOUT, on_output=keep)
    except (CommandTimedOut, LinkLost):
        if not heard:
            raise
    if found := parse(heard.decode("utf-8", "replace"), nonce):
        return found
    raise NodeRefused(transport.name, f"{PROBLEM}: the answer cannot be understood", "a Linux machine is expected")


def _begun(heard: bytearray, nonce: str) -> list[str]:
    """The whole lines that begin an interpreter."""
    lines = heard.decode("utf-8", "replace").split("\n")[:-1]
    return [line for line in lines if line.startswith(f"@{nonce} python ")]


def parse(output: str, nonce: str) -> NodeInterpreters | None:
    """Understand the output of interpreters.sh; None if it says nothing. Of equal ones the first counts."""
    sections = read_sections(output, nonce)
    said = {section.name: section.rest for section in sections}
    if "machine" not in said:
        return None
    found: dict[str, Interpreter] = {}
    for one in _interpreters(sections):
        found.setdefault(one.facts.prefix if one.facts else one.path, one)
    more = said.get("more", "0")
    return NodeInterpreters(
        found=tuple(found.values()),
        uv=said["uv"] if said.get("uv", "").startswith("/") else None,
        machine=printable(said["machine"])[:40] or None,
        more=int(more) if re.fullmatch(r"[0-9]{1,6}", more) else 0,
        complete="end" in said,
    )


def _interpreters(sections: list[Section]) -> Iterator[Interpreter]:
    for at, section in enumerate(sections):
        if section.name != "python":
            continue
        one = _words(f"@ python {section.rest}")
        if not one.path.startswith("/") or not one.path.isprintable() or one.source not in SOURCES:
            continue
        ended = sections[at + 1].rest if at + 1 < len(sections) and sections[at + 1].name == "ended" else ""
        facts, matmul = _answer(section, "interpreter", Facts), _answer(section, "matmul", Matmul)
        computes = facts is not None and facts.torch is not None and ended == "0"
        problem = None
        if one.version and (facts is None or (matmul is None and not computes)) and _new_enough(one.version):
            problem = _how_it_ended(section, ended)
        yield one.model_copy(update={"facts": facts, "matmul": matmul, "problem": problem})


def _new_enough(version: str) -> bool:
    """Whether the script was run with it, as interpreters.sh decides it."""
    return [int(part) for part in version.split(".")[:2]] >= [3, 8]


def _words(line: str) -> Interpreter:
    """An interpreter of `@NONCE python SOURCE VERSION PATH`."""
    source, version, path = (*line.split(" ", 4)[2:], "", "", "")[:3]
    known = re.fullmatch(r"\d{1,3}(\.\d{1,3}){2}", version)
    return Interpreter(path=path, source=source, version=version if known else None)


def _answer(section: Section, kind: str, shape: type[Answer]) -> Answer | None:
    """An answer of interpreter.py among the lines of a section; None if it is missing or makes no sense."""
    begin = json.dumps({"ugro": VERSION, "kind": kind})[:-1]
    for line in section.lines:
        if line.startswith(begin):
            with contextlib.suppress(ValueError, RecursionError, AttributeError, ValidationError):
                return shape.model_validate(json.loads(line).get("payload"))
    return None


def _how_it_ended(section: Section, status: str) -> str | None:
    """Why an answer is missing."""
    if status.isdecimal() and int(status) in _STATUS_OF_TIMEOUT:
        return f"it did not end within {EACH} s"
    said = [line for line in section.lines if not line.startswith('{"ugro"')]
    if said:
        return printable(said[-1].encode("utf-8", "replace").decode())[:ERROR_LIMIT]
    return None if status == "0" else f"it ended with exit code {status or 'unknown'}"
