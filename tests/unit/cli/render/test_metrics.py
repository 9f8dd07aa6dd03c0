"""Tests of the table of a job's series, and of the line above it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ugro.cli.render.metrics import head, series_grid
from ugro.common.models.metrics import Axis, RunProgress, SeriesSource
from ugro.service.documents import progress_document
from ugro.service.schemas.metrics import MetricsDocument, SeriesDocument


def series(*values: float | None, bad: tuple[tuple[float, str], ...] = (), **changed: Any) -> SeriesDocument:
    numbers = [value for value in values if value is not None]
    made = SeriesDocument(
        name="loss", unit="", source=SeriesSource.LOG, points=tuple((float(x), y) for x, y in enumerate(values)),
        bad=bad, overwritten=(), segments=(), thinned=False, count=len(values), last=numbers[-1] if numbers else None,
        min=min(numbers, default=None), max=max(numbers, default=None),
    )  # fmt: skip
    return replace(made, **changed)


@pytest.mark.parametrize(
    ("one", "last"),
    [
        (series(3.0, 2.0), "2"),
        (series(3.0, 2.0, None, bad=((2.0, "-inf"),)), "-inf"),
        (series(3.0, None, 2.0, None, bad=((1.0, "inf"), (3.0, "nan"))), "nan"),
        (series(3.0, None, 2.0, bad=((1.0, "inf"),)), "2"),
        (series(), "-"),
    ],
)
def test_the_last_value_is_the_last_one_also_where_it_is_no_number(
    one: SeriesDocument, last: str, capsys: pytest.CaptureFixture[str]
) -> None:
    series_grid([one]).print()
    table = capsys.readouterr().out.splitlines()
    assert table[-1].split()[:2] == ["loss", last]


def test_the_pace_of_the_head_is_a_mean() -> None:
    progress = progress_document(RunProgress(at=0.0, step=5, steps=10, rate=15.3))
    answer = MetricsDocument(
        id="job-001", x=Axis.STEP, series=(), progress=progress, dropped=(), reading=False, hint=""
    )
    assert "mean 15.3 steps/s" in str(head(answer))
