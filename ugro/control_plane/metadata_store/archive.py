"""`finished.jsonl`: one line for each job that ended, so that lists and forecasts open no folders."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ugro.common.errors import StateError
from ugro.common.files import append_line, write_atomic
from ugro.common.models.job import Summary
from ugro.control_plane.metadata_store.records import read_lines, read_tail, rewritten, state_errors

LINE_BYTES = 1024
"""More than a line has, so that so many lines from the end are found in one read."""


_ID = re.compile(rb'\{"id":"([a-z0-9-]+)"')

BLOCK = 1024 * 1024
"""Bytes of the file that are held at a time."""

Seal = dict[str, Any]
"""The length of the file at some moment, and the CRC-32 of what it said then."""


class Archive:
    """Appended to when a job ends. A job that is there twice (a crash in between) counts once, the later line.

    It only grows, so its seal shows whether anything that was in it then is lost.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / "finished.jsonl"
        self._read: tuple[tuple[int, int], list[Summary]] | None = None
        self._judged: tuple[tuple[int, int], Seal, str] | None = None

    def add(self, summary: Summary) -> None:
        """Note a job that ended."""
        with state_errors(self.path):
            append_line(self.path, summary.model_dump_json())

    def replace(self, summaries: Iterable[Summary]) -> None:
        """Rewrite it."""
        with state_errors(self.path):
            write_atomic(self.path, rewritten(self.path, summaries, Summary))

    def all(self) -> list[Summary]:
        """Every job that ended, in the order of their ends."""
        with state_errors(self.path):
            if not self.path.exists():
                return []
            seen = self._seen()
            if self._read is None or self._read[0] != seen:
                rows = {summary.id: summary for summary in read_lines(self.path, Summary)}
                self._read = (seen, list(rows.values()))
            return self._read[1]

    def recent(self, count: int) -> list[Summary]:
        """Return the last ones, without reading the entire file."""
        with state_errors(self.path):
            rows = read_tail(self.path, Summary, (count + 1) * LINE_BYTES)
        return list({summary.id: summary for summary in rows}.values())[-count:]

    def ids(self) -> set[str]:
        """The ids of all jobs that ended. No line is parsed, so that a list can say how many it leaves out."""
        with state_errors(self.path):
            if not self.path.exists():
                return set()
            with self.path.open("rb") as file:
                return {found[1].decode() for line in file if (found := _ID.match(line))}

    def seal(self) -> Seal:
        """Return the seal of the file as it is now."""
        with state_errors(self.path):
            size = self.path.stat().st_size if self.path.exists() else 0
            return {"bytes": size, "crc32": _crc(self.path, size)}

    def damage(self, seal: Seal) -> list[StateError]:
        """Return the damage of the file, if its sealed part has changed."""
        with state_errors(self.path):
            seen = self._seen() if self.path.exists() else (0, 0)
            if self._judged is None or self._judged[:2] != (seen, seal):
                self._judged = (seen, seal, _damage(self.path, seal))
        if not (found := self._judged[2]):
            return []
        hint = "rebuild it from the jobs' folders: ugro state rebuild"
        return [StateError(f"{self.path} {found}, so jobs that ended may be missing in lists", hint)]

    def _seen(self) -> tuple[int, int]:
        found = self.path.stat()
        return found.st_mtime_ns, found.st_size


def _damage(path: Path, seal: Seal) -> str:
    size = path.stat().st_size if path.exists() else 0
    if size >= seal["bytes"] and _crc(path, seal["bytes"]) == seal["crc32"]:
        return ""
    if not path.exists():
        return "is gone"
    return f"is damaged: {size} of {seal['bytes']} bytes are left" if size < seal["bytes"] else "was changed"


def _crc(path: Path, count: int) -> int:
    """The CRC-32 of the first bytes of a file."""
    found = 0
    if count:
        with path.open("rb") as file:
            while count and (block := file.read(min(count, BLOCK))):
                found, count = zlib.crc32(block, found), count - len(block)
    return found
