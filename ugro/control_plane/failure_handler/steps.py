"""How far a training got, by what it prints. Pure.

Logs count in many ways: `step 12/100`, `'step': 12`, `Epoch 1:  12%|█▎ | 12/100 [00:10<…`, `iter 12`, `global_step=12`.
A line such as `{'loss': 2.31, 'epoch': 0.5}` says that a step was made and not which one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ugro.common.text import printable

LINE_LENGTH = 2000
"""Characters of a line that are looked at: longer ones are data."""

_NUMBER = r"(\d{1,3}(?:,\d{3})+|\d{1,12})"
_END = r"(?!\.?\d|\s*(?:ms|us|s|sec|secs|seconds|x)\b)"
_WORD = re.compile(
    r"(?:(?<![A-Za-z_])(?<!per )(?<!max )(?<!total )(?<!every )(?:global[_ -]?step|step|iteration|iter)(s?)"
    r"|(?<![A-Za-z_])train(?:er)?/global_step)"
    rf"['\"]?\s{{0,12}}[:=\[(#]?\s{{0,12}}{_NUMBER}{_END}(?:\s{{0,12}}(?:/|of)\s{{0,12}}{_NUMBER})?",
    re.IGNORECASE,
)
_BAR = re.compile(rf"{_NUMBER}/{_NUMBER} \[\d")
_EPOCH = re.compile(r"(?<![A-Za-z_])epoch['\"]?\s{0,4}[:=\[(#]?\s{0,4}(\d{1,6})(?![\d.])", re.IGNORECASE)
_LOSS = re.compile(
    r"(?<![A-Za-z])(?:\w{1,20}[_/ ])?loss['\"]?\s{0,4}[:=(]?\s{0,4}['\"]?-?(?:\d|nan|inf)", re.IGNORECASE
)
_BESIDE = re.compile(r"(?<![A-Za-z])(?:eval\w*|val\w*|test\w*|predict\w*)[\])\s_:/|-]{1,3}$", re.IGNORECASE)
"""What stands before the steps of another work than training."""

_OTHER_WORK = re.compile(
    r"load|download|fetch|resolv|map\b|\bmap|filter|token|generat|eval|valid|test|predict|sav|comput|cast|shard|extract"
    r"|warm|sanity|pack|group|collect|convert|prepar|upload|build|compil",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Progress:
    """What a line says of the way: the step (of how many), counted within the epoch where it is a bar's.

    `step` is None where only a step's loss was printed.
    """

    step: int | None
    total: int | None = None
    epoch: int | None = None
    bar: bool = False


def progress_of(line: str) -> Progress | None:
    """What one line says of a training's way; None: nothing, as with bars of downloads."""
    line = printable(line[-LINE_LENGTH:])
    epoch = int(match[1]) if (match := _EPOCH.search(line)) else None
    for match in _WORD.finditer(line):
        if _BESIDE.search(line[: match.start()]):
            continue
        if match[3] or not match[1] or _LOSS.search(line):  # `steps: 400` alone says how many there are to be
            return Progress(_whole(match[2]), _whole(match[3]), epoch)
    if match := _BAR.search(line):
        title = line[: match.start()].partition("%|")[0]
        return None if _OTHER_WORK.search(title) else Progress(_whole(match[1]), _whole(match[2]), epoch, bar=True)
    return Progress(None, None, epoch) if _LOSS.search(line) else None


def last_progress(log: str) -> Progress | None:
    """How far a log got, by its end. What it says in words counts before bars, and the longest bar before shorter ones.

    (An evaluation's bar often has no title; it is shorter than the training's.)
    """
    found = [seen for line in re.split(r"[\r\n]+", log) if (seen := progress_of(line))]
    steps = [seen for seen in found if seen.step is not None]
    words = [seen for seen in steps if not seen.bar]
    longest = max((seen.total or 0 for seen in steps), default=0)
    counted = words or [seen for seen in steps if (seen.total or 0) == longest]
    return next(reversed(counted or found), None)


def _whole(text: str | None) -> int | None:
    return int(text.replace(",", "")) if text else None
