"""Colours of log lines: a line's SGR escapes become runs of text with the names of their style, in linear time.

The text of the runs together is what `printable` returns of the line: other escapes are gone, control characters and
those that turn the direction of writing are shown as marks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from ugro.common.text import CONTROLS, ERASES, ESCAPES

COLOURS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
ATTRIBUTES = {1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "inverse", 9: "strike"}
ENDS = {21: ("bold",), 22: ("bold", "dim"), 23: ("italic",), 24: ("underline",), 27: ("inverse",), 29: ("strike",)}
"""Attributes that a parameter ends."""

MOST_PARAMETERS = 32
"""Parameters of one escape that are read."""

_SGR = re.compile(r"\x1b\[([0-9;:]*)m")


class Run(NamedTuple):
    """Text of one style: `bold fg-red bg-bright-blue`, or nothing."""

    text: str
    style: str


def runs(text: str) -> tuple[Run, ...]:
    """Return one line of foreign text by its styles; carriage returns as a terminal shows them last."""
    text = text.rstrip("\r\n")
    style, parts = _Style(), []
    for part in text.split("\r"):  # from the first on, since a style outlasts a carriage return
        parts.append((list(_styled(part, style)), "\r" in text and ERASES.search(part) is not None))
    shown, width = list[Run](), 0
    for found, erases in reversed(parts):  # the end of a longer earlier part stays visible
        length = 0
        for run in found:
            if rest := run.text[max(0, width - length) :]:
                shown.append(Run(CONTROLS.sub("�", rest), run.style))
            length += len(run.text)
        width = max(width, length)
        if erases:
            break
    return tuple(_joined(shown))


def _joined(found: list[Run]) -> Iterator[Run]:
    """Join neighbours of one style."""
    texts, style = list[str](), ""
    for run in found:
        if run.style != style and texts:
            yield Run("".join(texts), style)
            texts = []
        texts.append(run.text)
        style = run.style
    if texts:
        yield Run("".join(texts), style)


def _styled(part: str, style: _Style) -> Iterator[Run]:
    at = 0
    for escape in ESCAPES.finditer(part):
        if at < escape.start():
            yield Run(part[at : escape.start()], style.name)
        if sgr := _SGR.fullmatch(escape[0]):
            style.change(sgr[1])
        at = escape.end()
    if at < len(part):
        yield Run(part[at:], style.name)


class _Style:
    """The style in force."""

    def __init__(self) -> None:
        self._attributes = dict.fromkeys(ATTRIBUTES.values(), False)
        self._colours = {"fg": "", "bg": ""}
        self.name = ""

    def change(self, parameters: str) -> None:
        """Take the parameters of an escape, as `1;31`."""
        words = parameters.replace(":", ";").split(";", MOST_PARAMETERS)[:MOST_PARAMETERS]
        numbers = [int(word[:4] or 0) for word in words]
        while numbers:
            self._take(numbers)
        names = [name for name, on in self._attributes.items() if on]
        self.name = " ".join(names + [f"{ground}-{colour}" for ground, colour in self._colours.items() if colour])

    def _take(self, numbers: list[int]) -> None:
        number = numbers.pop(0)
        if number == 0:
            self._attributes = dict.fromkeys(self._attributes, False)
            self._colours = {"fg": "", "bg": ""}
        elif number in ATTRIBUTES:
            self._attributes[ATTRIBUTES[number]] = True
        elif number in ENDS:
            self._attributes |= dict.fromkeys(ENDS[number], False)
        elif number in (38, 48):
            self._colours["fg" if number == 38 else "bg"] = _extended(numbers)
        elif number in (39, 49):
            self._colours["fg" if number == 39 else "bg"] = ""
        elif 30 <= number <= 47 or 90 <= number <= 107:
            tens, colour = divmod(number, 10)
            if colour < len(COLOURS):
                self._colours["fg" if tens in (3, 9) else "bg"] = _named(colour + (8 if tens >= 9 else 0))


def _extended(numbers: list[int]) -> str:
    """Return the nearest of the 16 colours, of one of 256 (`5;N`) or of red, green and blue (`2;R;G;B`)."""
    kind = numbers.pop(0) if numbers else 0
    if kind == 5 and numbers:
        return _of_256(numbers.pop(0))
    if kind == 2 and len(numbers) >= 3:
        red, green, blue = numbers[:3]
        del numbers[:3]
        return _nearest(red, green, blue)
    return ""


def _of_256(number: int) -> str:
    if number < 16:
        return _named(number)
    if number < 232:
        red, rest = divmod(number - 16, 36)
        return _nearest(*(55 + 40 * part if part else 0 for part in (red, *divmod(rest, 6))))
    return _nearest(*(3 * [8 + 10 * (number - 232)])) if number < 256 else ""


def _nearest(red: int, green: int, blue: int) -> str:
    """Return the colour of the 16 with the same bits; the bright one where a part is strong."""
    strongest = max(red, green, blue)
    if strongest < 48:
        return _named(0)
    bits = sum(1 << place for place, part in enumerate((red, green, blue)) if part > strongest / 2)
    if bits == 7 and strongest < 160:
        return _named(8)  # grey
    return _named(bits + (8 if strongest > 215 else 0))


def _named(number: int) -> str:
    return COLOURS[number] if number < 8 else f"bright-{COLOURS[number - 8]}"
