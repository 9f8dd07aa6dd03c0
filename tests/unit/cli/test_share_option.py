"""`--share` of a launch takes the word after it only if that is a number."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from ugro.cli.app import ScriptCommand
from ugro.cli.launch_options import placement_options


@pytest.mark.parametrize(
    ("line", "share", "words"),
    [
        ("--share 0.5 t.py", "0.5", ["t.py"]),
        ("--share t.py", "vram", ["t.py"]),
        ("t.py --share", "vram", ["t.py"]),
        ("--share --vram 4G t.py", "vram", ["t.py"]),
        ("--share=0.25 t.py", "0.25", ["t.py"]),
        ("--share 50% t.py", "50%", ["t.py"]),
        ("--share vram t.py", "vram", ["t.py"]),
        ("t.py", None, ["t.py"]),
        ("t.py -- --share 1", None, ["t.py"]),
    ],
)
def test_takes_only_a_number(line: str, share: str | None, words: list[str]) -> None:
    seen = {}

    @click.command(cls=ScriptCommand)
    @click.argument("words", nargs=-1)
    @placement_options
    def launch(**options: object) -> None:
        seen.update(options)

    assert CliRunner().invoke(launch, line.split()).exit_code == 0
    assert (seen["share"], list(seen["words"])) == (share, words)
