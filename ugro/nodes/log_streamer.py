"""Brings the logs of a run to the master, byte by byte in order, and reads them back as one stream of lines.

A log's copy on the master is always a prefix of the log on the node, so its size is the offset to go on from: after a
dropped connection, a killed follower or a restarted master nothing is lost and nothing is repeated. `pieces.jsonl`
beside the copies notes when each piece came, which is what interleaves the ranks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from filelock import AsyncFileLock

from ugro.common.files import append_line
from ugro.common.paths import RunPaths
from ugro.nodes.scripts import load
from ugro.nodes.transport import Transport

CHUNK = 1024 * 1024
"""Most bytes of one file that are brought in one round trip."""

READ_TIMEOUT = 60.0
PIECES = "pieces.jsonl"
_HEADER = re.compile(rb"(log|rank-\d+\.log|rank-\d+\.error) (\d+) (\d+)\n")


async def fetch(transport: Transport, paths: RunPaths, folder: Path, at: float) -> int:
    """Append what is new in a run's logs to their copies in `folder`; returns how many bytes came.

    What somebody else brought meanwhile is dropped: a piece counts only where the copy ends.

    One round trip brings at most `CHUNK` bytes of each file: call again until nothing comes. Pieces that came `at` the
    same time (seconds since the epoch) are read back side by side.

    Raises:
        NodeError: the node cannot be read now; the copies stay as they are.
    """
    asked = dict(_sizes(folder, paths.node_rank))
    words = [word for name, size in asked.items() for word in (name, str(size))]
    outcome = await transport.run(load("read.sh"), (paths.run_dir, str(CHUNK), *words), timeout=READ_TIMEOUT)
    pieces = [piece for piece in parse_pieces(outcome.stdout) if piece[1] == asked.get(piece[0], 0)]
    if pieces:  # where nothing came nothing is made: to look at a job without logs must leave no trace
        folder.mkdir(parents=True, exist_ok=True)
        async with AsyncFileLock(folder / f".node-{paths.node_rank}.lock"):
            for piece in pieces:
                _append(folder, paths.node_rank, at, *piece)
    return sum(len(data) for _, _, data in pieces)


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


def _copy_name(name: str, node_rank: int) -> str:
    """torchrun's own log is called `log` on every node, so its copy carries the node rank."""
    return f"node-{node_rank}.log" if name == "log" else name


def _sizes(folder: Path, node_rank: int) -> Iterator[tuple[str, int]]:
    """The name on the node and the size of each copy that is there."""
    for path in folder.glob("rank-*"):
        yield path.name, path.stat().st_size
    own = folder / _copy_name("log", node_rank)
    if own.exists():
        yield "log", own.stat().st_size


def _append(folder: Path, node_rank: int, at: float, name: str, offset: int, piece: bytes) -> None:
    copy = _copy_name(name, node_rank)
    with open(folder / copy, "ab") as file:
        if file.tell() != offset:
            return
        file.write(piece)
    # The bytes first: should this be the last thing we do, the reader finds them by the size of the copy.
    append_line(folder / PIECES, json.dumps({"at": at, "file": copy, "end": offset + len(piece)}))


@dataclass(frozen=True)
class Line:
    """A line of a log: of a rank, or of torchrun itself on the node of that node rank."""

    text: str
    rank: int | None = None
    node_rank: int | None = None


@dataclass
class LogReader:
    """Reads the copies in the order in which their pieces came, from where it stopped the last time.

    Ranks that came in one look are merged by their share of lines: what ranks of a gang say in step stands together.
    `rank` leaves out the other ranks; `torchrun` adds what torchrun itself says on each node.
    """

    folder: Path
    rank: int | None = None
    torchrun: bool = False
    _pieces_read: int = 0
    _read: dict[str, int] = field(default_factory=dict)
    _partial: dict[str, bytes] = field(default_factory=dict)

    def lines(self, final: bool = False) -> list[Line]:
        """The lines that are new since the last call. A line without its end is kept back, unless `final`."""
        found: list[Line] = []
        for group in self._new_pieces():
            found += _merge([self._take(file, end) for file, end in group])
        rest = sorted(path.name for path in self.folder.glob("*.log") if self._wanted(path.name)) if final else []
        found += _merge([self._take(name, (self.folder / name).stat().st_size) for name in rest])
        for name in rest:
            if partial := self._partial.pop(name, b""):
                found.append(_line(name, partial))
        return found

    def _new_pieces(self) -> Iterator[list[tuple[str, int]]]:
        """What came since the last call, grouped by look."""
        path = self.folder / PIECES
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        new, self._pieces_read = lines[self._pieces_read :], len(lines)
        groups: dict[float, dict[str, int]] = {}
        for line in new:
            piece = json.loads(line or b"{}")
            if self._wanted(piece.get("file", "")):
                groups.setdefault(piece["at"], {})[piece["file"]] = piece["end"]
        for ends in groups.values():
            yield sorted(ends.items())

    def _wanted(self, name: str) -> bool:
        if name.startswith("node-"):
            return self.torchrun
        return name.endswith(".log") and (self.rank is None or name == f"rank-{self.rank}.log")

    def _take(self, name: str, end: int) -> list[Line]:
        start = self._read.get(name, 0)
        if end <= start:
            return []
        with open(self.folder / name, "rb") as file:
            file.seek(start)
            data = self._partial.pop(name, b"") + file.read(end - start)
        self._read[name] = end
        *whole, partial = data.split(b"\n")
        if partial:
            self._partial[name] = partial
        return [_line(name, line) for line in whole]


def _line(name: str, data: bytes) -> Line:
    kind, _, number = name.removesuffix(".log").partition("-")
    text = data.decode("utf-8", "replace")
    return Line(text, rank=int(number)) if kind == "rank" else Line(text, node_rank=int(number))


def _merge(streams: Sequence[Iterable[Line]]) -> list[Line]:
    placed = [
        ((index + 0.5) / len(lines), order, line)
        for order, stream in enumerate(streams)
        for lines in [list(stream)]
        for index, line in enumerate(lines)
    ]
    return [line for _, _, line in sorted(placed, key=lambda item: item[:2])]
