"""Tests of which rank's series counts, and when a run ends."""

from __future__ import annotations

from ugro.common.models.metrics import RunProgress
from ugro.control_plane.training_metrics.job_reader import JobReader
from ugro.control_plane.training_metrics.line_reader import MOST_SERIES
from ugro.control_plane.training_metrics.pace import seconds_left


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
