"""`history/<node>/looks.jsonl`: what every GPU of a node showed, idle or not, one line for each GPU and look."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ugro.common.fields import NAME
from ugro.common.files import append_line
from ugro.common.models.metrics import EVERY_SECONDS, GpuLook
from ugro.control_plane.metadata_store.records import read_lines, read_tail, state_errors

TAIL = 4096
"""Bytes in which the last look is surely found. Its time is this machine's; that of the file may be a file server's."""

LIMIT = 4 * 2**20
"""Bytes of a node's looks before they are put aside and those put aside earlier go: at least two days of eight GPUs."""


class GpuHistory:
    """A folder for each node, so that no name of a node can meet that of another's file.

    Raises (from any method):
        StateError: a file or folder cannot be read or written, with its name.
    """

    def __init__(self, home: Path) -> None:
        self._folder = home / "history"

    def due(self, node: str, now: float) -> bool:
        """Whether the last look at the node that was kept is old enough for another one."""
        with state_errors(path := self._looks(node)):
            last = read_tail(path, GpuLook, TAIL)
        return not last or not 0 <= now - last[-1].at < EVERY_SECONDS

    def add(self, node: str, looks: Iterable[GpuLook]) -> None:
        """Keep what the GPUs of a node showed."""
        lines = [look.model_dump_json(exclude_none=True) for look in looks]
        if not lines:
            return
        with state_errors(path := self._looks(node)):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.exists() and path.stat().st_size > LIMIT:
                os.replace(path, self._older(node))
            append_line(path, "\n".join(lines))

    def nodes(self) -> list[str]:
        """The nodes that have a history, also those that left the inventory."""
        with state_errors(self._folder):
            names = os.listdir(self._folder) if self._folder.exists() else []
        return sorted(name for name in names if NAME.fullmatch(name))

    def read(self, node: str, since: float) -> list[GpuLook]:
        """The samples of a node's GPUs since that moment, in their order; an incomplete line is passed over."""
        paths = [self._older(node), self._looks(node)]
        with state_errors(paths[-1]):
            return [look for path in paths for look in read_lines(path, GpuLook) if look.at >= since]

    def _looks(self, node: str) -> Path:
        return self._folder / node / "looks.jsonl"

    def _older(self, node: str) -> Path:
        return self._folder / node / "looks.1.jsonl"
