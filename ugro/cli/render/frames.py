"""Draws what a command prints again and again in the same place, as `watch` does."""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
from collections.abc import Callable, Iterator

HOME, END_OF_LINE, BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
"""The other screen of the terminal, without its cursor, so that what was there before comes back."""


class _Frame(io.StringIO):
    """Takes what is meant for the terminal."""

    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def frames() -> Iterator[Callable[[Callable[[], None], str], None]]:
    """Give what draws what a function prints, below a title. The last frame stays on the terminal."""
    last = ""

    def draw(show: Callable[[], None], title: str) -> None:
        nonlocal last
        frame = _Frame()
        with contextlib.redirect_stdout(frame), contextlib.redirect_stderr(frame):
            show()
        last = frame.getvalue()
        lines, height = [title, "", *last.splitlines()], shutil.get_terminal_size().lines
        if len(lines) > height - 1:
            left = len(lines) - height + 2
            lines = [*lines[: height - 2], f"… {left} more lines: enlarge the terminal, or see `ugro top`"]
        _write(HOME + "".join(f"{line}{END_OF_LINE}\n" for line in lines) + BELOW)

    _write(ENTER)
    try:
        yield draw
    finally:
        _write(LEAVE + last)


def _write(text: str) -> None:
    assert sys.__stdout__
    sys.__stdout__.write(text)
    sys.__stdout__.flush()
