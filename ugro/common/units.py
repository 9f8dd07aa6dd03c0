"""Parse durations, sizes and moments as the user types them: `2h`, `10G`, `22:30`, `+90m`, `2026-11-24T22:00`."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Literal

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MIB = {"m": 1.0, "g": 1024.0, "t": 1024.0**2}
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?[smhd])+")
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd])")
_SLURM = re.compile(
    r"(?P<minutes>[0-9]+):(?P<seconds>[0-5]?[0-9])"
    r"|(?P<hours>[0-9]+):(?P<minutes_>[0-5]?[0-9]):(?P<seconds_>[0-5]?[0-9])"
    r"|(?P<days>[0-9]+)-(?P<hours_>[0-9]+)(?::(?P<minutes__>[0-5]?[0-9])(?::(?P<seconds__>[0-5]?[0-9]))?)?"
)
"""M:SS, H:MM:SS, and D-H, D-HH:MM, D-HH:MM:SS; the parts are named by their unit."""
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([mgt])?i?b?")
_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_EPOCH = re.compile(r"[0-9]{9,10}(?:\.[0-9]+)?")
_FAR_YEAR = re.compile(r"[0-9]{5,}-")

LONGEST_DAYS = 10_000
LARGEST_MIB = 512 * 1024**2
SMALLEST_VRAM_MIB = 256
END_OF_TIME = datetime(2100, 1, 1, tzinfo=UTC).timestamp()
"""What is longer, larger, smaller or later than these was mistyped, and some of it no clock or float could hold."""


def check_seconds(seconds: float) -> float:
    """Check a duration in seconds.

    Raises:
        ValueError: it is not positive, or longer than LONGEST_DAYS.
    """
    if not seconds > 0:
        raise ValueError("a duration longer than nothing is expected")
    if seconds > LONGEST_DAYS * 86400:
        raise ValueError(f"a duration of at most {LONGEST_DAYS}d is expected")
    return seconds


def check_mib(mib: float) -> float:
    """Check a size in MiB.

    Raises:
        ValueError: it is larger than any memory or disk.
    """
    if mib > LARGEST_MIB:
        raise ValueError(f"a size of at most {LARGEST_MIB // 1024**2}T is expected")
    return mib


def check_vram(mib: int) -> int:
    """Check the requested memory of a GPU, in MiB.

    Raises:
        ValueError: it is so small that another unit was probably meant.
    """
    if 0 < mib < SMALLEST_VRAM_MIB:
        raise ValueError(f"no training fits into {mib} MiB; did you mean {mib}G?")
    return mib


def check_moment(at: float) -> float:
    """Check a moment in seconds since the epoch.

    Raises:
        ValueError: it is before 1970 or after 2099.
    """
    if not 0 <= at < END_OF_TIME:
        raise ValueError("a time from 1970 to 2099 is expected")
    return at


def parse_duration(text: str, bare: Literal["s", "m"] = "s") -> float:
    """Parse seconds from `90s`, `45m`, `1h30m`, `2d`, Slurm's `M:SS`, `H:MM:SS`, `D-H`, `D-HH:MM`, `D-HH:MM:SS`.

    A `bare` number counts seconds, or minutes as Slurm's does.

    Raises:
        ValueError: it is none of these, not longer than nothing, or too long.
    """
    word = text.strip().lower()
    if _NUMBER.fullmatch(word):
        seconds = float(word) * _SECONDS[bare]
    elif match := _SLURM.fullmatch(word):
        parts = {name.rstrip("_"): float(number) for name, number in match.groupdict(0).items() if float(number)}
        seconds = sum(number * _SECONDS[unit[0]] for unit, number in parts.items())
    elif _DURATION.fullmatch(word):
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(word))
    else:
        raise ValueError("a duration like 90s, 45m, 2h, 1h30m or 1:30:00 is expected")
    return check_seconds(seconds)


def parse_mib(text: str) -> int:
    """Parse MiB from `10G`, `10GiB`, `512M`; a bare number counts MiB.

    Raises:
        ValueError: it is none of these, nothing, or too much.
    """
    match = _SIZE.fullmatch(text.strip().lower())
    mib = float(match[1]) * _MIB[match[2] or "m"] if match else 0.0
    if not mib >= 1:
        raise ValueError("a size like 512M or 10G is expected")
    return round(check_mib(mib))


def parse_past(text: str, now: float | None = None) -> float:
    """Parse a past moment, in seconds since the epoch: `2h` (ago), `22:30` (the last one locally), or ISO 8601.

    Raises:
        ValueError: it is none of these.
    """
    now = time.time() if now is None else now
    word = text.strip()
    if _CLOCK.fullmatch(word):
        return parse_moment(word, now) - 86400
    if word.isdecimal() or _DURATION.fullmatch(word.lower()):
        return now - parse_duration(word)
    try:
        return datetime.fromisoformat(word).timestamp()
    except (ValueError, OverflowError):
        raise ValueError("a time like 2h (ago), 22:30 or 2026-11-24 is expected") from None


def parse_moment(text: str, now: float | None = None) -> float:
    """Parse a future moment, in seconds since the epoch: `+2h`, `22:30` (the next one locally), or ISO 8601.

    Such seconds themselves, as a frozen job spec has them, are that moment, too.

    Raises:
        ValueError: it is none of these.
    """
    now = time.time() if now is None else now
    word = text.strip()
    if word.startswith("+"):
        return check_moment(now + parse_duration(word[1:]))
    if match := _CLOCK.fullmatch(word):
        today = datetime.fromtimestamp(now).replace(hour=int(match[1]), minute=int(match[2]), second=0, microsecond=0)
        return today.timestamp() if today.timestamp() > now else today.timestamp() + 86400
    if _EPOCH.fullmatch(word):
        return check_moment(float(word))
    try:
        at = END_OF_TIME if _FAR_YEAR.match(word) else datetime.fromisoformat(word).timestamp()
    except (ValueError, OverflowError):
        raise ValueError("a time like +2h, 22:30 or 2026-11-24T22:30 is expected") from None
    return check_moment(at)
