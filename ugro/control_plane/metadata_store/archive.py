"""`finished.jsonl`: one line for each job that ended, so that lists and forecasts open no folders."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ugro.common.files import append_line, write_atomic
from ugro.common.models import Summary
from ugro.control_plane.metadata_store.records import read_lines, read_tail, state_errors

LINE_BYTES = 1024
"""More than a line has, so that so many lines from the end are found in one read."""


class Archive:
    """Appended to when a job ends. A job that is there twice (a crash in between) counts once, the later line."""

    def __init__(self, home: Path) -> None:
        self.path = home / "finished.jsonl"
        self._read: tuple[tuple[int, int], list[Summary]] | None = None

    def add(self, summary: Summary) -> None:
        """Note a job that ended."""
        with state_errors(self.path):
            append_line(self.path, summary.model_dump_json())

    def replace(self, summaries: Iterable[Summary]) -> None:
        """Write it anew."""
        with state_errors(self.path):
            write_atomic(self.path, "".join(f"{summary.model_dump_json()}\n" for summary in summaries))

    def all(self) -> list[Summary]:
        """Every job that ended, in the order of their ends."""
        with state_errors(self.path):
            if not self.path.exists():
                return []
            found = self.path.stat()
            seen = (found.st_mtime_ns, found.st_size)
            if self._read is None or self._read[0] != seen:
                rows = {summary.id: summary for summary in read_lines(self.path, Summary)}
                self._read = (seen, list(rows.values()))
            return self._read[1]

    def recent(self, count: int) -> list[Summary]:
        """The last ones, without reading the whole file."""
        with state_errors(self.path):
            rows = read_tail(self.path, Summary, (count + 1) * LINE_BYTES)
        return list({summary.id: summary for summary in rows}.values())[-count:]
