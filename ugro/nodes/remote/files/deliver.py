"""Takes files of this machine to a node, each from where the last try ended: whole and checked, or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, TypeAdapter

from ugro.common.errors import NodeRefused, StateError
from ugro.common.models.record import Record
from ugro.common.text import bytes_in_words, printable, visible
from ugro.nodes.code_sync.manifest import Entry
from ugro.nodes.code_sync.push import Parcel
from ugro.nodes.remote.answers import SENSELESS, payload
from ugro.nodes.remote.bundle import load
from ugro.nodes.remote.files.fetch import PATIENCE_SECONDS, SLOWEST_LINK
from ugro.nodes.remote.python import RUN_PROGRAM, require_python
from ugro.nodes.transport import Transport

CHUNK = 1024 * 1024

T = TypeVar("T")

Number = Annotated[int, Field(ge=0, le=2**63 - 1)]
Progress = Callable[[int, int], None]
"""Called with the bytes that the node has so far, and in all."""


@dataclass(frozen=True)
class Source:
    """A file of this machine as it was when it was listed; `name` is its path below the folder that it goes to."""

    path: Path
    name: str
    size: int
    mtime: int
    executable: bool

    @property
    def readable(self) -> str:
        """Its name as text; bytes that are not UTF-8 become replacement characters."""
        return self.name.encode("utf-8", "replace").decode()


class _Ready(Record):
    folder: str
    storage: str
    free: Number
    held: tuple[tuple[Number, str, bool], ...]


class _Taken(Record):
    problems: tuple[tuple[Number, str], ...]


_READY, _TAKEN = TypeAdapter(_Ready), TypeAdapter(_Taken)


@dataclass(frozen=True)
class Ready:
    """What a node has of some files: by their number so many bytes, with their sum, and whether in their place."""

    folder: str
    storage: str
    free: int
    held: tuple[tuple[int, str, bool], ...]


@dataclass(frozen=True)
class Delivered:
    """What came of it: the bytes that were sent, how many files the node had already, and why others did not come."""

    sent: int
    same: int
    problems: dict[str, str]


async def prepare(transport: Transport, folder: str, sources: Sequence[Source]) -> Ready:
    """Make the folder on a node, and ask what of the files is there.

    Raises:
        NodeRefused: it cannot be made or read. NodeError: as `Transport.run` does.
    """
    asked = json.dumps([[one.name, one.size] for one in sources]).encode() + b"\n"
    seconds = PATIENCE_SECONDS + sum(one.size for one in sources) / SLOWEST_LINK
    found = await _ask(transport, "begin", folder, asked, seconds, _READY)
    if len(found.held) != len(sources):
        raise NodeRefused(transport.name, f"{visible(folder)} cannot be prepared: {SENSELESS}")
    return Ready(found.folder, found.storage, found.free, found.held)


async def deliver(
    transport: Transport,
    folder: str,
    sources: Sequence[Source],
    sums: Sequence[str],
    ready: Ready,
    progress: Progress,
) -> Delivered:
    """Send what a node lacks of some files, whose SHA-256 sums are known.

    Raises:
        StateError: a file cannot be read here, or changed. NodeRefused: the node has too little room, or cannot write.
        NodeError: as `Transport.run` does; what came until then stays, and the next call continues it.
    """
    known = zip(sources, sums, ready.held, strict=True)
    plan = await asyncio.to_thread(lambda: [_step(*each) for each in known])
    due = {number: step for number, step in enumerate(plan) if not step.there}
    missing = sum(sources[number].size - step.start for number, step in due.items())
    if missing > ready.free:
        words = f"{ready.folder} has {bytes_in_words(ready.free)} free, and {bytes_in_words(missing)} are to come"
        raise NodeRefused(transport.name, printable(words), "free some space there, or choose another folder with --to")
    if not due:
        total = sum(one.size for one in sources)
        progress(total, total)
        return Delivered(0, len(sources), {})
    head = [_head(number, sources[number], step) for number, step in due.items()]
    parcel = _Files(sources, due, progress)
    stream = _after(json.dumps(head).encode() + b"\n", parcel.parcel)
    seconds = PATIENCE_SECONDS + missing / SLOWEST_LINK
    try:
        taken = await _ask(transport, "finish", folder, stream, seconds, _TAKEN)
    except NodeRefused:
        if parcel.parcel.failure is None:
            raise
        raise StateError(
            f"a file cannot be read: {parcel.parcel.failure.strerror or parcel.parcel.failure}",
            "the same command tries again",
        ) from None
    problems = {sources[number].readable: printable(why)[:500] for number, why in taken.problems if number in due}
    return Delivered(missing, len(sources) - len(due), problems)


@dataclass(frozen=True)
class _Step:
    """From where on a file is sent, and the sum of all of it; `there`: it is in its place already."""

    start: int
    sha256: str
    there: bool


def _step(source: Source, whole: str, held: tuple[int, str, bool]) -> _Step:
    have, known, in_place = held
    if in_place and have == source.size:
        there = known == whole
        return _Step(have if there else 0, whole, there)
    return _Step(have if 0 < have <= source.size and sum_of(source, have) == known else 0, whole, False)


def sum_of(source: Source, size: int) -> str:
    """Return the SHA-256 sum of so many of a file's first bytes.

    Raises:
        StateError: it cannot be read, or is shorter.
    """
    digest, left = hashlib.sha256(), size
    try:
        with source.path.open("rb") as file:
            while left and (chunk := file.read(min(CHUNK, left))):
                digest.update(chunk)
                left -= len(chunk)
    except OSError as error:
        raise StateError(f"{visible(str(source.path))} cannot be read: {error.strerror}") from None
    if left:
        raise StateError(f"{visible(str(source.path))} is shorter than it was", "the same command tries again")
    return digest.hexdigest()


def _head(number: int, source: Source, step: _Step) -> list[object]:
    return [number, source.name, source.size, source.mtime, source.executable, step.start, step.sha256]


class _Files:
    """The stream of what is missing: that of code, each file from where the node has it."""

    def __init__(self, sources: Sequence[Source], due: dict[int, _Step], progress: Progress) -> None:
        there = sum(one.size for number, one in enumerate(sources) if number not in due)
        there += sum(step.start for step in due.values())
        total = sum(one.size for one in sources)
        entries: dict[int, Entry] = {
            number: {
                "name": os.fsencode(sources[number].path).decode("utf-8", "surrogateescape"),
                "size": sources[number].size - step.start,
                "from": step.start,
            }
            for number, step in due.items()
            if sources[number].size > step.start
        }
        self.parcel = Parcel(Path("/"), entries, lambda sent, _: progress(there + sent, total))


async def _after(head: bytes, parcel: Parcel) -> AsyncIterator[bytes]:
    yield head
    async for block in parcel:
        yield block


async def _ask(
    transport: Transport,
    step: str,
    folder: str,
    data: bytes | AsyncIterator[bytes],
    seconds: float,
    shape: TypeAdapter[T],
) -> T:
    words = (transport.node.python, load("files/receive_files.py"), step, folder, transport.node.base_dir)
    outcome = await transport.run(RUN_PROGRAM, words, data=data, timeout=seconds)
    require_python(transport, outcome)
    return payload(transport, outcome, "receive_files", shape, f"files cannot be put into {visible(folder)}")
