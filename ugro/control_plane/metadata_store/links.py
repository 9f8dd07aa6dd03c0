"""`links.jsonl`: how fast the way from each node to each other was when it was last measured, one line a way.

A file of its own, since `cluster.json` is written at every tick and this has a line for every pair of nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ugro.common.files import write_atomic
from ugro.common.models.metrics import MeasuredLink
from ugro.control_plane.metadata_store.records import read_lines, rewritten, state_errors


class Links:
    """The last measurement of each way by each backend. A line that is broken is a way not measured.

    Raises (from any method):
        StateError: the file cannot be read or written.
    """

    def __init__(self, home: Path) -> None:
        self._path = home / "links.jsonl"

    def all(self) -> list[MeasuredLink]:
        """Every way that was measured."""
        with state_errors(self._path):
            return list(read_lines(self._path, MeasuredLink))

    def remember(self, links: Iterable[MeasuredLink]) -> None:
        """Keep what was measured now, instead of what the same ways were before."""
        known = {(link.source, link.target, link.backend): link for link in [*self.all(), *links]}
        with state_errors(self._path):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomic(self._path, rewritten(self._path, known.values(), MeasuredLink))

    def rename(self, old: str, new: str) -> list[str]:
        """Give a node another name in every measurement. Return `links` if there was one."""
        names = {old: new}
        known = self.all()
        if not any(old in (link.source, link.target) for link in known):
            return []
        changed = [
            link.model_copy(
                update={
                    "source": names.get(link.source, link.source),
                    "target": names.get(link.target, link.target),
                }
            )
            for link in known
        ]
        with state_errors(self._path):
            write_atomic(self._path, rewritten(self._path, changed, MeasuredLink))
        return ["links"]
