"""`ugro help`, other names of commands, and the man pages."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import click
import pytest

from ugro.cli.main import ALIASES, COMMANDS, cli
from ugro.cli.man import pages
from ugro.testing.commands import Ugro


def test_shows_the_help_of_a_command_below_groups(forked: Ugro, home: Path) -> None:
    assert forked("help", cwd=home).stdout == forked("--help", cwd=home).stdout
    assert "Usage: ugro job cancel [OPTIONS] JOB..." in forked("help", "job", "cancel", cwd=home).stdout
    assert forked("help", "state", "rebuild", cwd=home).stdout.startswith("Usage: ugro state rebuild")


@pytest.mark.parametrize("name", ALIASES)
def test_other_names_are_the_command_in_every_way(forked: Ugro, home: Path, name: str) -> None:
    shown = forked("help", name, cwd=home).stdout
    assert shown == forked(name, "--help", cwd=home).stdout == forked("help", ALIASES[name], cwd=home).stdout
    assert f"{name} = {ALIASES[name]}" in forked("help", cwd=home).stdout
    assert name not in COMMANDS and name not in cli.list_commands(click.Context(cli))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("help", "cancle"), "did you mean `ugro cancel`?"),
        (("help", "job", "xyz"), "`ugro job --help` lists the commands"),
        (("help", "launch", "x"), "`ugro launch` has no commands of its own"),
        (("help", "--man", "/dev/null/x"), "name a folder of yours: ugro help --man ~/.local/share/man"),
        (("kil", "5"), "did you mean `ugro kill`?"),
    ],
)
def test_refuses_what_is_no_command(forked: Ugro, home: Path, words: tuple[str, ...], said: str) -> None:
    done = forked(*words, cwd=home)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.long
def test_writes_a_page_of_each_command_that_man_reads(forked: Ugro, home: Path) -> None:
    told = forked("help", "--man", str(home / "man"), cwd=home).stdout
    written = {path.name: path for path in (home / "man" / "man1").iterdir()}
    assert told.startswith(f"{len(written)} pages in {home}/man/man1")
    assert {f"ugro-{name}.1" for name in COMMANDS} < {*written} and "ugro-node-clean.1" in written
    assert ".SH NAME\nugro\\-rerun \\- Run a job again" in written["ugro-rerun.1"].read_text()
    if not shutil.which("man"):
        pytest.skip("there is no man here")
    command = ["man", "--warnings", "-E", "UTF-8", "-Tutf8", "-Z", "-l", *map(str, written.values())]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_takes_no_character_of_a_help_for_a_request_of_roff() -> None:
    @click.command(help=".SH of\n\n'quoted' \\fB and `code`\n\n\b\n.nf kept")
    def odd() -> None:
        pass

    [(name, text)] = pages(odd)
    assert name == "ugro.1" and "\n\\&'quoted' \\efB and \\fBcode\\fR\n" in text and "\n\\&.nf kept\n" in text
    assert "ugro \\- \\&.SH of\n" in text
