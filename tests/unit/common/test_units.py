"""Durations, sizes and moments as people type them."""

from __future__ import annotations

import time
from datetime import datetime

import pytest

from ugro.common.text import exactly
from ugro.common.units import parse_duration, parse_mib, parse_moment, parse_past

NOON = datetime(2026, 11, 24, 12, 0).timestamp()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("45m", 2700), ("2h", 7200), ("1h30m", 5400), ("2d", 172800), ("1.5h", 5400)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10", 600), ("0:30", 30), ("10:00", 600), ("90:05", 5405), ("1:30:00", 5400), ("48:00:00", 172800),
        ("1-0", 86400), ("1-12", 129600), ("1-12:30", 131400), ("1-12:30:05", 131405), ("1h30m", 5400),
    ],
)  # fmt: skip
def test_durations_as_in_slurm(text: str, seconds: float) -> None:
    assert parse_duration(text, bare="m") == seconds
    assert text == "10" or parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["1:60", "1:2:60", "1:60:00", "1-", "-1", "1-2:3:4:5", "1:2:3:4", "2026-11-24", "1h:30"]
)
def test_refuses_invalid_slurm_durations(text: str) -> None:
    with pytest.raises(ValueError, match="1h30m or 1:30:00 is expected"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["45s", "10m", "1h30m", "1d12h", "1h30m5s", "0.5s"])
def test_shows_a_duration_as_it_may_be_typed(text: str) -> None:
    assert exactly(parse_duration(text)) == text


@pytest.mark.parametrize(
    ("text", "mib"), [("512M", 512), ("10G", 10240), ("10 GiB", 10240), ("1.5g", 1536), ("800", 800)]
)
def test_sizes(text: str, mib: int) -> None:
    assert parse_mib(text) == mib


def test_moments_lie_ahead_and_past_ones_behind() -> None:
    assert parse_moment("+2h", NOON) == NOON + 7200
    assert parse_moment("13:00", NOON) == NOON + 3600
    assert parse_moment("11:00", NOON) == NOON + 23 * 3600
    assert parse_moment("2026-11-24T12:00", NOON) == NOON
    assert parse_past("2h", NOON) == NOON - 7200
    assert parse_past("11:00", NOON) == NOON - 3600
    assert parse_past("2026-11-24T12:00", time.time()) == NOON


@pytest.mark.parametrize("text", ["99999999999h", "9" * 400 + "s", "9" * 400])
def test_reports_durations_that_are_too_long(text: str) -> None:
    with pytest.raises(ValueError, match="at most 10000d"):
        parse_duration(text)
    for parse, word in ((parse_past, text), (parse_moment, f"+{text}")):
        with pytest.raises(ValueError, match="at most 10000d"):
            parse(word)


@pytest.mark.parametrize("text", ["600T", "9" * 400 + "G"])
def test_reports_sizes_that_are_too_large(text: str) -> None:
    with pytest.raises(ValueError, match="at most 512T"):
        parse_mib(text)


@pytest.mark.parametrize("text", ["99999-01-01", "99999-01-01T10:00", "2100-01-02", "9999-12-31T23:59"])
def test_reports_times_that_are_too_late(text: str) -> None:
    with pytest.raises(ValueError, match="from 1970 to 2099"):
        parse_moment(text)


@pytest.mark.parametrize("text", ["", "0", "-3", "soon", "1e9", "5x", "nan", "9" * 20])
def test_says_which_format_is_expected(text: str) -> None:
    for parse in (parse_duration, parse_mib, parse_moment, parse_past):
        with pytest.raises(ValueError, match="expected"):
            parse(text)
