"""What scripts on nodes answer is read in one place: the payload, or one line of why there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from envelopes import envelope
from pydantic import TypeAdapter

from ugro.common.config import NodeConfig
from ugro.common.errors import NodeRefused
from ugro.nodes.remote.answers import Section, payload, read_sections, require
from ugro.nodes.remote.bundle import PRELUDE, parts
from ugro.nodes.transport import LocalTransport, Outcome

NUMBERS = TypeAdapter(list[int])
GOOD = envelope("numbers", "[1, 2]")


def read(stdout: bytes, status: int = 0, stderr: bytes = b"", *, truncated: bool = False) -> list[int]:
    node = LocalTransport(NodeConfig(name="gpu1", address="127.0.0.1", local=True))
    outcome = Outcome(status, stdout, stderr, truncated)
    return payload(node, outcome, "numbers", NUMBERS, "its numbers cannot be read", "count them there")


def refusal(stdout: bytes, status: int = 0, stderr: bytes = b"", *, truncated: bool = False) -> str:
    with pytest.raises(NodeRefused) as caught:
        read(stdout, status, stderr, truncated=truncated)
    assert caught.value.node == "gpu1" and caught.value.hint == "count them there"
    problem, _, why = caught.value.problem.partition(": ")
    assert problem == "its numbers cannot be read"
    return why


@pytest.mark.parametrize(
    "stdout",
    [
        GOOD,
        b"Welcome to gpu1" + GOOD,
        b"\xff\0{[" * 1000 + GOOD,
        GOOD + b"a library says goodbye",
        GOOD + b'\n{"payload": [3]}\n[3]\nnull\n',
        envelope("others", "[3]") + GOOD + envelope("others", "[4]"),
        envelope("numbers", '"an earlier one"') + GOOD,
    ],
)
def test_reads_an_answer_among_whatever_else_is_said(stdout: bytes) -> None:
    assert read(stdout) == [1, 2]


def test_tells_an_error_that_the_script_answers() -> None:
    line = json.dumps({"ugro": 1, "kind": "numbers", "error": "no \x1b[31mnumbers\n in \ud800"})
    for status in (0, 1):
        assert refusal(b"chatter\n" + line.encode() + b"\nmore", status, b"Traceback") == "no numbers� in ?"


@pytest.mark.parametrize(
    ("status", "stderr", "why"),
    [
        (1, b"first\nImportError: no torch\n", "ImportError: no torch"),
        (3, b"", "exit 3"),
        (-9, b"", "signal 9"),
        (1, b"x" * 5000, "x" * 500),
    ],
)
def test_tells_how_a_script_ended_that_answers_nothing(status: int, stderr: bytes, why: str) -> None:
    assert refusal(b"", status, stderr) == why
    assert refusal(GOOD, status, stderr) == why, "a script that failed has answered too early"


@pytest.mark.parametrize("length", [len(GOOD) - 2, len(GOOD) - 5, GOOD.index(b"payload")])
def test_tells_an_answer_that_was_cut_short(length: int) -> None:
    assert refusal(GOOD[:length]) == "the answer was cut short"


def test_tells_an_answer_that_was_longer_than_is_kept() -> None:
    assert refusal(b"9" * 1000, truncated=True) == "the answer was cut short"


@pytest.mark.parametrize(
    "stdout",
    [
        b"",
        b"[1, 2]",
        envelope("others", "[1, 2]"),
        envelope("numbers", '["a"]'),
        envelope("numbers", "null"),
        b'{"ugro": 1, "kind": "numbers"}',
        GOOD.replace(b'"ugro": 1', b'"ugro": 2'),
        b'{"ugro": 1, "kind": "numbers", "error": 5}',
    ],
)
def test_refuses_what_is_no_such_answer(stdout: bytes) -> None:
    assert refusal(stdout) == "the answer cannot be understood"


def test_reads_what_a_script_answers(tmp_path: Path) -> None:
    module = PRELUDE + "\n".join(parts("on_node/answer.py"))
    script = tmp_path / "numbers.py"

    def run(line: str) -> Outcome:
        script.write_text(f"{module}\nprint('half a line', end='')\n{line}\nprint('more')\n")
        done = subprocess.run([sys.executable, script], capture_output=True)
        return Outcome(done.returncode, done.stdout, done.stderr)

    told = run("answer('numbers', [1, 2])")
    assert read(told.stdout, told.status) == [1, 2]
    told = run("refuse('numbers', error_in_words(FileNotFoundError(2, 'No such file', 'x')))")
    assert told.status == 1 and refusal(told.stdout, 1) == "No such file: 'x'"


def test_requires_that_a_shell_script_succeeds() -> None:
    node = LocalTransport(NodeConfig(name="gpu1", address="127.0.0.1", local=True))
    require(node, Outcome(0), "the launch failed")
    with pytest.raises(NodeRefused, match="gpu1: the launch failed: no space"):
        require(node, Outcome(73, b"", b"no space\n"), "the launch failed")


def test_reads_sections_that_are_whole() -> None:
    output = "chatter\n@M node a\n@N node  a  b \nfirst\n\n@M node\n@N disk\n@N end 5\ncut o"
    assert read_sections(output, "N") == [Section("node", "a  b", ["first", "@M node"]), Section("disk", "", [])]
    assert read_sections("", "N") == [] == read_sections("@N node\n", "N")
    assert read_sections(output, "N")[0].arguments == ("a", "b")
