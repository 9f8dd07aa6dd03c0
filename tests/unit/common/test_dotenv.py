"""Files of variables: what is read of them, and errors with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugro.common.dotenv import read_dotenv
from ugro.common.errors import InputError


def read(folder: Path, text: str) -> dict[str, str]:
    path = folder / ".env"
    path.write_bytes(text.encode())
    return {name: one.value for name, one in read_dotenv(path).items()}


def test_reads_values_as_dotenv_does(tmp_path: Path) -> None:
    text = """\
# a comment
  # and one that is indented

PLAIN=a b  # what follows is a comment
HASH=a#b
EMPTY=
export EXPORTED = spaced
SINGLE='a "b" $C \\n # not a comment' # one
DOUBLE="a\\tb\\"c\\" \\$D \\\\ \\x"
LINES='first
# second'
AFTER=1
URL=https://a/?b=c&d=e
AFTER=2
"""
    assert read(tmp_path, text) == {
        "PLAIN": "a b",
        "HASH": "a#b",
        "EMPTY": "",
        "EXPORTED": "spaced",
        "SINGLE": 'a "b" $C \\n # not a comment',
        "DOUBLE": 'a\tb"c" $D \\ \\x',
        "LINES": "first\n# second",
        "AFTER": "2",
        "URL": "https://a/?b=c&d=e",
    }
    assert read(tmp_path, "\ufeffA=1\r\nB='x\r\ny'\r\nC=3") == {"A": "1", "B": "x\ny", "C": "3"}
    assert read(tmp_path, "") == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("A=1\n\nhf_value", ":3: NAME=VALUE is expected"),
        ("=1", ":1: NAME=VALUE is expected"),
        ("A=1\nB-C=secret", ":2: 'B-C' is not a variable name"),
        ("1A=secret", ":1: '1A' is not a variable name"),
        ("A='secret", ":1: A: the closing ' is missing"),
        ('A=1\nB="secret\\"', ':2: B: the closing " is missing'),
        ("A='x' secret", ":1: A: more follows after the closing '"),
        ("A='x\ny' z\nB=1", ":1: A: more follows after the closing '"),
        ("A=a\0b", ":1: A: a NUL byte cannot be passed to a program"),
    ],
)
def test_names_file_and_line_and_no_value(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, text)
    assert caught.value.message == f"{tmp_path}/.env{problem}"
    assert "secret" not in caught.value.hint and "hf_value" not in caught.value.hint


def test_refuses_what_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_dotenv(tmp_path / "none")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_dotenv(tmp_path)
    (tmp_path / "latin").write_bytes(b"A=1\nB=\xe9\n")
    with pytest.raises(InputError, match="latin:2: not UTF-8 text"):
        read_dotenv(tmp_path / "latin")
    (tmp_path / "large").write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(InputError, match="larger than 1024 KiB"):
        read_dotenv(tmp_path / "large")


@given(st.text(st.characters(blacklist_characters="'\0\r", blacklist_categories=["Cs"])))
def test_takes_what_single_quotes_enclose_as_it_stands(value: str) -> None:
    from ugro.common.dotenv import _variables

    assert [(one.name, one.value) for one in _variables(f"A='{value}'")] == [("A", value)]
