"""`ugro cron`, with a stand-in for `crontab` that keeps a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ugro.cli.main import COMMANDS, cli
from ugro.common.errors import InputError
from ugro.service.crontab_lines import BEGIN, END, installed, own_lines, sweep_line, with_block, without_block

STAND_IN = """#!/bin/sh
# Stands for crontab: `-l` prints, `-` replaces. What `parallel` holds is run at the second `-l` and later.
cd "${0%/*}"
case $1 in
    -l)
        if [ -e parallel ] && [ -e asked ]; then . ./parallel; fi
        : > asked
        [ -e table ] || { echo "no crontab for somebody" >&2; exit 1; }
        cat table ;;
    -)
        cat > new
        if [ -s new ] && [ -n "$(tail -c 1 new)" ]; then
            echo "new crontab file is missing newline before EOF, can't install." >&2
            exit 1
        fi
        mv new table ;;
esac
"""
OTHERS = b'# mine, \xff not UTF-8\n\n  0 5 * * *\tbackup --at %H\r\n\x0c@reboot true\nMAILTO=""\n'
Ugro = Callable[..., Result]


@pytest.fixture
def cron_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = home / "bin"
    folder.mkdir()
    (folder / "crontab").write_text(STAND_IN)
    (folder / "crontab").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.fixture
def ugro(home: Path, monkeypatch: pytest.MonkeyPatch) -> Ugro:
    monkeypatch.setitem(COMMANDS, "cron", ("ugro.cli.commands.cron", "cron", ""))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    inventory = home / "100% mine.yaml"
    inventory.write_text("nodes:\n  here: {address: 127.0.0.1, local: true}\n")

    def call(*args: str) -> Result:
        return CliRunner().invoke(cli, ["--inventory", str(inventory), "cron", *args], standalone_mode=False)

    return call


def refused(result: Result) -> InputError:
    assert isinstance(result.exception, InputError), result.exception
    return result.exception


def expected(home: Path, every: int = 1) -> str:
    return sweep_line(every, sys.executable, home / "100% mine.yaml", home / ".ugro")


def test_there_was_no_crontab(ugro: Ugro, cron_folder: Path, home: Path) -> None:
    done = ugro("install")
    assert done.exception is None and expected(home) in done.stdout
    assert (cron_folder / "table").read_text() == f"{BEGIN}\n{expected(home)}\n{END}\n"
    assert (home / ".ugro/crontab.before").read_text() == ""
    assert "100\\% mine.yaml" in expected(home)


def test_other_lines_stay_byte_for_byte(ugro: Ugro, cron_folder: Path, home: Path) -> None:
    table = cron_folder / "table"
    table.write_bytes(OTHERS)
    assert ugro("install").exception is None
    assert table.read_bytes() == f"{BEGIN}\n{expected(home)}\n{END}\n".encode() + OTHERS
    assert (home / ".ugro/crontab.before").read_bytes() == OTHERS
    assert "removed" in ugro("remove").stdout
    assert table.read_bytes() == OTHERS


def test_a_last_line_without_an_end(ugro: Ugro, cron_folder: Path, home: Path) -> None:
    (cron_folder / "table").write_bytes(OTHERS[:-1])
    assert ugro("install").exception is None
    assert (cron_folder / "table").read_bytes().endswith(OTHERS)
    assert (home / ".ugro/crontab.before").read_bytes() == OTHERS[:-1]


def test_installing_again_replaces(ugro: Ugro, cron_folder: Path, home: Path) -> None:
    (cron_folder / "table").write_bytes(OTHERS)
    ugro("install")
    first = (cron_folder / "table").read_bytes()
    assert "has it already" in ugro("install").stdout
    assert (cron_folder / "table").read_bytes() == first
    assert ugro("install", "--every", "15").exception is None
    text = (cron_folder / "table").read_bytes()
    assert text == f"{BEGIN}\n{expected(home, 15)}\n{END}\n".encode() + OTHERS


@pytest.mark.parametrize("torn", [f"a\n{BEGIN}\nb\n", f"a\n{END}\nb\n", f"{BEGIN}\n{BEGIN}\n{END}\n", BEGIN])
@pytest.mark.parametrize("what", ["install", "remove", "show"])
def test_refuses_a_damaged_block(ugro: Ugro, cron_folder: Path, home: Path, torn: str, what: str) -> None:
    (cron_folder / "table").write_text(torn)
    error = refused(ugro(what))
    assert "without its" in error.message and "crontab -e" in error.hint
    assert (cron_folder / "table").read_text() == torn and not (home / ".ugro/crontab.before").exists()


def test_a_parallel_edit_is_seen(ugro: Ugro, cron_folder: Path) -> None:
    (cron_folder / "table").write_bytes(OTHERS)
    (cron_folder / "parallel").write_text("echo '# new' >> table\n")
    assert "another program" in refused(ugro("install")).message
    assert (cron_folder / "table").read_bytes() == OTHERS + b"# new\n"


def test_an_edit_that_came_just_after_is_said(ugro: Ugro, cron_folder: Path) -> None:
    (cron_folder / "parallel").write_text("if [ -e table ]; then echo '# new' >> table; fi\n")
    assert "is not what was written" in refused(ugro("install")).message


def test_removing_what_is_not_there_changes_nothing(ugro: Ugro, cron_folder: Path, home: Path) -> None:
    assert "nothing to do" in ugro("remove").stdout
    assert not (cron_folder / "table").exists() and not (home / ".ugro").exists()


def test_show(ugro: Ugro, cron_folder: Path, home: Path) -> None:
    assert "has nothing" in ugro("show").stdout
    assert json.loads(ugro("show", "--json").stdout) == {"schema_version": 1, "installed": False, "lines": []}
    ugro("install", "--every", "5")
    assert ugro("show").stdout == expected(home, 5) + "\n"
    assert json.loads(ugro("show", "--json").stdout)["lines"] == [expected(home, 5)]


def test_prints_its_changes_as_json(ugro: Ugro, cron_folder: Path, home: Path) -> None:
    for changed in (True, False):
        document = {"schema_version": 1, "changed": changed, "lines": [expected(home)]}
        assert json.loads(ugro("install", "--json").stdout) == document
    for changed in (True, False):
        document = {"schema_version": 1, "changed": changed, "lines": []}
        assert json.loads(ugro("remove", "--json").stdout) == document


def test_no_crontab_program(ugro: Ugro, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home))
    for what in ("install", "remove", "show"):
        assert "systemd" in refused(ugro(what)).hint


def test_a_crontab_that_refuses_is_quoted(ugro: Ugro, cron_folder: Path) -> None:
    (cron_folder / "crontab").write_text("#!/bin/sh\necho 'You (me) are not allowed' >&2; exit 1\n")
    assert "not allowed" in refused(ugro("install")).message


def test_a_mistake_in_the_inventory_is_found_before(ugro: Ugro, cron_folder: Path, home: Path) -> None:
    (home / "100% mine.yaml").write_text("nodes: {}\n")
    refused(ugro("install"))
    assert not (cron_folder / "table").exists()


@pytest.mark.parametrize("every", ["7", "45", "59"])
def test_only_what_divides_an_hour(ugro: Ugro, cron_folder: Path, every: str) -> None:
    assert "15" in refused(ugro("install", "--every", every)).hint


@pytest.mark.parametrize("every", ["0", "60", "x", "-1"])
def test_only_minutes_of_an_hour(ugro: Ugro, cron_folder: Path, every: str) -> None:
    assert ugro("install", "--every", every).exception is not None
    assert not (cron_folder / "table").exists()


def as_cron_would(line: str) -> subprocess.CompletedProcess[str]:
    """Run a line as cron does: `\\%` is a percent sign, a bare one would end the command."""
    minute, *rest, command = line.split(" ", 5)
    assert minute.startswith("*/") and rest == ["*"] * 4
    assert "%" not in command.replace(r"\%", "")
    return subprocess.run(["/bin/sh", "-c", command.replace(r"\%", "%")], env={}, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["plain", "with space", "it's", '"a"', "100%", "%", "$(touch pwned)", "a;b", "*", "ä"])
def test_the_line_does_what_it_says(home: Path, name: str) -> None:
    folder = home / name
    folder.mkdir()
    python = folder / "python"
    python.write_text('#!/bin/sh\nprintf \'%s\\n\' "$UGRO_HOME" "$@"\n')
    python.chmod(0o755)
    ran = as_cron_would(sweep_line(2, str(python), folder / "inventory.yaml", folder))
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    said = (folder / "sweep.log").read_text().splitlines()
    assert said == [str(folder), "-m", "ugro", "--inventory", str(folder / "inventory.yaml"), "sweep"]


@pytest.mark.parametrize("name", ["a\nb", "a\\b", "a\rb", "a\udcff", "x" * 600])
def test_refuses_paths_that_cron_cannot_hold(name: str) -> None:
    with pytest.raises(InputError):
        sweep_line(1, "/usr/bin/python3", Path("/") / name, Path("/") / name)


@pytest.mark.parametrize("crontab", ["", "\n", "a\n", "a", "a\n\n", "a\x0b\x85b\n"])
def test_text_goes_in_and_out_again(crontab: str) -> None:
    whole = crontab if crontab.endswith("\n") or not crontab else crontab + "\n"
    added = with_block(crontab, "line")
    assert own_lines(added) == ["line"] and without_block(added) == whole and with_block(added, "line") == added
    assert own_lines(crontab) == []


def test_two_blocks_become_one() -> None:
    block = f"{BEGIN}\nold\n{END}\n"
    assert with_block(block + "a\n" + block + "b\n", "new") == f"{BEGIN}\nnew\n{END}\na\nb\n"


def test_whether_the_sweep_of_a_state_directory_is_installed(ugro: Ugro, cron_folder: Path, home: Path) -> None:
    other = home / "other"
    other.mkdir()
    assert not installed(home / ".ugro"), "nothing was ever changed from there"
    ugro("install")
    assert installed(home / ".ugro")
    (other / "crontab.before").write_text("")
    assert not installed(other), "it is the sweep of another state directory"
    (cron_folder / "table").write_text(f"{BEGIN}\n")
    assert installed(home / ".ugro"), "in doubt nobody is told that it is not"
    (cron_folder / "table").write_text("")
    assert not installed(home / ".ugro")
