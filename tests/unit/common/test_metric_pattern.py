"""Tests of the key `metrics` of a job file."""

from __future__ import annotations

from pathlib import Path

import pytest

from ugro.common.errors import JobSpecError
from ugro.common.job_spec import MetricsRules, load_job_spec

GOOD = r"at (?P<step>\d+): (?P<loss>[^ ]+)"


def _written(folder: Path, lines: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(f"script: train.py\n{lines}\n")
    return path


@pytest.mark.parametrize("lines", [f"metrics: '{GOOD}'", f"metrics:\n  pattern: '{GOOD}'"])
def test_reads_the_pattern(tmp_path: Path, lines: str) -> None:
    assert load_job_spec(_written(tmp_path, lines)).metrics == MetricsRules(pattern=GOOD)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(?P<loss", "no regular expression"),
        ("loss (.*)", "a named group"),
        ("(?P<loss>(a+)+)", "exponentially"),
        ("(?P<loss>.*1.*1.*1.*1.*1.*x)", "too slow"),
    ],
)
def test_tells_what_is_wrong_with_a_pattern_and_where(tmp_path: Path, pattern: str, words: str) -> None:
    path = _written(tmp_path, f"metrics:\n  pattern: '{pattern}'")
    with pytest.raises(JobSpecError, match=words) as caught:
        load_job_spec(path)
    assert str(caught.value).startswith(f"{path}:3: metrics.pattern: ")
