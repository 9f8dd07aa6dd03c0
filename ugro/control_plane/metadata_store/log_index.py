"""Finds lines in a kept log of any size, and reads no more of it than it shows.

Beside the copies, `index/rank-0.log` counts the line ends in each 64 KiB of a log. It grows as the log arrives, and is
rebuilt from the log where it is missing, behind, ahead or damaged; on a full disk the log is read without it. A line
ends with a line feed, however long it is. Numbers begin at 1.
"""

from __future__ import annotations

import codecs
import contextlib
import math
import os
import re
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from ugro.common.errors import StateError

BLOCK = 64 * 1024
"""Bytes between two entries of an index."""

LINE_BYTES = 8 * 1024
"""Bytes of one line that are shown."""

PAGE_BYTES = 1024 * 1024
"""Bytes of lines that are shown at a time, beyond which a page has fewer lines than were asked for."""

SLAB = 256 * 1024
"""Bytes that are searched at a time: less than a millisecond, in which no other thread runs."""

DUE_AFTER = 64
"""Blocks that a copy may grow by before its index does."""

KEPT_AT = 1024
"""Blocks after which an index that is being built is kept, so that one that is broken off continues. A log that
arrives waits for no more of them at a time."""

FOLDER, MAGIC, ENTRY = "index", b"UGROIX01", 8
T = TypeVar("T")


class IndexMismatch(Exception):
    """An index does not belong to its log."""


@dataclass(frozen=True)
class KeptLine:
    """A line, or the part of it that is shown: `before` and `after` are the bytes that are left out on each side."""

    number: int
    offset: int
    """Offset of the line in its log."""
    data: bytes
    before: int = 0
    after: int = 0

    @property
    def text(self) -> str:
        """The shown text, without the halves of characters at its ends."""
        begin = next((n for n, byte in enumerate(self.data[:4]) if byte & 0xC0 != 0x80), 0) if self.before else 0
        return codecs.utf_8_decode(self.data[begin:], "replace", not self.after)[0]


@dataclass(frozen=True)
class FoundLines:
    """Lines that a search found, and the offset from which it continues; None: all was searched."""

    lines: tuple[KeptLine, ...]
    next: int | None


class IndexedLog:
    """A log, open for reading, as long as it was when it was opened, or its first `most` bytes. `with` closes it.

    `read` is how many bytes of the log were read.

    Raises (when it is opened):
        FileNotFoundError: there is no such log.
    """

    def __init__(self, log: Path, most: float = math.inf) -> None:
        self._index = _index_of(log)
        self._keeps = True
        self._file = os.open(log, os.O_RDONLY)
        self.read = 0
        self.size = int(min(os.fstat(self._file).st_size, most))
        self._block = -1
        self._ends: list[int] = []
        try:
            self._counts = self._kept()
            self._extend()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> IndexedLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the log."""
        os.close(self._file)

    # --- what it is asked for ----------------------------------------------------------------------------------------

    @cached_property
    def count(self) -> int:
        """The number of lines; one whose end has not come counts."""
        return self._whole + self.unfinished

    @cached_property
    def unfinished(self) -> bool:
        """Whether the last line has no end."""
        return self.size > 0 and self._pread(1, self.size - 1) != b"\n"

    def lines(self, first: int, count: int) -> list[KeptLine]:
        """Return lines from a number on: as many as are asked for, or as fit into PAGE_BYTES."""
        found, room = list[KeptLine](), PAGE_BYTES
        for number in range(max(1, first), min(first + count, self.count + 1)):
            found.append(line := self._line(number))
            if (room := room - len(line.data)) <= 0:
                break
        return found

    def tail(self, count: int, last: int | None = None) -> list[KeptLine]:
        """Return the lines that end with a number (None: with the last one), as many as fit into PAGE_BYTES."""
        found, room = list[KeptLine](), PAGE_BYTES
        last = self.count if last is None else min(last, self.count)
        for number in range(last, max(0, last - count), -1):
            found.append(line := self._line(number))
            if (room := room - len(line.data)) <= 0:
                break
        return found[::-1]

    def grep(self, text: bytes, start: int, limit: int, until: float) -> FoundLines:
        """Return lines that contain a text, from an offset on: at most `limit`, until a monotonic time."""
        at, found = start, list[KeptLine]()
        while at < self.size:
            if time.monotonic() >= until:
                return FoundLines(tuple(found), at)
            begin, data = at, self._pread(SLAB + len(text) - 1, at)
            place = data.find(text)
            while place >= 0:
                found.append(line := self.around(begin + place, len(text)))
                at = self._end(line.number) + 1
                if len(found) >= limit:
                    return FoundLines(tuple(found), at if at < self.size else None)
                place = data.find(text, at - begin)
            at = max(at, begin + SLAB)
        return FoundLines(tuple(found), None)

    def around(self, offset: int, length: int) -> KeptLine:
        """Return the line at an offset, or what surrounds so many bytes of it; of a progress bar, that state of it."""
        number = self._number(offset)
        begin, end = self._begin(number), self._end(number)
        start = max(begin, min(offset - LINE_BYTES // 4, end - LINE_BYTES))
        data = self._pread(min(LINE_BYTES, end - start), start)
        first = data.rfind(b"\r", 0, offset - start) + 1
        last = data.rstrip(b"\r").find(b"\r", offset - start + length)
        if first or last >= 0:
            data, start = data[first : last if last >= 0 else len(data)], start + first
        return KeptLine(number, begin, data, start - begin, max(0, end - start - len(data)))

    # --- where lines are ---------------------------------------------------------------------------------------------

    def _line(self, number: int) -> KeptLine:
        begin, end = self._begin(number), self._end(number)
        if end - begin <= LINE_BYTES:
            return KeptLine(number, begin, self._pread(end - begin, begin))
        left = end - begin - LINE_BYTES
        last = self._pread(LINE_BYTES, begin + left)
        if b"\r" in last.rstrip(b"\r"):  # a progress bar: its last state is at its end
            return KeptLine(number, begin, last, before=left)
        return KeptLine(number, begin, self._pread(LINE_BYTES, begin), after=left)

    def _begin(self, number: int) -> int:
        return self._end(number - 1) + 1 if number > 1 else 0

    def _end(self, number: int) -> int:
        """Return the offset of a line's end; that of the log for a last line without an end."""
        if number > self._whole:
            return self.size
        block = bisect_left(self._counts, number) - 1
        return self._ends_in(block)[number - self._counts[block] - 1]

    def _number(self, offset: int) -> int:
        block = offset // BLOCK
        return self._counts[block] + bisect_left(self._ends_in(block), offset) + 1

    def _ends_in(self, block: int) -> list[int]:
        """Return the offsets of the line ends in a block.

        Raises:
            IndexMismatch: the index says another number of them.
        """
        if block != self._block:
            data = self._pread(BLOCK, block * BLOCK)
            self._ends = [block * BLOCK + end.start() for end in re.finditer(b"\n", data)]
            self._block = block
            if len(self._ends) != self._counts[block + 1] - self._counts[block]:
                raise IndexMismatch
        return self._ends

    def _pread(self, count: int, offset: int) -> bytes:
        data = os.pread(self._file, min(count, self.size - offset), offset)
        self.read += len(data)
        return data

    # --- the index ---------------------------------------------------------------------------------------------------

    @property
    def _whole(self) -> int:
        """The number of lines that have an end."""
        return self._counts[-1]

    def _kept(self) -> array[int]:
        """Return the line ends before each block, as they are kept: none where that cannot be right."""
        none, counts, most = array("Q", [0]), array("Q", [0]), self.size // BLOCK
        with contextlib.suppress(OSError), open(self._index, "rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                return none
            data = file.read((most + 1) * ENTRY)
            counts.frombytes(data[: len(data) // ENTRY * ENTRY])
        blocks = len(counts) - 1
        if blocks > most or not all(0 <= after - before <= BLOCK for before, after in pairwise(counts)):
            return none
        for block in {0, blocks - 1} if blocks else ():
            if self._ends_counted(block) != counts[block + 1] - counts[block]:
                return none
        return counts

    def _extend(self) -> None:
        """Count the line ends that the index does not have, and keep the counts of full blocks."""
        kept = len(self._counts)
        for block in range(kept - 1, self.size // BLOCK):
            self._counts.append(self._counts[-1] + self._ends_counted(block))
            if len(self._counts) - kept == KEPT_AT:
                kept = self._keep(kept)
        self._keep(kept)
        self._counts.append(self._counts[-1] + self._ends_counted(self.size // BLOCK))

    def _ends_counted(self, block: int) -> int:
        return self._pread(BLOCK, block * BLOCK).count(b"\n")

    def _keep(self, since: int) -> int:
        """Write the counts from one on. Every process that writes one writes the same, so they need no lock."""
        if self._keeps and since < len(self._counts):
            try:
                self._index.parent.mkdir(exist_ok=True)
                with open(os.open(self._index, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0) as file:
                    if since == 1:
                        file.truncate(0)
                    file.write(MAGIC)
                    file.seek((since - 1) * ENTRY, os.SEEK_CUR)
                    file.write(self._counts[since:].tobytes())
            except OSError:  # a full disk, or `ugro gc`: it is rebuilt when there is room
                self._keeps = False
        return len(self._counts)


def on_log(log: Path, act: Callable[[IndexedLog], T]) -> T:
    """Open a log, and return what a function finds in it. A damaged index is rebuilt.

    Raises:
        FileNotFoundError: there is no such log.
        StateError: the log is overwritten while it is read, or cannot be read.
    """
    try:
        for _ in range(2):
            with contextlib.suppress(IndexMismatch), IndexedLog(log) as opened:
                return act(opened)
            _index_of(log).unlink(missing_ok=True)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StateError(f"{log} cannot be read: {error.strerror}") from None
    raise StateError(f"{log} was overwritten while it was read", "ask again; a copy only ever grows by itself")


def extend_indexes(folder: Path) -> None:
    """Let the indexes of a job's logs follow the copies in a folder, where those grew by much: 64 MiB at a time."""
    for log in folder.glob("rank-*.log"):
        with contextlib.suppress(OSError):
            index = _index_of(log)
            known = max(0, index.stat().st_size - len(MAGIC)) // ENTRY if index.exists() else 0
            if log.stat().st_size // BLOCK - known >= DUE_AFTER:
                IndexedLog(log, (known + KEPT_AT) * BLOCK).close()


def _index_of(log: Path) -> Path:
    return log.parent / FOLDER / log.name
