"""Names with numbers in a line: `loss: 2.31`, `lr=[1e-4]`, `'grad_norm': '12.79'`, `mfu: 41.19%`. Pure.

One pattern finds them in all formats. It starts only at the beginning of a word and takes words possessively, so that
the time it takes is linear in the line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

NAME_LENGTH = 80
"""Characters of a series' name that are kept."""

NUMBER = (
    r"[-+]?(?:\d{1,3}(?:,\d{3}){1,4}(?![\d,])(?:\.\d{1,25})?|\d{1,25}(?:\.\d{0,25})?|\.\d{1,25})(?:[eE][-+]?\d{1,4})?"
    r"|[-+]?(?:nan|NaN|NAN|[iI]nf(?:inity)?|INF)"
)
"""A number in any notation; thousands are grouped by commas only in threes: `7,034`, not `0.5, 0.6`."""

UNIT = r"%|[KMGT]i?B(?:/s)?|it/s|s/it|/s|[mu\u00b5]s|s(?:ecs?)?|min|[kM](?![\w%])"
PAIR = re.compile(
    rf"(?P<name>[A-Za-z_](?<![\w./@-].)[\w./@-]{{0,{NAME_LENGTH}}}+)"
    r"(?:\s?\((?P<in>[^()\d]{1,20})\))?['\"]?(?P<by>\s{0,12}[:=]\s{0,12}|\s{1,4})"
    r"(?P<open>['\"]?(?:(?:[A-Za-z]{2,8}\.)?[A-Za-z]{3,8}\d{0,2}\(|[\[(]){0,3})"
    rf"(?P<number>{NUMBER})\s?(?P<unit>{UNIT})?(?![\w:]|\.\d|-\d|/\d)"
)
"""A name and its value. No date, time of day, address, version or fraction is one."""

_SPACED = re.compile(
    r"(?:^|[_/])(?:loss\w{0,6}|lr|acc\w{0,6}|acc@\d|mfu|ppl|perplexity|time|dt|norm|gnorm|reward|score|bpb|f1|wer|cer|mae"
    r"|mse|iou|tps|mom)$"
)
"""Names that a space may stand after instead of a colon: `loss 2.31`."""

_BEFORE = re.compile(
    r"(?<![\w./@-])((?:train|training|val|valid|validation|test|eval|evaluation|dev|grad|gradient|learning|lm|mean|avg"
    r"|average|total|moving|top-?\d) )$",
    re.IGNORECASE,
)
"""A word that belongs to the name after it: `val loss`."""

_WORDS = re.compile(r"[A-Za-z][A-Za-z_/-]{0,30}(?: [A-Za-z][A-Za-z_/-]{0,30}){0,5} ")
_LOSS = {"loss", "lm_loss"}
_TIMES = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
_BYTES = {
    **{f"{prefix}iB": 1024.0**power for power, prefix in enumerate("KMGT", 1)},
    **{f"{prefix}B": 1000.0**power for power, prefix in enumerate("KMGT", 1)},
}
_SCALES = {"k": 1e3, "M": 1e6}
_RATE = re.compile(
    rf"(?<![\w.,/@+-])(?P<number>{NUMBER})\s?(?P<scale>[kM])?\s?"
    r"(?:(?P<tokens>tok(?:en)?s?)|(?P<samples>samples?)|(?P<images>im(?:g|age)s?)|(?P<steps>it(?:er)?s?|steps?))"
    r"/s(?:ec(?:ond)?)?(?![\w/])"
)
"""A number that only its unit names: `45.1k tok/s`."""


class Pair(NamedTuple):
    """A name with its value as printed, its unit where one stands beside it, and where in the text both stand.

    `start` is where the name begins, `place` where its number begins and ends.
    """

    name: str
    value: float
    unit: str = ""
    start: int = 0
    place: tuple[int, int] = (0, 0)

    def renamed(self, name: str) -> Pair:
        """Return the value under another name."""
        return self._replace(name=name[:NAME_LENGTH])


Value = tuple[str, float, str]
"""A name with its value and unit."""


def values_of(pairs: Iterable[Pair]) -> list[Value]:
    """Return the values without their places in the line."""
    return [pair[:3] for pair in pairs]


def pairs_in(text: str) -> list[Pair]:
    """Return the names with numbers in a text, in its order."""
    found: list[Pair] = []
    end = 0
    for match in PAIR.finditer(text):
        name, inside, by, opened, number, unit = match.groups()
        start = match.start()
        if by.isspace():
            if not _may_be_spaced(name):
                continue
        elif by == ":" and start and text[start - 1] == ":":  # module:function:line
            continue
        if start >= 2 and text[start - 1] == " " and text[start - 2].isalpha():
            name = _with_words(text[end:start], name)
        end = match.end()
        if "," in number:
            number = number.partition(",")[0] if opened else number.replace(",", "")  # the first of a list
        value = float(number)
        if unit in _SCALES:
            value, unit = value * _SCALES[unit], ""
        found.append(Pair(series_name(name), value, inside or unit or "", start, match.span("number")))
    return found


def rates_in(text: str, pairs: Sequence[Pair]) -> list[Pair]:
    """Return what a text says a second is worth, beyond its pairs: `45.1k tok/s` is `tokens_per_second`."""
    if "/s" not in text:
        return []
    named = {pair.place for pair in pairs}
    return [
        Pair(
            f"{match.lastgroup}_per_second",
            float(match["number"].replace(",", "")) * _SCALES.get(match["scale"], 1.0),
            "/s",
            match.start(),
            match.span("number"),
        )
        for match in _RATE.finditer(text)
        if match.span("number") not in named
    ]


def number_in(text: str) -> float | None:
    """Return the value of a number as logs print it: `7,034`, `1.E-05`, `nan`; None: it is none."""
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


@lru_cache(4096)
def _may_be_spaced(name: str) -> bool:
    return bool(_SPACED.search(name.lower()))


@lru_cache(4096)
def series_name(name: str) -> str:
    """Return the name of a series: one word, and `loss` for what a script only calls its loss."""
    name = name.strip(" '\"./-@")
    if " " in name:
        name = "_".join(name.lower().split())
    return "loss" if name.lower() in _LOSS else name[:NAME_LENGTH]


def in_unit(value: float, unit: str, wanted: str) -> float | None:
    """Return a value in another unit of the same kind; None: there is no way from one to the other."""
    if unit == wanted or not math.isfinite(value):
        return value
    for kind in (_TIMES, _BYTES):
        if unit in kind and wanted in kind:
            return value * kind[unit] / kind[wanted]
    return None


def _with_words(between: str, name: str) -> str:
    """Return a name with the words before it that belong to it: after a `|` all of them, else one that says of what."""
    _, bar, words = between.rpartition("|")
    words = words.lstrip()
    if bar and words and _WORDS.fullmatch(words):
        return words + name
    return match[1] + name if (match := _BEFORE.search(between)) else name
