"""`finished.jsonl`: one line for each job that ended, so that lists and forecasts open no folders."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ugro.common.errors import StateError
from ugro.common.files import append_line, write_atomic
from ugro.common.models import Summary
from ugro.control_plane.metadata_store.records import read_lines, read_tail, state_errors

LINE_BYTES = 1024
"""More than a line has, so that so many lines from the end are found in one read."""


Seal = dict[str, Any]
"""The length of the file at some moment, and the CRC-32 of what it said then."""


class Archive:
    """Appended to when a job ends. A job that is there twice (a crash in between) counts once, the later line.

    It only grows, so whoever kept its seal sees whether anything that was in it then is lost.
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
        """Write it anew."""
        with state_errors(self.path):
            write_atomic(self.path, "".join(f"{summary.model_dump_json()}\n" for summary in summaries))

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
        """The last ones, without reading the whole file."""
        with state_errors(self.path):
            rows = read_tail(self.path, Summary, (count + 1) * LINE_BYTES)
        return list({summary.id: summary for summary in rows}.values())[-count:]

    def seal(self) -> Seal:
        """What the file is now."""
        with state_errors(self.path):
            content = self.path.read_bytes() if self.path.exists() else b""
        return {"bytes": len(content), "crc32": zlib.crc32(content)}

    def damage(self, seal: Seal) -> list[StateError]:
        """What is wrong with the file if it does not say any more what it said when it was sealed."""
        with state_errors(self.path):
            seen = self._seen() if self.path.exists() else (0, 0)
            if self._judged is None or self._judged[:2] != (seen, seal):
                content = self.path.read_bytes() if self.path.exists() else None
                self._judged = (seen, seal, _damage(content, seal))
        if not (found := self._judged[2]):
            return []
        hint = "make it anew from the jobs' folders: ugro state rebuild"
        return [StateError(f"{self.path} {found}, so jobs that ended may be missing in lists", hint)]

    def _seen(self) -> tuple[int, int]:
        found = self.path.stat()
        return found.st_mtime_ns, found.st_size


def _damage(content: bytes | None, seal: Seal) -> str:
    kept = (content or b"")[: seal["bytes"]]
    if zlib.crc32(kept) == seal["crc32"] and len(kept) == seal["bytes"]:
        return ""
    if content is None:
        return "is gone"
    return f"is torn: {len(content)} of {seal['bytes']} bytes are left" if len(kept) < seal["bytes"] else "was changed"
