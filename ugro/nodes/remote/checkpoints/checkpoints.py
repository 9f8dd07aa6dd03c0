"""Checkpoints on one node: which there are, whether they are whole, and how one comes to this machine."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from pydantic import TypeAdapter, ValidationError

from ugro.common.errors import NodeRefused, StateError
from ugro.common.models.checkpoint import FoundCheckpoint
from ugro.common.models.record import Record
from ugro.common.text import printable
from ugro.nodes.remote.bundle import load
from ugro.nodes.remote.python import RUN_PYTHON, ask_script
from ugro.nodes.transport import Transport

LOOK_TIMEOUT = 120.0
PATIENCE_SECONDS = 300
SLOWEST_LINK = 50_000
"""Bytes per second below which a transfer is given up."""
HEADER_LIMIT = 16 * 1024 * 1024

Progress = Callable[[int, int], None]
"""Called with the bytes received so far and in all."""

_FILES = TypeAdapter(list[tuple[str, int]])
_SUMS = TypeAdapter(list[str])


@dataclass(frozen=True)
class SearchResult:
    """The checkpoints that a node has, and the places that were not searched, each with the reason."""

    found: list[FoundCheckpoint]
    passed: tuple[str, ...] = ()


class _Found(Record):
    found: list[FoundCheckpoint]
    passed: tuple[str, ...]


_SEARCH = TypeAdapter(_Found)


async def find(transport: Transport, job_dir: str, roots: Sequence[str], pattern: str, since: float) -> SearchResult:
    """The checkpoints below some directories of a node that a job may have written: since it began, by its own files in
    `job_dir`, or since then (the node's clock, epoch seconds) where these do not tell.

    Raises:
        NodeRefused: the look did not come to its end. NodeError: as `Transport.run` does.
    """
    args = (f"{since:.3f}", pattern, job_dir, *roots)
    answer = await ask_script(
        transport, "checkpoints/checkpoints.py", args, _SEARCH, "its checkpoints cannot be listed", timeout=LOOK_TIMEOUT
    )
    try:
        for name in [name for one in answer.found for name in (one.name, *one.shards)]:
            _inside(name)
    except OSError:
        raise NodeRefused(transport.name, "its list of checkpoints cannot be understood") from None
    return SearchResult(answer.found, tuple(map(printable, answer.passed)))


async def fetch(
    transport: Transport,
    path: str,
    size: int,
    target: Path,
    progress: Progress | None = None,
    names: Sequence[str] = (),
) -> None:
    """Bring a checkpoint to `target` on this machine, a folder or a file as it is there: whole, or not at all.

    With `names` only these files and folders below `path`. Every file's SHA-256 sum is compared. `size` is the bytes
    that are expected, for the time limit alone.

    Raises:
        StateError: it cannot be written here. NodeRefused: it cannot be read there, or changed meanwhile.
        NodeError: as `Transport.run` does.
    """
    partial = target.with_name(f".{target.name}.partial")
    _remove(partial)
    receiver = _Receiver(partial, progress or (lambda done, total: None))
    args = (transport.node.python, path, *names)
    timeout = PATIENCE_SECONDS + size / SLOWEST_LINK
    try:
        with receiver:
            outcome = await transport.run(
                RUN_PYTHON,
                args,
                data=load("checkpoints/send_files.py").encode(),
                timeout=timeout,
                on_output=receiver.take,
            )
        if receiver.failure:
            raise StateError(f"the checkpoint cannot be written to {target}: {receiver.failure}")
        if problem := receiver.problem(outcome.status):
            raise NodeRefused(transport.name, f"{printable(path)} was received incomplete: {problem}")
        _remove(target)
        os.replace(partial, target)
    except OSError as error:
        raise StateError(f"the checkpoint cannot be written to {target}: {error.strerror}") from None
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class _Nonsense(Exception):
    """What comes is not what a node of ours sends."""


class _Receiver:
    """Takes the stream of `send_files.py` apart. What goes wrong here is kept, since a transport may not be told."""

    def __init__(self, root: Path, progress: Progress) -> None:
        self._root = root
        self._progress = progress
        self._head = bytearray()
        self._tail = bytearray()
        self._files: list[tuple[str, int]] | None = None
        self._sums: list[str] = []
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._left = 0
        self._done = 0
        self._said = b""
        self.failure: OSError | None = None
        self.nonsense = ""

    def __enter__(self) -> _Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def take(self, stream: str, chunk: bytes) -> None:
        """Called by the transport with what comes."""
        if stream == "stderr":
            self._said = (self._said + chunk)[-2000:]
            return
        if self.failure or self.nonsense:
            return
        try:
            self._feed(memoryview(chunk))
        except _Nonsense as error:
            self.nonsense = str(error)
        except OSError as error:
            self.failure = error

    def problem(self, status: int) -> str:
        """What is missing or wrong, once the stream has ended; empty: nothing."""
        if status == 74:
            return "it changed meanwhile"
        if status != 0:
            lines = self._said.decode("utf-8", "replace").strip().splitlines()
            return printable(lines[-1]) if lines else f"exit {status}"
        if self.nonsense:
            return self.nonsense
        try:
            sums = _SUMS.validate_json(bytes(self._tail))
        except ValidationError:
            return "the stream broke off"
        if self._files is None or len(self._sums) != len(self._files):
            return "the stream broke off"
        return "" if sums == self._sums else "a checksum differs"

    def _feed(self, chunk: memoryview) -> None:
        while chunk:
            if self._files is None:
                chunk = self._header(chunk)
            elif len(self._sums) == len(self._files):
                self._tail += chunk[: HEADER_LIMIT - len(self._tail)]
                return
            else:
                chunk = self._content(chunk)

    def _header(self, chunk: memoryview) -> memoryview:
        before, newline, _ = bytes(chunk).partition(b"\n")
        self._head += before
        if not newline:
            if len(self._head) > HEADER_LIMIT:
                raise _Nonsense("the list of its files has no end")
            return chunk[len(chunk) :]
        try:
            self._files = _FILES.validate_json(bytes(self._head))
        except ValidationError:
            raise _Nonsense("the list of its files makes no sense") from None
        self._total = sum(size for _, size in self._files)
        self._next()
        return chunk[len(before) + 1 :]

    def _content(self, chunk: memoryview) -> memoryview:
        assert self._file
        part = chunk[: self._left]
        self._file.write(part)
        self._digest.update(part)
        self._left -= len(part)
        self._done += len(part)
        self._progress(self._done, self._total)
        if not self._left:
            self._sums.append(self._digest.hexdigest())
            self._next()
        return chunk[len(part) :]

    def _next(self) -> None:
        """Begin the next file; empty ones are over at once."""
        assert self._files is not None
        while True:
            if self._file:
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                self._file = None
            if len(self._sums) == len(self._files):
                return
            name, self._left = self._files[len(self._sums)]
            path = self._root / _inside(name) if name else self._root
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("xb")
            self._digest = hashlib.sha256()
            if self._left:
                return
            self._sums.append(self._digest.hexdigest())


def _inside(name: str) -> PurePosixPath:
    """A node's file name, which must stay below the checkpoint's folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or not path.parts:
        raise OSError(f"a file of it has the name {printable(name)!r}")
    return path
