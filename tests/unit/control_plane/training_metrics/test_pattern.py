"""Tests of a job's own pattern, and of what keeps it harmless."""

from __future__ import annotations

import pytest

from ugro.common.metric_pattern import compiled, try_out
from ugro.control_plane.training_metrics import pattern as module
from ugro.control_plane.training_metrics.job_reader import JobReader
from ugro.control_plane.training_metrics.pattern import Pattern, try_pattern

GOOD = r"at (?P<step>\d+).*?: (?P<loss>\S+)"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (r"(?P<loss", "no regular expression"),
        (r"loss (\d+)", "a named group"),
        (r"(?P<step>\d+)", "a named group"),
        (r"(?P<loss>(a+)+)$", "exponentially"),
        (r"(?P<loss>(?:a|aa)+)$", "exponentially"),
        (r"(?P<loss>(?:\d+,?)*)x", "exponentially"),
        (r"(?P<loss>\d+)(?P=loss)", "exponentially"),
        ("(?P<loss>x)" + "y" * 1000, "1000 characters"),
    ],
)
def test_refuses_a_pattern(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        compiled(text)


@pytest.mark.parametrize(
    "text",
    [
        GOOD, r"(?P<step>\d+).*(?P<loss>\S+)",
        r"step (?P<step>\d+).*?loss[=:]\s*(?P<loss>[\d.]+).*?lr[=:]\s*(?P<lr>\S+)",
        r"(?:loss|LOSS) (?P<loss>-?\d+(?:\.\d+)?)", r"\[(?P<epoch>\d+)\] (?P<loss>nan|[\d.e+-]{1,20})",
    ],
)  # fmt: skip
def test_accepts_a_usual_pattern(text: str) -> None:
    try_out(text)


def test_refuses_a_pattern_that_is_slow_on_hard_lines() -> None:
    with pytest.raises(ValueError, match="too slow"):
        try_out(r"(?P<loss>.*1.*1.*1.*1.*1.*x)")


def test_reads_values_by_the_names_of_groups() -> None:
    found = try_pattern(GOOD, ["hello", "at 12 of 30: 2.5", "at 13: 1,024ms\r\n", "at 14: nan", "at 15: so-so"])
    seen = [(number, [(one.name, one.value, one.unit, one.step) for one in readings]) for number, readings in found]
    assert seen[:2] == [(2, [("loss", 2.5, "", 12)]), (3, [("loss", 1024.0, "ms", 13)])]
    assert seen[2][0] == 4 and seen[2][1][0][1] != seen[2][1][0][1]
    assert seen[3] == (5, [])


def test_reads_other_lines_by_the_usual_formats() -> None:
    reader = JobReader(GOOD)
    found = reader.feed(0, "at 12: 2.5\nstep 13 loss=1.5\n", 0.0)
    assert [(one.name, one.value, one.step) for one in found] == [("loss", 2.5, 12), ("loss", 1.5, 13)]
    assert not reader.pattern_switched_off


def test_switches_a_slow_pattern_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINE_SECONDS", -1.0)
    reader = JobReader(GOOD)
    for step in range(module.SLOW_LINES + 1):
        reader.feed(0, f"at {step}: 2.5\n", 0.0)
    assert reader.pattern_switched_off
    assert Pattern(GOOD).read("nothing") is None
