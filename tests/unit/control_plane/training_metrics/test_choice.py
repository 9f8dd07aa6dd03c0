"""Tests of which source of a series counts, and which rank's."""

from __future__ import annotations

from ugro.common.models.metrics import Reading, RunProgress, SeriesSource
from ugro.control_plane.training_metrics.choice import choose
from ugro.control_plane.training_metrics.job_reader import JobReader
from ugro.control_plane.training_metrics.line_reader import MOST_SERIES
from ugro.control_plane.training_metrics.pace import seconds_left

LOG, FILE = SeriesSource.LOG, SeriesSource.EVENT_FILE


def _values(source: SeriesSource, steps: range, value: float, at: float = 0.0, name: str = "loss") -> list[Reading]:
    return [Reading(name, value, step, at + step, source) for step in steps]


def test_shows_log_lines_until_the_file_catches_up() -> None:
    logged, filed = _values(LOG, range(10), 2.3), _values(FILE, range(2, 6), 2.3125)
    assert choose([*logged, *filed]) == [*logged[:2], *filed, *logged[6:]]
    assert choose([*logged, *_values(FILE, range(10), 2.3125)]) == _values(FILE, range(10), 2.3125)


def test_keeps_series_apart_and_in_order() -> None:
    other = _values(LOG, range(3), 1.0, name="lr")
    assert choose([*_values(LOG, range(2), 2.0), *other]) == [*_values(LOG, range(2), 2.0), *other]
    assert choose([]) == []


def test_compares_values_without_a_step_by_time() -> None:
    unknown = [Reading("loss", 2.0, None, at, LOG) for at in (1.0, 3.5, 9.0)]
    filed = _values(FILE, range(2, 5), 2.5)
    assert choose([*unknown, *filed]) == [unknown[0], *filed, unknown[2]]


def test_the_rank_that_prints_a_series_first_stays_its_source() -> None:
    reader = JobReader()
    line = "[rank{0}]: step {1} loss={0}\n"
    found = [one for step in (1, 2) for rank in (3, 0, 1) for one in reader.feed(rank, line.format(rank, step), 0.0)]
    assert [(one.step, one.value) for one in found] == [(1, 3.0), (2, 3.0)]
    assert [one.name for one in reader.feed(0, "step 3 loss=1 acc=2\n", 0.0)] == ["acc"]
    assert reader.progress == RunProgress(0.0, step=3)


def test_counts_series_that_a_job_has_too_many_of() -> None:
    reader = JobReader()
    for rank in range(2):
        names = [f"loss_{rank}_{number}" for number in range(MOST_SERIES - 50)]
        reader.feed(rank, "".join(f"step 1 {name}=1\n" for name in names), 0.0)
    assert reader.dropped == MOST_SERIES - 100


def test_estimates_the_end_from_the_steps() -> None:
    progress = RunProgress(at=100.0, step=50, steps=150, rate=2.0)
    assert seconds_left(progress, now=100.0) == 50.0
    assert seconds_left(progress, now=120.0) == 30.0
    assert seconds_left(progress, now=500.0) == 0.0
    assert seconds_left(RunProgress(at=100.0, step=50, steps=150), now=100.0) is None
    assert seconds_left(RunProgress(at=100.0, step=50, rate=2.0), now=100.0) is None
