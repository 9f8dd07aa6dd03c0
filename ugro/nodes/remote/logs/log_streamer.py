"""Brings the logs of a run to the master, byte by byte in order, and reads them back as one stream of lines.

A log's copy on the master is always a prefix of the log on the node, so its size is the offset to continue from: after
a dropped connection, a killed follower or a restarted master nothing is lost and nothing is repeated. `pieces.jsonl`
beside the copies notes when each piece came, which is what interleaves the ranks.

Logs have any length, and so have their lines. Nothing here holds more of them than `TOTAL`, and a window of a log is
brought like the log itself: its copy, in a folder of its own, begins at an offset that is not 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from filelock import AsyncFileLock

from ugro.common.files import append_line
from ugro.common.models.run import LogEnd, LogFetch
from ugro.common.paths import RunPaths
from ugro.nodes.remote.bundle import load
from ugro.nodes.transport import Transport

CHUNK = 8 * 1024 * 1024
"""Most bytes of one file that are brought in one round trip."""

TOTAL = 16 * 1024 * 1024
"""Most bytes of all files of a job that are brought in one round trip to each of its nodes."""

FIRST = 64 * 1024
"""The same for the first round trip; each one after it may bring `GROWTH` times as much. A reader that breaks off on a
slow link leaves little on its way, which the next question to the node would have to wait for."""

GROWTH = 4

ERROR_LIMIT = 1024 * 1024
"""Bytes at the beginning of an error file that are brought: it is one JSON document with a traceback."""

SLAB = 64 * 1024
"""Bytes of all ranks together that are merged at a time when they are read back."""

LONGEST_LINE = 64 * 1024
"""Bytes of a line that are read together. What goes beyond is a line of its own; of a progress bar, which draws itself
again and again on one line, only the end is kept."""

PIECES_LOOKED_AT = 1024 * 1024
"""Bytes at the end of `pieces.jsonl` that say in which order the last lines came."""

NO_RANK = -1
"""Stands for the rank where a reader is to read torchrun's own words alone."""

SETUP = "setup"
"""How the name of a copy begins that has the output of the setup command on a node."""

READ_TIMEOUT = 60.0
PIECES = "pieces.jsonl"
_HEADER = re.compile(rb"(log|rank-\d+\.log|rank-\d+\.error) (\d+) (\d+)\n")
_LEFT = re.compile(rb"left (\d{1,18})\n\Z")
_END = re.compile(r"(log|rank-\d+\.log) (\d{1,18}) (\d{1,18})")


async def fetch(
    transport: Transport,
    paths: RunPaths,
    folder: Path,
    at: float,
    starts: Mapping[str, int] | None = None,
    total: int = TOTAL,
) -> LogFetch:
    """Append what is new in a run's logs to their copies in `folder`, in one round trip.

    What others brought meanwhile is dropped: a piece counts only where the copy ends. Pieces that came `at` the
    same time (seconds since the epoch) are read back side by side. `starts` says, by the name of the copy, at which
    offset of its log a copy begins; `total` bounds the bytes that come.

    Raises:
        NodeError: the node cannot be read now; the copies stay as they are.
    """
    asked = dict(_offsets(folder, paths.node_rank, starts or {}))
    words = [word for name, offset in asked.items() for word in (name, str(offset))]
    limits = (str(CHUNK), str(total), str(ERROR_LIMIT))
    output = bytearray()

    def take(stream: str, data: bytes) -> None:
        if stream == "stdout" and len(output) < 2 * total:  # a node that says more than it was asked for is not heard
            output.extend(data)

    try:
        await transport.run(
            load("logs/read.sh"), (paths.run_dir, *limits, *words), timeout=READ_TIMEOUT, on_output=take
        )
    finally:  # what came before a link broke, or became too slow, counts, too
        pieces = [piece for piece in parse_pieces(bytes(output)) if piece[1] == asked.get(piece[0], 0)]
        if pieces:  # where nothing came nothing is made: to look at a job without logs must leave no trace
            folder.mkdir(parents=True, exist_ok=True)
            async with AsyncFileLock(folder / f".node-{paths.node_rank}.lock"):
                for name, offset, data in pieces:
                    copy = copy_name(name, paths.node_rank)
                    _append(folder / copy, at, offset - (starts or {}).get(copy, 0), data)
    left = _LEFT.search(output)
    return LogFetch(sum(len(data) for _, _, data in pieces), int(left[1]) if left else 0)


async def ends(transport: Transport, paths: RunPaths, lines: int, limit: int) -> dict[str, LogEnd]:
    """Return where the last lines of a run's logs begin, by the name of their copies: `lines` of them (0: however
    many), and no more than `limit` bytes. Fetch nothing.

    Raises:
        NodeError: the node cannot be read now.
    """
    outcome = await transport.run(load("logs/ends.sh"), (paths.run_dir, str(lines), str(limit)), timeout=READ_TIMEOUT)
    found = filter(None, map(_END.fullmatch, outcome.text.splitlines()))
    return {copy_name(one[1], paths.node_rank): LogEnd(int(one[2]), int(one[3])) for one in found}


def parse_pieces(output: bytes) -> Iterator[tuple[str, int, bytes]]:
    """The (name, offset, bytes) pieces in the output of `read.sh`; a piece that was cut short ends them."""
    at = 0
    while match := _HEADER.match(output, at):
        start, count = match.end(), int(match[3])
        piece = output[start : start + count]
        yield match[1].decode(), int(match[2]), piece
        if len(piece) < count:
            return
        at = start + count


def copy_name(name: str, node_rank: int) -> str:
    """torchrun's own log is called `log` on every node, so its copy carries the node rank."""
    return f"node-{node_rank}.log" if name == "log" else name


def setup_copy(node_rank: int) -> str:
    """The name of the copy of what the setup command of a job says on a node."""
    return f"{SETUP}-{node_rank}.log"


async def append_output(copy: Path, at: float, offset: int, piece: bytes) -> None:
    """Append what came of a log by another way than `fetch`, if the copy ends at that offset."""
    await asyncio.to_thread(copy.parent.mkdir, parents=True, exist_ok=True)
    async with AsyncFileLock(copy.parent / f".{copy.stem}.lock"):
        await asyncio.to_thread(_append, copy, at, offset, piece)


def _offsets(folder: Path, node_rank: int, starts: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Yield the name on the node and the offset to continue from, of each log that has a copy or is in `starts`."""
    own = copy_name("log", node_rank)
    names = {path.name for path in folder.glob("rank-*")} | {own} | {name for name in starts if name[:4] == "rank"}
    for name in sorted(names):
        size = (folder / name).stat().st_size if (folder / name).exists() else 0
        if size or name in starts:
            yield "log" if name == own else name, starts.get(name, 0) + size


def _append(copy: Path, at: float, offset: int, piece: bytes) -> None:
    with open(copy, "ab") as file:
        if file.tell() != offset:
            return
        file.write(piece)
    # The bytes first: should this be the last thing we do, the reader finds them by the size of the copy.
    append_line(copy.parent / PIECES, json.dumps({"at": at, "file": copy.name, "end": offset + len(piece)}))


@dataclass(frozen=True)
class StreamedLine:
    """A line of a log: of a rank, or of torchrun itself (or of the setup command) on the node of that node rank."""

    text: str
    rank: int | None = None
    node_rank: int | None = None
    setup: bool = False
    end: int = field(default=0, compare=False)
    """Byte of its copy at which it ends."""

    @property
    def copy(self) -> str:
        """Name of the copy that it is in."""
        if self.setup and self.node_rank is not None:
            return setup_copy(self.node_rank)
        return f"node-{self.node_rank}.log" if self.rank is None else f"rank-{self.rank}.log"


@dataclass(frozen=True)
class Unfinished:
    """A line whose end has not come. `number` distinguishes it from those before and after it in its log."""

    line: StreamedLine
    number: int


@dataclass
class LogReader:
    """Reads the copies in the order in which their pieces came, from where it stopped the last time.

    Ranks whose pieces came at the same time are merged in proportion to their lines, so that lines which the ranks of a
    gang print in step stand together. `rank` leaves out the other ranks and the setup; `torchrun` adds torchrun's own
    output on each node. `setup` leaves only the setup command's output. `only` are the names of the copies that count,
    where not all do. `starts` are the offsets of their logs at which copies begin.
    """

    folder: Path
    rank: int | None = None
    torchrun: bool = False
    setup: bool = False
    starts: Mapping[str, int] = field(default_factory=dict)
    only: frozenset[str] | None = None
    _pieces_read: int = 0
    _read: dict[str, int] = field(default_factory=dict)
    _partial: dict[str, bytes] = field(default_factory=dict)
    _earlier: dict[str, int] = field(default_factory=dict)
    _ended: dict[str, int] = field(default_factory=dict)
    _given: dict[str, int] = field(default_factory=dict)

    @property
    def position(self) -> dict[str, int]:
        """Byte of each log, by the name of its copy, at which the last line ends that was taken from here; else 0."""
        return {name: self.starts.get(name, 0) + at for name, at in self._given.items()}

    def skip_to(self, position: Mapping[str, int]) -> None:
        """Begin where another reader stopped."""
        self._read = {name: at - self.starts.get(name, 0) for name, at in position.items()}
        self._given = dict(self._read)

    def skip_to_time(self, at: float) -> None:
        """Begin with the line at which each copy had arrived at a time, in seconds since the epoch.

        What was written since then is after it; what was written before and arrived later is, too.
        """
        ends = dict[str, int]()
        for piece in self._pieces():
            if piece["at"] < at:
                ends[piece["file"]] = piece["end"]
        self._pieces_read = 0
        for name, end in ends.items():
            self._read[name] = line_at(self.folder / name, end)
        self._given = dict(self._read)

    def lines(self, final: bool = False) -> Iterator[StreamedLine]:
        """The lines that are new since the last call. A line without its end is kept back, unless `final`."""
        earlier, self._earlier = self._earlier, {}
        yield from self._merged(earlier)
        for group in self._new_pieces():
            yield from self._merged(group)
        if final:
            rest = {path.name: path.stat().st_size for path in self._logs()}
            yield from self._merged(rest)
            for name in rest:
                if partial := self._partial.pop(name, b""):
                    yield self._give(_line(name, partial, self._read[name]))

    def unfinished(self) -> Unfinished | None:
        """Return the unfinished line of rank 0 (or of the one that is read alone): a progress bar, perhaps.

        As far as it came with the last lines; None if nothing did.
        """
        name = f"rank-{self.rank or 0}.log"
        if not (partial := self._partial.get(name)):
            return None
        return Unfinished(_line(name, partial, self._read[name]), self._ended.get(name, 0))

    def last(self, count: int, final: bool = False) -> Iterator[StreamedLine]:
        """The last lines of those that `lines` would give. Only the ends of the copies are read, and those twice."""
        self._skip_to_last(count)
        ahead = replace(self, _read=dict(self._read), _partial={}, _earlier=dict(self._earlier), _given={}, _ended={})
        surplus = sum(1 for _ in ahead.lines(final)) - count
        yield from islice(self.lines(final), max(0, surplus), None)

    def _skip_to_last(self, count: int) -> None:
        logs = list(self._logs())
        self._read = {path.name: last_lines(path, count) for path in logs}
        self._given, self._partial = dict(self._read), {}
        if (pieces := self.folder / PIECES).exists():
            self._pieces_read = begin_of_line(pieces, pieces.stat().st_size - PIECES_LOOKED_AT)
        skipped = self._pieces_read
        told = {name for group in self._new_pieces() for name in group} if skipped else set()
        self._pieces_read = skipped
        self._earlier = {path.name: path.stat().st_size for path in logs if skipped and path.name not in told}

    def _logs(self) -> Iterator[Path]:
        return (path for path in sorted(self.folder.glob("*.log")) if self._wanted(path.name))

    def _new_pieces(self) -> Iterator[dict[str, int]]:
        """Yield what came since the last call, grouped by the time it came: where each copy ended then."""
        at, group = 0.0, dict[str, int]()
        for piece in self._pieces():
            if piece["at"] != at and group:
                yield group
                group = {}
            at = piece["at"]
            group[piece["file"]] = piece["end"]
        if group:
            yield group

    def _pieces(self) -> Iterator[dict[str, Any]]:
        path = self.folder / PIECES
        if not path.exists():
            return
        with open(path, "rb") as file:
            file.seek(self._pieces_read)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._pieces_read += len(line)
                with contextlib.suppress(ValueError, KeyError, TypeError):  # a line that a crash tore
                    piece = json.loads(line)
                    if self._wanted(str(piece["file"])) and piece["end"] >= 0 and piece["at"] is not None:
                        yield piece

    def _wanted(self, name: str) -> bool:
        if self.only is not None and name not in self.only:
            return False
        if self.setup or name.startswith(f"{SETUP}-"):
            return name.startswith(f"{SETUP}-") and self.rank is None
        if name.startswith("node-"):
            return self.torchrun
        return name.endswith(".log") and (self.rank is None or name == f"rank-{self.rank}.log")

    def _merged(self, ends: Mapping[str, int]) -> Iterator[StreamedLine]:
        """The lines of the copies up to these ends, side by side; a slab of all of them at a time."""
        spans = [(name, self._read.get(name, 0), end) for name, end in sorted(ends.items())]
        spans = [span for span in spans if span[1] < span[2]]
        slabs = -(-sum(end - start for _, start, end in spans) // SLAB)
        for slab in range(1, slabs + 1):
            taken = [self._take(name, start + (end - start) * slab // slabs) for name, start, end in spans]
            yield from map(self._give, _merge(taken))

    def _give(self, line: StreamedLine) -> StreamedLine:
        self._given[line.copy] = line.end
        return line

    def _take(self, name: str, end: int) -> list[StreamedLine]:
        start = self._read.get(name, 0)
        begun = self._partial.pop(name, b"")
        data = begun + read_span(self.folder / name, start, end)
        self._read[name] = max(start, end)
        *whole, partial = data.split(b"\n")
        if len(partial) > LONGEST_LINE:
            bar = partial.rstrip(b"\r").rfind(b"\r") + 1
            whole, partial = (whole, partial[bar:]) if bar else ([*whole, partial], b"")
        if partial:
            self._partial[name] = partial
        self._ended[name] = self._ended.get(name, 0) + len(whole)
        ends = accumulate((len(line) + 1 for line in whole), initial=start - len(begun))
        next(ends)
        return [_line(name, line, min(at, self._read[name])) for line, at in zip(whole, ends, strict=True)]


def read_span(path: Path, start: int, end: int) -> bytes:
    """The bytes of a file from one offset to another, as far as they are there."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        file.seek(start)
        return file.read(max(0, end - start))
    return b""


def last_lines(path: Path, count: int) -> int:
    """The offset at which the last lines of a file begin. What is longer than a line can be counts as several."""
    end = path.stat().st_size
    floor = max(0, end - count * LONGEST_LINE)
    if count and read_span(path, end - 1, end) == b"\n":
        end -= 1  # it closes the last line
    while count and end > floor:
        start = max(floor, end - SLAB)
        block = read_span(path, start, end)
        if (found := block.count(b"\n")) >= count:
            at = len(block)
            for _ in range(count):
                at = block.rfind(b"\n", 0, at)
            return start + at + 1
        count, end = count - found, start
    return floor


def line_at(path: Path, offset: int) -> int:
    """Return where the line of the byte before an offset begins, or the offset if that byte ends a line."""
    before = read_span(path, max(0, offset - LONGEST_LINE), offset)
    return offset - len(before) + before.rfind(b"\n") + 1


def begin_of_line(path: Path, offset: int) -> int:
    """Return the offset of the first complete line from an offset on."""
    if offset <= 0:
        return 0
    with open(path, "rb") as file:
        file.seek(offset)
        file.readline()
        return file.tell()


def _line(name: str, data: bytes, end: int) -> StreamedLine:
    kind, _, number = name.removesuffix(".log").partition("-")
    text = data.decode("utf-8", "replace")
    rank, node_rank = (int(number), None) if kind == "rank" else (None, int(number))
    return StreamedLine(text, rank, node_rank, kind == SETUP, end)


def _merge(streams: Sequence[list[StreamedLine]]) -> list[StreamedLine]:
    if len(streams) == 1:
        return streams[0]
    placed = [
        ((index + 0.5) / len(lines), order, line)
        for order, lines in enumerate(streams)
        for index, line in enumerate(lines)
    ]
    return [line for _, _, line in sorted(placed, key=lambda item: item[:2])]
