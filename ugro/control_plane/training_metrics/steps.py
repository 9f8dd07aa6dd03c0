"""The progress of a training by its output: the one place where a step is read from a line. Pure.

Logs count in many ways: `step 12/100`, `'step': 12`, `Epoch 1:  12%|█▎ | 12/100 [00:10<…`, `iter 12`, `global_step=12`.
A line such as `{'loss': 2.31, 'epoch': 0.5}` says that a step was made and not which one.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ugro.common.text import printable

LINE_LENGTH = 2000
"""Characters of a line that are looked at: longer ones are data."""

_NUMBER = r"(\d{1,3}(?:,\d{3})+|\d{1,12})"
_END = r"(?!\.?\d|\s*(?:ms|us|s|sec|secs|seconds|x)\b)"
_WORDS = re.compile(r"step|iter|num_updates")
_WORD = re.compile(
    r"(?:(?:(?<![a-z_])|(?<=global[_ -])|(?<=global))(?<!per )(?<!max )(?<!total )(?<!every )"
    r"(?:step|iteration|iter)(s?)"
    r"|(?<![a-z_])num_updates)"
    rf"['\"]?\s{{0,12}}[:=\[(#]?\s{{0,12}}{_NUMBER}{_END}(?:\s{{0,12}}(?:/|of)\s{{0,12}}{_NUMBER})?"
)
"""The word at its place, in lower case: searched for by its letters first, which is quick."""

_BAR = re.compile(rf"(?:{_NUMBER}/{_NUMBER}|(?<![\w.])(\d{{1,12}})it) \[\d")
_EPOCH = re.compile(r"(?<![a-z_])epoch['\"]?\s{0,4}[:=\[(#]?\s{0,4}['\"]?(\d{1,6})(?:\s?/\s?(\d{1,6}))?(?![\d.])")
_WITHIN = re.compile(
    rf"(?<![a-z_])(?:epoch(?:\(train\))?|train:)[: ]{{0,3}}\[?(\d{{1,6}})(?!\d)(?:/(\d{{1,6}})(?!\d))?\]?[: ]{{0,6}}"
    rf"\[?\s{{0,12}}{_NUMBER}\s{{0,3}}/\s{{0,3}}{_NUMBER}(?=[\]\s])"
)
"""An epoch with the steps in it: `Epoch(train) [1][  50/30895]`, `Train Epoch: 1 [640/60000 (1%)]`."""

_LOSS = re.compile(r"(?<![a-z])loss['\"]?\s{0,4}[:=(]?\s{0,4}['\"]?-?(?:\d|nan|inf)")
_BESIDE = re.compile(r"(?<![a-z])(?:eval\w*|val\w*|test\w*|predict\w*)[\])\s_:/|-]{1,3}$")
"""Prefixes of steps of other work than training."""

BESIDE_LENGTH = 40
"""Characters before a step in which that is looked for."""

_OTHER_WORK = re.compile(
    r"load|download|fetch|resolv|map\b|\bmap|filter|token|generat|eval|valid|test|predict|sav|comput|cast|shard|extract"
    r"|warm|sanity|pack|group|collect|convert|prepar|upload|build|compil"
)


class Progress(NamedTuple):
    """Progress by a line: the step (of how many), and the epoch. `in_epoch`: steps are counted within it.

    `step` is None where only a step's loss was printed.
    """

    step: int | None
    total: int | None = None
    epoch: int | None = None
    bar: bool = False
    epochs: int | None = None
    in_epoch: bool = False


Place = tuple[int, int]
_NOWHERE: Place = (-1, -1)


class Places(NamedTuple):
    """Places in a line of the numbers of a `Progress`."""

    step: Place = _NOWHERE
    total: Place = _NOWHERE
    epoch: Place = _NOWHERE
    epochs: Place = _NOWHERE
    bar: bool = False
    in_epoch: bool = False

    def read(self, line: str) -> Progress:
        """Return what the line says at these places."""
        step, total, epoch, epochs = (whole(line[start:end]) for start, end in self[:4])
        return Progress(step, total, epoch, self.bar, epochs, self.in_epoch)


def progress_of(line: str) -> Progress | None:
    """Return the progress that one line shows; None: it shows none, as with bars of downloads."""
    return progress_in(printable(line[-LINE_LENGTH:]))


def progress_in(line: str) -> Progress | None:
    """Return what `progress_of` does, of a line that is short and printable."""
    line = line.lower()
    places = progress_places(line)
    return places and places.read(line)


def progress_places(line: str) -> Places | None:
    """Return where a line in lower case says what `progress_in` returns."""
    epoch = epochs = _NOWHERE
    if match := _first("epoch", _EPOCH, line):
        epoch, epochs = match.span(1), match.span(2)
    for word in _WORDS.finditer(line):
        match = _WORD.match(line, word.start())
        if match is None or _BESIDE.search(line, max(0, word.start() - BESIDE_LENGTH), word.start()):
            continue
        if match[3] or not match[1] or _first("loss", _LOSS, line):  # `steps: 400` alone says how many there are to be
            return Places(match.span(2), match.span(3), epoch, epochs)
    match = _WITHIN.search(line) if "/" in line and ("epoch" in line or "train:" in line) else None
    if match and not _BESIDE.search(line, max(0, match.start() - BESIDE_LENGTH), match.start()):
        of = match.span(2) if match[2] else epochs
        return Places(match.span(3), match.span(4), match.span(1), of, in_epoch=True)
    if "[" in line and (match := _BAR.search(line)):
        title = line[: match.start()].partition("%|")[0]
        if _OTHER_WORK.search(title):
            return None
        step = match.span(1) if match[1] else match.span(3)
        return Places(step, match.span(2), epoch, epochs, bar=True, in_epoch=epoch != _NOWHERE)
    return Places(epoch=epoch, epochs=epochs) if _first("loss", _LOSS, line) else None


def _first(word: str, pattern: re.Pattern[str], line: str) -> re.Match[str] | None:
    """Return the first match of a pattern that begins with a word."""
    at = line.find(word)
    while at >= 0:
        if match := pattern.match(line, at):
            return match
        at = line.find(word, at + 1)
    return None


def last_progress(log: str) -> Progress | None:
    """Return how far a log got, by its end. Steps in words count before bars, and the longest bar before shorter ones.

    (An evaluation's bar often has no title; it is shorter than the training's.)
    """
    found = [seen for line in re.split(r"[\r\n]+", log) if (seen := progress_of(line))]
    steps = [seen for seen in found if seen.step is not None]
    words = [seen for seen in steps if not seen.bar]
    longest = max((seen.total or 0 for seen in steps), default=0)
    counted = words or [seen for seen in steps if (seen.total or 0) == longest]
    return next(reversed(counted or found), None)


def whole(text: str) -> int | None:
    """Return a whole number, whose thousands may be grouped; None: the text is empty."""
    return int(text.replace(",", "")) if text else None
