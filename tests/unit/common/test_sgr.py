"""Colours of log lines."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ugro.common.sgr import runs
from ugro.common.text import printable


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("plain", [("plain", "")]),
        ("", []),
        ("\x1b[31mred\x1b[0m then plain", [("red", "fg-red"), (" then plain", "")]),
        ("\x1b[1;4;92;44ma\x1b[22;39mb", [("a", "bold underline fg-bright-green bg-blue"), ("b", "underline bg-blue")]),
        ("\x1b[38;5;196mr\x1b[38;2;0;0;255mb", [("r", "fg-bright-red"), ("b", "fg-bright-blue")]),
        ("\x1b[38;5;34mg\x1b[48;5;240mg", [("g", "fg-green"), ("g", "fg-green bg-bright-black")]),
        ("\x1b[38:2:255:0:0mcolons", [("colons", "fg-bright-red")]),
        ("\x1b[31ma\x1b[31mb\x1b]8;;http://x\x07c", [("abc", "fg-red")]),
        ("\x1b[33m 10%\r 50%\r100%\x1b[0m", [("100%", "fg-yellow")]),
        ("\x1b[31ma long line\x1b[0m\rshort", [("short", ""), ("g line", "fg-red")]),
        ("\x1b[31ma long line\x1b[0m\rshort\x1b[K", [("short", "")]),
        ("\x1b[999999999999mx\x1b[38;5mz", [("xz", "")]),
        ("\u202egnp.exe\x00<img onerror>", [("�gnp.exe�<img onerror>", "")]),
    ],
)  # fmt: skip
def test_styles_are_named(line: str, found: list[tuple[str, str]]) -> None:
    assert [tuple(run) for run in runs(line)] == found


PIECES = st.sampled_from(
    [
        "\x1b[31m",
        "\x1b[0m",
        "\x1b[K",
        "\x1b[2K",
        "\r",
        "\n",
        "\x1b]0;t\x07",
        "\x1b[",
        "\x9b",
        "ab",
        "loss",
        "\u202e",
        ";",
        "m",
    ]
)


@given(st.one_of(st.text(), st.lists(PIECES).map("".join)))
@example("\r\x1b[31mlong\rab")
def test_the_text_is_what_printable_shows(line: str) -> None:
    assert "".join(run.text for run in runs(line)) == printable(line)


@pytest.mark.parametrize("piece", ["\x1b[31mx", "\r", "\rab", "\x1b[", "\x1b]", "\x1b[1;", "x\r\x1b[31m"])
def test_the_time_is_linear(piece: str) -> None:
    def seconds(count: int) -> float:
        begin = time.process_time()
        runs(piece * count)
        return time.process_time() - begin

    assert seconds(80_000) < 40 * max(seconds(8_000), 0.002)
