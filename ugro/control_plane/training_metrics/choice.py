"""Which of several sources of a series counts. Pure.

A log line shows a value now. The event file or CSV of the same series is more exact and may be minutes behind, since
some writers keep values in a buffer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from ugro.common.models.metrics import Reading, SeriesSource


def choose(readings: Iterable[Reading]) -> list[Reading]:
    """Return the values that count: of each series those of the most exact source, and less exact ones around them.

    A less exact source fills the steps before the first and after the last one that a more exact source has. Values of
    a source keep their order; those without a step are compared by time.
    """
    by_name: dict[str, dict[SeriesSource, list[Reading]]] = defaultdict(lambda: defaultdict(list))
    for reading in readings:
        by_name[reading.name][reading.source].append(reading)
    return [reading for sources in by_name.values() for reading in _merged(sources)]


def _merged(sources: dict[SeriesSource, list[Reading]]) -> list[Reading]:
    best, *others = sorted(sources, key=lambda source: source.exactness)
    kept = sources[best]
    for other in others:
        by_step = all(reading.step is not None for reading in (*kept, *sources[other]))
        places = [_place(reading, by_step) for reading in kept]
        first, last = min(places), max(places)
        before = [reading for reading in sources[other] if _place(reading, by_step) < first]
        after = [reading for reading in sources[other] if _place(reading, by_step) > last]
        kept = [*before, *kept, *after]
    return kept


def _place(reading: Reading, by_step: bool) -> float:
    return reading.step if by_step and reading.step is not None else reading.at
