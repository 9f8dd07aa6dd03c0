"""Brings the logs of one attempt of a job here: all that there is, round by round, or only the ends of long ones.

The copies on the master are prefixes. Where they lag far behind, a reader of a log's end does not wait for all
that lies between: it is brought as a window, into a folder of its own for lines that are shown, into `ends/` beside the
copies for a diagnosis.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from ugro.common.clock import SYSTEM_CLOCK, Clock
from ugro.common.each_node import each_node
from ugro.common.errors import NodeError
from ugro.common.models.job import Job
from ugro.common.models.run import LogEnd, LogFetch
from ugro.control_plane.metadata_store.log_ends import TAIL_BYTES, keep_end
from ugro.control_plane.metadata_store.log_index import extend_indexes
from ugro.control_plane.metadata_store.records import state_errors
from ugro.engines.base import Engine
from ugro.nodes.remote.logs import log_streamer
from ugro.nodes.remote.logs.log_streamer import FIRST, GROWTH, LONGEST_LINE, TOTAL, LogReader

CLOSE = FIRST
"""Bytes by which the copies of a node's logs may lag behind and are brought up to date before their ends are read: a
quarter of a second over 2 Mbit/s. Beyond that the ends come first."""

MOST_LINES = 10**9
"""More lines than any log has, and few enough for a shell to count with."""


class JobLogs:
    """The logs of one attempt, on its nodes and in a folder here.

    `starts` says at which offset each copy in the folder begins, where it is a window of its log and no prefix.
    `silent` are the nodes that were unreachable when they were asked last, and why.

    Raises (from any method):
        StateError: the folder cannot be written.
    """

    def __init__(
        self,
        engine: Engine,
        job: Job,
        nodes: Sequence[str],
        folder: Path,
        starts: Mapping[str, int] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`nodes` are those of the job of which it is known where they are."""
        self._clock = clock
        self.folder = folder
        self.nodes = nodes
        self.silent: dict[str, NodeError] = {}
        self._engine = engine
        self._job = job
        self._starts = starts or {}

    def reader(
        self, rank: int | None = None, torchrun: bool = False, setup: bool = False, only: frozenset[str] | None = None
    ) -> LogReader:
        """Return the reader of the copies: of one rank alone, with torchrun's own log, of the setup command alone, or
        `only` the copies of these names.
        """
        return LogReader(self.folder, rank, torchrun, setup, self._starts, only)

    def start_of(self, copy: Path) -> int:
        """The offset of its log at which a copy in the folder begins."""
        return self._starts.get(copy.name, 0)

    def window_from(self, position: Mapping[str, int], folder: Path) -> JobLogs | None:
        """Return the logs after a position, in another folder; None: the copies reach as far as that."""
        behind = any(_size(self.folder / name) < offset for name, offset in position.items())
        return JobLogs(self._engine, self._job, self.nodes, folder, position, self._clock) if behind else None

    def again(self) -> JobLogs:
        """Return the same logs, to be brought once more: unreachable nodes are asked again."""
        return JobLogs(self._engine, self._job, self.nodes, self.folder, self._starts, self._clock)

    async def round(self, within: float | None = None, total: int = TOTAL) -> LogFetch:
        """Bring what is new, at most `total` bytes. Nodes that were unreachable before are not asked again."""
        at = self._clock.now()
        names = [node for node in self.nodes if node not in self.silent]
        each = total // max(1, len(names))

        async def one(node: str) -> LogFetch:
            return await self._fetch(node, at, each)

        said = await each_node(names, one, within)
        self.silent |= {name: answer for name, answer in said.items() if isinstance(answer, NodeError)}
        brought = [answer for answer in said.values() if isinstance(answer, LogFetch) and answer.bytes + answer.left]
        if brought and not self._starts:
            await asyncio.to_thread(extend_indexes, self.folder)
        return LogFetch(sum(one.bytes for one in brought), sum(one.left for one in brought))

    async def rounds(self, within: float | None = None) -> AsyncIterator[LogFetch]:
        """Bring what there is now, round after round; a log that grows on ends them, too. `within` bounds each."""
        total = FIRST  # the first rounds are small: the user may be waiting for them over a slow link
        brought = await self.round(within, total)
        left = brought.left
        yield brought
        while left > 0 and brought.bytes:
            total = min(GROWTH * total, TOTAL)
            brought = await self.round(within, total)
            left -= brought.bytes
            yield brought

    async def bring_all(self, within: float | None = None) -> dict[str, NodeError]:
        """Bring what there is now; returns the nodes that could not be read, and why."""
        at = self._clock.now()

        async def one(node: str) -> None:
            await self._fetch_all(node, at, TOTAL // len(self.nodes))

        said = await each_node(self.nodes, one, within)
        if not self._starts:
            await asyncio.to_thread(extend_indexes, self.folder)
        return {name: answer for name, answer in said.items() if isinstance(answer, NodeError)}

    async def bring_ends(self, within: float | None = None) -> dict[str, NodeError]:
        """See to it that the ends of the logs are here, for `evidence`; of long ones that is all that is brought.

        Returns the nodes that could not be read, and why.
        """

        async def one(node: str) -> None:
            at = self._clock.now()
            brought = await self._fetch(node, at, CLOSE)
            if 0 < brought.left <= CLOSE:
                await self._fetch_all(node, at, TOTAL)
            elif brought.left:
                with state_errors(self.folder):
                    await self._bring_ends(node)

        said = await each_node(self.nodes, one, within)
        return {name: answer for name, answer in said.items() if isinstance(answer, NodeError)}

    async def _fetch(self, node: str, at: float, most: int) -> LogFetch:
        with state_errors(self.folder):
            return await self._engine.fetch_logs(self._job, node, self.folder, at=at, starts=self._starts, most=most)

    async def _fetch_all(self, node: str, at: float, total: int) -> None:
        """Bring all that is there now, in as many round trips as it takes; a log that grows on ends them, too."""
        most = min(FIRST, total)
        brought = await self._fetch(node, at, most)
        left = brought.left
        while left > 0 and brought.bytes:
            most = min(GROWTH * most, total)
            brought = await self._fetch(node, at, most)
            left -= brought.bytes

    async def _bring_ends(self, node: str) -> None:
        found = await self._engine.log_ends(self._job, node, 0, TAIL_BYTES)
        wanted = 2 * TAIL_BYTES * max(1, len(found))  # a rank has an error file beside its log
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".ends-", dir=self.folder) as name:
            starts = {copy: end.start for copy, end in found.items()}
            fresh, at = Path(name), self._clock.now()
            await self._engine.fetch_logs(self._job, node, fresh, at=at, starts=starts, most=wanted)
            for copy, start in starts.items():
                if (fresh / copy).exists():
                    keep_end(self.folder, fresh / copy, start)

    async def window(self, lines: int, folder: Path, within: float | None = None) -> JobLogs | None:
        """The last lines of each log and what comes after them, in another folder; what there is now is brought there.

        None: the copies are not far behind, and were brought up to date.
        """
        brought = await self.round(within, CLOSE)
        if brought.left <= CLOSE:
            if brought.left:
                await self.round(within)
            return None
        lines = min(lines, MOST_LINES)

        async def one(node: str) -> Mapping[str, LogEnd]:
            return await self._engine.log_ends(self._job, node, lines, lines * LONGEST_LINE)

        said = await each_node([node for node in self.nodes if node not in self.silent], one, within)
        answers = [answer for answer in said.values() if not isinstance(answer, NodeError)]
        starts = {copy: end.start for answer in answers for copy, end in answer.items()}
        for copy in self.folder.glob("*.log"):
            if copy.name not in starts:  # of a node that does not answer
                starts[copy.name] = _copy_end(copy, log_streamer.last_lines(copy, lines), folder)
        found = JobLogs(self._engine, self._job, self.nodes, folder, starts, self._clock)
        found.silent = self.silent | {name: answer for name, answer in said.items() if isinstance(answer, NodeError)}
        async for _ in found.rounds(within):
            pass
        return found


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _copy_end(copy: Path, start: int, folder: Path) -> int:
    """Copy a file from an offset on; returns the offset."""
    with open(copy, "rb") as source, open(folder / copy.name, "wb") as target:
        source.seek(start)
        while block := source.read(log_streamer.SLAB):
            target.write(block)
    return start
