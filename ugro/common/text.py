"""Text for the user: foreign text made harmless, sizes and times in words."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from datetime import datetime

SHOWN = 3
"""So many things are named in a short reason."""

# CSI and OSC sequences, other two-byte escapes, then every control character but tab.
ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_]")
ERASES = re.compile(r"\x1b\[[02]?[JK]")
CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_UNSEEN = re.compile(rf"\t|{CONTROLS.pattern}")


def printable(text: str) -> str:
    """Return one line of foreign text without terminal escapes and control characters.

    A progress bar that redraws itself with carriage returns is shown as a terminal would show it last.
    """
    text = text.rstrip("\r\n")
    return CONTROLS.sub("�", _overwritten(text) if "\r" in text else ESCAPES.sub("", text))


def _overwritten(text: str) -> str:
    """Return what a terminal shows of text with carriage returns: the end of a longer earlier part stays visible."""
    shown = ""
    for part in reversed(text.split("\r")):
        words = ESCAPES.sub("", part)
        shown += words[len(shown) :]
        if ERASES.search(part):  # what was there before is wiped away
            break
    return shown


def visible(name: str) -> str:
    """Return the name of a file for people: what `printable` would leave out or replace is shown, as `\\x1b[31m`.

    So two names that differ look different.
    """
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], name)


def one_line(text: str) -> str:
    """Return typed or pasted text on one line: line ends become spaces."""
    return printable(" ".join(text.split()))


def without_name(message: str, name: str) -> str:
    """Return the message of an error about a node without the node's name, for where that stands before it."""
    return message.removeprefix(f"{name}: ")


def size(mib: float) -> str:
    """Return a size, given in MiB, in the usual unit."""
    if mib >= 1024:
        return f"{mib / 1024:.1f} GiB"
    return f"{mib:.0f} MiB" if mib >= 1 else f"{mib * 1024:.0f} KiB"


def count(number: int, noun: str) -> str:
    """Return a number of things: `1 node`, `2 nodes`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """Return a time span: `8s`, `3m 20s`, `2h 05m`, `3d 4h`."""
    seconds = int(max(0, seconds))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m {seconds % 60:02d}s"
    if seconds < 86400:
        return f"{seconds // 3600}h {seconds % 3600 // 60:02d}m"
    return f"{seconds // 86400}d {seconds % 86400 // 3600}h"


def exactly(seconds: float) -> str:
    """Return a time span to the second, in a form that UGRO reads: `45s`, `10m`, `1h30m`, `1d12h`."""
    left, parts = round(seconds), []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        number, left = divmod(left, length)
        parts += [f"{number}{unit}"] if number else []
    return "".join(parts) or f"{seconds:g}s"


def clock(at: float | None) -> str:
    """Return a moment in local time; `?` if no calendar has it."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) if at is not None else "-"
    except (OverflowError, ValueError, OSError):
        return "?"


def moment(at: float, now: float) -> str:
    """Return a moment in local time, rounded up to the minute, with its date unless today; `?` as for `clock`."""
    try:
        local = datetime.fromtimestamp(math.ceil(at / 60) * 60)
    except (OverflowError, ValueError, OSError):
        return "?"
    return local.strftime("%H:%M" if local.date() == datetime.fromtimestamp(now).date() else "%Y-%m-%d %H:%M")


def some(words: Sequence[str], separator: str = ", ") -> str:
    """Return the first of some words, and how many more there are."""
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return separator.join(words[:SHOWN]) + more


def rough(seconds: float) -> str:
    """Return a rough time span for forecasts: `2 minutes`, `an hour`, `5 hours`."""
    minutes = round(max(0.0, seconds) / 60)
    if minutes < 2:
        return "a minute"
    if minutes < 55:
        return f"{minutes} minutes"
    hours = round(minutes / 60)
    return "an hour" if hours < 2 else f"{hours} hours" if hours < 48 else f"{round(hours / 24)} days"


def bytes_in_words(used: int) -> str:
    """Return a size in words: bytes below a KiB, else as `size` does."""
    return f"{used} B" if used < 1024 else size(used / 2**20)


def position_in_words(step: int | None, epoch: int | None) -> str:
    """Return `step 20`, or `epoch 3` where no step is known."""
    return f"epoch {epoch}" if step is None and epoch is not None else f"step {step}"
