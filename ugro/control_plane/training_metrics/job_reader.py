"""Read the logs of all ranks of a job's attempt as one stream of values. No I/O."""

from __future__ import annotations

from ugro.common.models.metrics import Reading, RunProgress
from ugro.control_plane.training_metrics.line_reader import MOST_SERIES, LineReader
from ugro.control_plane.training_metrics.pattern import Pattern


class JobReader:
    """Reads the ranks' logs. All ranks may print the same lines: the rank that prints a series first is its source."""

    def __init__(self, pattern: str | None = None) -> None:
        """Read with a job's own pattern, if it has one.

        Raises:
            ValueError: as `metric_pattern.compiled` does.
        """
        self._pattern = Pattern(pattern) if pattern else None
        self._readers: dict[int, LineReader] = {}
        self._rank_of: dict[str, int] = {}
        self._dropped: set[str] = set()

    def feed(self, rank: int, text: str, at: float) -> list[Reading]:
        """Return the new values in the next piece of a rank's log, which arrived at `at`."""
        reader = self._readers.setdefault(rank, LineReader(self._pattern))
        found, rank_of = reader.feed(text, at), self._rank_of
        return [one for one in found if rank_of.get(one.name) == rank or self._is_source(rank, one.name)]

    def warm(self, rank: int, text: str, at: float) -> None:
        """Read lines again that were read before, for what later ones need; only the last of them came at `at`."""
        self.feed(rank, text, at)
        self._readers[rank].begin_pace(at)

    @property
    def progress(self) -> RunProgress | None:
        """Return how far the run is: the furthest that a rank says; None: none says so."""
        said = [progress for reader in self._readers.values() if (progress := reader.progress)]
        return max(said, key=lambda one: (one.step is not None, one.steps is not None, one.step or 0), default=None)

    @property
    def dropped(self) -> int:
        """Return how many series were left out, because a job keeps at most `MOST_SERIES`."""
        return len(self._dropped.union(*(reader.dropped for reader in self._readers.values())))

    @property
    def pattern_switched_off(self) -> bool:
        """Return whether the job's own pattern was too slow for its lines, and is no longer used."""
        return self._pattern is not None and self._pattern.switched_off

    def _is_source(self, rank: int, name: str) -> bool:
        if name not in self._rank_of:
            if len(self._rank_of) >= MOST_SERIES:
                if len(self._dropped) < MOST_SERIES:
                    self._dropped.add(name)
                return False
            self._rank_of[name] = rank
        return self._rank_of[name] == rank
