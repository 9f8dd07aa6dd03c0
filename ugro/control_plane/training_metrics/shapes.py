"""The shapes of a rank's lines: a training prints one line again and again, and only its numbers differ. Pure.

The findings of `pairs` and `steps` depend on a line's text and marks, and of its numbers only on their length. So a
finding is kept with a pattern of exactly the lines that are alike in these: a line of a known shape is read by one
match, and with the same result. Whatever could make a difference is no part of a shape: other text, a number of
another length class, `nan`, lists, numbers with another comma.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ugro.control_plane.training_metrics.pairs import Pair, Value
from ugro.control_plane.training_metrics.steps import Place, Places, Progress, whole

MOST_SHAPES = 8
"""Shapes of a rank that are kept: of its lines of training, of evaluation, and these in other lengths."""

FIRST_SHAPES = 24
LINES_A_SHAPE = 500
"""Shapes that are learned at first, and lines that they must have read for each further one: learning takes as long as
reading some hundred lines does."""

_PART = re.compile(r"(?<![\w./@-])[A-Za-z_][\w./@-]*+|[0-9]++| {2,}+")
"""A word with the digits in it, digits, and spaces that align numbers."""

_FREE = r"(-?[0-9]{1,9}+(?:\.[0-9]{0,25}+)?+(?:[eE][-+]?[0-9]{1,4}+)?+)"
"""A value in any notation, where neither what stands around it nor the way of the run depends on it."""

_NUMBER = re.compile(r"-?[0-9]")
_GOES_ON = re.compile(r"\.|,[0-9]")
_SCALED = re.compile(r"\s?[kM](?![\w%])")
_COUNTED = re.compile(r"step|iter|epoch|num_updates|train", re.IGNORECASE)
"""Names of which a number may be the way of the run."""

_DIGITS = (4, 6, 9, 12, 25)
_SPACES = (3, 4, 6, 12)
"""Most repetitions that the patterns of `pairs` and `steps` allow somewhere: lengths between two of these are alike."""


class Line(NamedTuple):
    """Content of a line: its values, and how far the run is."""

    values: Sequence[Value]
    progress: Progress | None


class LineShape(NamedTuple):
    """A pattern of lines, and what each of its groups is: of the values, and of the step and the epoch."""

    pattern: re.Pattern[str]
    values: tuple[tuple[str, str, int], ...]
    """Name, unit and group of each."""
    way: tuple[int, int, int, int] | None
    """The groups of step, total, epoch and epochs; the first group, 0, is empty: the line does not say."""
    in_epoch: bool

    def read(self, line: str) -> Line | None:
        """Return what a line says; None: it has another shape."""
        match = self.pattern.fullmatch(line)
        if match is None:
            return None
        texts = match.groups()
        values = [(name, float(texts[group].replace(",", "")), unit) for name, unit, group in self.values]
        if self.way is None:
            return Line(values, None)
        step, total, epoch, epochs = self.way
        return Line(values, Progress(
            whole(texts[step]), whole(texts[total]), whole(texts[epoch]), False, whole(texts[epochs]), self.in_epoch
        ))  # fmt: skip


class Shapes:
    """The shapes of one rank's lines, the one that was seen last first."""

    def __init__(self) -> None:
        self._known: list[LineShape] = []
        self._read = 0
        self._learned = 0

    def read(self, line: str) -> Line | None:
        """Return what a line says; None: its shape is not known."""
        for place, shape in enumerate(self._known):
            if said := shape.read(line):
                if place:
                    self._known.insert(0, self._known.pop(place))
                self._read += 1
                return said
        return None

    def learn(self, line: str, pairs: Sequence[Pair], places: Places | None) -> None:
        """Keep the shape of a line in which these values were found, unless it has none."""
        if self._learned >= FIRST_SHAPES + self._read // LINES_A_SHAPE:
            return
        self._learned += 1
        if shape := _shape_of(line, pairs, places):
            self._known.insert(0, shape)
            del self._known[MOST_SHAPES:]


def _shape_of(line: str, pairs: Sequence[Pair], places: Places | None) -> LineShape | None:
    """Return the shape of a line; None: its values do not stand there as they are, or it is that of a bar."""
    if not all(_is_plain(line, pair) for pair in pairs) or (places and places.bar):
        return None
    way = [place for place in places[:4] if place[0] >= 0] if places else []
    numbers = sorted({*way, *(pair.place for pair in pairs)})
    free = {pair.place for pair in pairs if not _COUNTED.search(pair.name) and _is_free(line, pair.place)}
    pattern = _pattern(line, numbers, free.difference(way))
    if pattern is None:
        return None
    group = {place: number for number, place in enumerate(numbers, 1)}
    values = tuple((pair.name, pair.unit, group[pair.place]) for pair in pairs)
    if places is None:
        return LineShape(pattern, values, None, False)
    step, total, epoch, epochs = (group.get(place, 0) for place in places[:4])
    return LineShape(pattern, values, (step, total, epoch, epochs), places.in_epoch)


def _is_plain(line: str, pair: Pair) -> bool:
    """Whether a value is the number at its place: not scaled, as `5k` is, and not the first of a list."""
    start, end = pair.place
    number = line[start:end]
    is_list = "," in number and line[start - 1] not in " :="
    return not is_list and not _SCALED.match(line, end) and float(number.replace(",", "")) == pair.value


def _is_free(line: str, place: Place) -> bool:
    """Whether any other number could stand at a place."""
    start, end = place
    return "," not in line[start:end] and bool(_NUMBER.match(line, start)) and not _GOES_ON.match(line, end)


def _pattern(line: str, numbers: Sequence[Place], free: set[Place]) -> re.Pattern[str] | None:
    """Return the pattern of lines that are alike, with a group for each of the numbers; None: there is none."""
    parts = list(_PART.finditer(line))
    out, end = ["()"], 0
    for start, stop in numbers:
        inside = [part for part in parts if part.start() < stop and start < part.end()]
        if start < end or any(part.start() < start or part.end() > stop or _is_word(part[0]) for part in inside):
            return None
        before = [part for part in parts if end <= part.start() < start]
        own = _FREE if (start, stop) in free else f"({_alike(line, inside, start, stop)})"
        out += [_alike(line, before, end, start), own]
        end = stop
    return re.compile("".join([*out, _alike(line, [part for part in parts if part.start() >= end], end, len(line))]))


def _alike(line: str, parts: Sequence[re.Match[str]], start: int, end: int) -> str:
    """Return a pattern of what is like a part of a line."""
    out = []
    for part in parts:
        out.append(re.escape(line[start : part.start()]))
        start = part.end()
        out.append(re.escape(part[0]) if _is_word(part[0]) else _repeated(line, *part.span()))
    return "".join([*out, re.escape(line[start:end])])


def _is_word(part: str) -> bool:
    return part[0] not in "0123456789 "


def _repeated(line: str, start: int, end: int) -> str:
    """Return a pattern of as many digits, or spaces; beside a comma digits may be a group of thousands."""
    one = " " if line[start] == " " else "[0-9]"
    lengths: tuple[int, ...] = _SPACES if one == " " else _DIGITS
    length = end - start
    if one != " " and line[start - 1 : start] == ",":
        return f"{one}{{{length}}}"
    if one != " " and line[end : end + 1] == ",":
        lengths = (3,)
    least = 1 if one != " " else 2
    for most in lengths:
        if length <= most:
            return f"{one}{{{least},{most}}}+"
        least = most + 1
    return f"{one}{{{length}}}"
