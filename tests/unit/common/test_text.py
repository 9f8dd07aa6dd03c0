"""Text for people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugro.common.text import duration, one_line, printable, size, visible


@pytest.mark.parametrize(
    ("foreign", "shown"),
    [
        ("plain\ttext", "plain\ttext"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("10%\r50%\r100%", "100%"),
        ("\r 12%|#   | 12/100\r 13", " 13%|#   | 12/100"),  # a redraw that came half
        ("a long line\rshort\x1b[K", "short"),
        ("a long line\r\x1b[2K\x1b[1mshort\x1b[0m\r", "short"),
        ("50%\r\x1b]0;title\x07\x001", "�1%"),
        ("line\r\n", "line"),
        ("a\nb", "a�b"),
        ("\x9b31mC1", "�31mC1"),
        ("\u202egnp.exe", "�gnp.exe"),
        ("[bold]kept[/bold] café 🏖️", "[bold]kept[/bold] café 🏖️"),
    ],
)
def test_foreign_text_is_made_harmless(foreign: str, shown: str) -> None:
    assert printable(foreign) == shown


@given(st.text())
def test_no_control_character_remains(text: str) -> None:
    assert not any((ord(c) < 32 and c != "\t") or 127 <= ord(c) < 160 for c in printable(text))


def test_names_that_differ_look_different() -> None:
    names = ["out", "\x1b[31mout", "ou\tt", "ou\nt", "\u202eout", "café"]
    shown = [visible(name) for name in names]
    assert shown == ["out", "\\x1b[31mout", "ou\\tt", "ou\\nt", "\\u202eout", "café"]
    assert [printable(name) for name in shown] == shown, "and they are harmless"


def test_sizes_and_durations() -> None:
    assert [size(n) for n in (0, 0.5, 1, 418, 12227)] == ["0 KiB", "512 KiB", "1 MiB", "418 MiB", "11.9 GiB"]
    assert [duration(n) for n in (-1, 8.9, 200, 7500, 360000)] == ["0s", "8s", "3m 20s", "2h 05m", "4d 4h"]


def test_joins_pasted_lines() -> None:
    assert one_line(" new fan\n\twaits for\r\na part\x1b[1m ") == "new fan waits for a part"
