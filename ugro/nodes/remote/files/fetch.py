"""Brings files of one node to this machine, each from where the last try ended: whole and checked, or not at all.

What has come of a file is beside its place, as `NAME.ugro-part`. It counts where the node finds that its own file
begins with the same bytes. A file gets its name once the SHA-256 sum of all of it is that of the node's.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import Field, TypeAdapter, ValidationError

from ugro.common.errors import NodeError, NodeRefused, StateError
from ugro.common.files import FULL
from ugro.common.models.record import Record
from ugro.common.text import printable, visible
from ugro.nodes.remote.answers import last_words
from ugro.nodes.remote.bundle import load
from ugro.nodes.remote.python import RUN_PROGRAM, require_python
from ugro.nodes.transport import Transport

PART = ".ugro-part"
"""What follows the name of a file that is not there whole."""

PATIENCE_SECONDS = 300
SLOWEST_LINK = 50_000
"""Bytes per second below which a transfer is given up; the next one continues it."""

SEED_LIMIT = 64 * 1024 * 1024
"""Bytes of a file here up to which only what a longer one on the node has more is asked for."""

LINE_LIMIT = 64 * 1024
CHUNK = 1024 * 1024
NAME_MAX = 255

AGAIN = "then run the same command again: it continues where it ended"

Number = Annotated[int, Field(ge=0, le=2**63 - 1)]
Progress = Callable[[int, int], None]
"""Called with the bytes that are here so far, and in all."""


@dataclass(frozen=True)
class Wanted:
    """A file below a folder of a node, its size there as it was listed, and its place on this machine."""

    path: str
    size: int
    target: Path


How = Literal["copied", "same", "grown"]
"""`same`: it was here already; `grown`: the node's file grew meanwhile, and this is what it was before."""


@dataclass(frozen=True)
class Fetched:
    """A file that is here. `received` are the bytes that came for it now."""

    wanted: Wanted
    how: How
    size: int
    received: int
    sha256: str


@dataclass
class Fetch:
    """What came of a transfer: files that are here, why others are not, by path, and what ended it before its end.

    That is a NodeError, or a StateError: this machine cannot write.
    """

    done: list[Fetched] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    error: NodeError | StateError | None = None


class _Head(Record):
    size: Number = 0
    begin: Annotated[Number, Field(alias="from")] = 0
    bytes: Number = 0
    mode: Annotated[int, Field(ge=0, le=0o777)] = 0o644
    mtime: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] = 0
    problem: str | None = None


class _Tail(Record):
    sha256: str
    changed: Literal["grown", "rewritten"] | None = None


_HEAD, _TAIL = TypeAdapter(_Head), TypeAdapter(_Tail)


async def fetch(transport: Transport, folder: str, wanted: Sequence[Wanted], progress: Progress | None = None) -> Fetch:
    """Bring files below a folder of a node to their places on this machine; those that are here are compared.

    Where it ends before its end, what came of a file until then stays, and the next call continues it.
    """
    held = await asyncio.to_thread(lambda: [_held(one) for one in wanted])
    receiver = _Receiver(transport.name, held, progress or (lambda done, total: None))
    asked = [{"name": one.wanted.path, "have": one.have, "sha256": one.sum} for one in held]
    seconds = PATIENCE_SECONDS + sum(one.size for one in wanted) / SLOWEST_LINK
    problem: NodeError | None = None
    try:
        await _receive(transport, folder, asked, seconds, receiver)
    except NodeError as error:
        problem = error
    finally:
        await asyncio.to_thread(receiver.settle)
    return receiver.outcome(problem)


async def sums(transport: Transport, folder: str, sizes: Mapping[str, int]) -> dict[str, str]:
    """Return the SHA-256 sums of files below a folder of a node, named with their sizes; unreadable ones have none.

    Raises:
        NodeError: as `Transport.run` does.
    """
    held = [_Held(Wanted(path, 0, Path()), None) for path in sizes]
    receiver = _Receiver(transport.name, held, lambda done, total: None)
    asked = [{"name": path, "have": None, "sha256": ""} for path in sizes]
    await _receive(transport, folder, asked, PATIENCE_SECONDS + sum(sizes.values()) / SLOWEST_LINK, receiver)
    return receiver.sums


async def _receive(
    transport: Transport, folder: str, asked: list[dict[str, Any]], seconds: float, receiver: _Receiver
) -> None:
    data = json.dumps(asked).encode() + b"\n"
    words = (transport.node.python, load("files/send_files.py"), folder)
    run = asyncio.ensure_future(transport.run(RUN_PROGRAM, words, data=data, timeout=seconds, on_output=receiver.take))
    receiver.give_up = run.cancel
    try:
        outcome = await run
    except asyncio.CancelledError:
        if receiver.failure is None:
            raise
        return
    if receiver.failure is None:
        require_python(transport, outcome)
        if not receiver.complete:
            why = receiver.nonsense or receiver.said or last_words(outcome)
            raise NodeRefused(transport.name, f"{visible(folder)} was received incomplete: {printable(why)}")


@dataclass
class _Held:
    """What is here of a wanted file: so many bytes (None: only its sum is asked for) with their sum."""

    wanted: Wanted
    have: int | None
    digest: Any = field(default_factory=hashlib.sha256)
    whole: bool = False
    """Whether they are in its place, and not beside it."""

    @property
    def sum(self) -> str:
        return str(self.digest.hexdigest())


def part_of(target: Path) -> Path:
    """Return where a file is while it is not here whole."""
    name = os.fsencode(target.name)
    if len(name) + len(PART) <= NAME_MAX:
        return target.with_name(target.name + PART)
    return target.with_name(hashlib.sha256(name).hexdigest() + PART)


def _held(wanted: Wanted) -> _Held:
    part, place = part_of(wanted.target), wanted.target
    try:
        if (size := _size(part)) is not None and 0 < size <= wanted.size:
            return _Held(wanted, size, _digest(part))
        if (size := _size(place)) is not None and size == wanted.size:
            return _Held(wanted, size, _digest(place), whole=True)
        if size is not None and 0 < size < wanted.size and size <= SEED_LIMIT:
            shutil.copyfile(place, part)
            return _Held(wanted, size, _digest(part))
    except OSError:  # it cannot be read, or the disk is full: then the writing says so
        pass
    return _Held(wanted, 0)


def _size(path: Path) -> int | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _digest(path: Path) -> Any:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest


@dataclass
class _Arrived:
    """A file that has come whole and has to get its name."""

    wanted: Wanted
    head: _Head
    fetched: Fetched


class _Receiver:
    """Parses the stream of `send_files.py`. Errors are kept here, since a transport's callback must not raise them."""

    def __init__(self, node: str, held: Sequence[_Held], progress: Progress) -> None:
        self._node = node
        self._held = held
        self._progress = progress
        self._total = sum(one.wanted.size for one in held)
        self._before = 0
        self._line = bytearray()
        self._number = 0
        self._head: _Head | None = None
        self._file: BinaryIO | None = None
        self._digest: Any = None
        self._left = 0
        self._in_file = 0
        self._arrived: list[_Arrived] = []
        self._fetch = Fetch()
        self.sums: dict[str, str] = {}
        self.give_up: Callable[[], object] = lambda: None
        self.failure: OSError | None = None
        self._failed_at: Path | None = None
        self.nonsense = ""
        self.said = ""
        self.complete = False

    def take(self, stream: str, chunk: bytes) -> None:
        """Called by the transport with what comes."""
        if stream == "stderr":
            lines = chunk.decode("utf-8", "replace").strip().splitlines()
            self.said = lines[-1][:500] if lines else self.said
        elif not (self.failure or self.nonsense):
            try:
                self._feed(memoryview(chunk))
            except OSError as error:
                self._fail(error)
            except (ValidationError, ValueError, RecursionError):
                self.nonsense = "its answer makes no sense"

    def _fail(self, error: OSError) -> None:
        self.failure = error
        self._failed_at = self._held[self._number].wanted.target if self._number < len(self._held) else None
        self.give_up()

    def _feed(self, chunk: memoryview) -> None:
        while chunk:
            if self._left:
                part = chunk[: self._left]
                self._write(part)
                chunk = chunk[len(part) :]
                continue
            before, newline, _ = bytes(chunk[:LINE_LIMIT]).partition(b"\n")
            self._line += before
            if not newline:
                if len(self._line) > LINE_LIMIT or len(chunk) > LINE_LIMIT:
                    raise ValueError
                return
            chunk = chunk[len(before) + 1 :]
            line, self._line = bytes(self._line), bytearray()
            self._read(line)

    def _read(self, line: bytes) -> None:
        """Take a line: the head of a file, its tail, or the end of all."""
        if self._number == len(self._held):
            self.complete = json.loads(line) == {"end": True}
            if not self.complete:
                raise ValueError
        elif self._head is None:
            self._begin(_HEAD.validate_json(line))
        else:
            self._end(_TAIL.validate_json(line))

    def _begin(self, head: _Head) -> None:
        held = self._held[self._number]
        if head.problem is not None:
            self._fetch.problems[held.wanted.path] = printable(head.problem)[:500]
            self._next()
            return
        if head.begin not in (0, held.have or 0) and held.have is not None:
            raise ValueError
        if head.begin + head.bytes != head.size or (held.have is None and head.bytes):
            raise ValueError
        self._head, self._left, self._in_file = head, head.bytes, head.begin
        self._digest = held.digest.copy() if head.begin and held.have else hashlib.sha256()
        if held.have is None or (held.whole and head.begin == held.have and not head.bytes):
            return  # nothing of it is written here
        part = part_of(held.wanted.target)
        part.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | (0 if head.begin else os.O_TRUNC)
        self._file = open(os.open(part, flags, 0o666), "wb", buffering=0)  # noqa: SIM115 - it is closed at its end
        self._file.truncate(head.begin)
        self._file.seek(head.begin)

    def _write(self, part: memoryview) -> None:
        assert self._file
        left = part
        while left:
            left = left[self._file.write(left) :]
        self._digest.update(part)
        self._left -= len(part)
        self._in_file += len(part)
        self._progress(self._before + self._in_file, self._total)

    def _end(self, tail: _Tail) -> None:
        held, head = self._held[self._number], self._head
        assert head
        if held.have is None:
            self.sums[held.wanted.path] = tail.sha256
            self._next()
            return
        written = self._file is not None
        self._close()
        sum_here = self._digest.hexdigest()
        problem = ""
        if tail.changed == "rewritten":
            problem = "it was rewritten while it was read; the same command tries again"
        elif sum_here != tail.sha256:
            problem = "what came has another SHA-256 sum than it has there; the same command tries again"
        if problem:
            self._fetch.problems[held.wanted.path] = problem
            part_of(held.wanted.target).unlink(missing_ok=True)
        else:
            how: How = "grown" if tail.changed else "copied" if written else "same"
            fetched = Fetched(held.wanted, how, head.size, head.bytes, sum_here)
            self._arrived.append(_Arrived(held.wanted, head, fetched))
        self._before += held.wanted.size
        self._progress(self._before, self._total)
        self._next()

    def _next(self) -> None:
        self._head = None
        self._number += 1

    def _close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def settle(self) -> None:
        """Give what has come whole its name. A thread does it: a disk takes its time."""
        self._close()
        for one in self._arrived:
            try:
                _put_in_place(one)
            except OSError as error:
                self.failure, self._failed_at = error, one.wanted.target
                break
            self._fetch.done.append(one.fetched)
        self._arrived = []

    def outcome(self, problem: NodeError | None) -> Fetch:
        """Return what came of it, where the node said that problem."""
        self._fetch.error = problem
        if self.failure:
            place = visible(str(self._failed_at)) if self._failed_at else "this machine"
            first = "free some space there" if self.failure.errno in FULL else "put that right"
            self._fetch.error = StateError(f"{place} cannot be written: {self.failure.strerror}", f"{first}, {AGAIN}")
        return self._fetch


def _put_in_place(one: _Arrived) -> None:
    if one.fetched.how == "same":
        return
    part, target = part_of(one.wanted.target), one.wanted.target
    descriptor = os.open(part, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode & 0o777
        executable = (mode & 0o444) >> 2 if one.head.mode & 0o100 else 0  # for all who may read it
        os.fchmod(descriptor, mode | executable)
        os.utime(descriptor, ns=(one.head.mtime, one.head.mtime))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(part, target)
