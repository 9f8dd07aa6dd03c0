"""The user's own crontab, of which only the lines between two markers are UGRO's: its text, and its program."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from ugro.common.errors import InputError, StateError
from ugro.common.files import write_atomic
from ugro.common.text import printable

BEGIN = "# BEGIN UGRO (made by ugro cron install)"
END = "# END UGRO"
BEFORE = "crontab.before"
"""The file in UGRO_HOME that has the crontab as it was before the last change."""

LONGEST = 990
"""Characters of a line that every cron takes."""

PATIENCE = 20.0
"""Seconds that `crontab` has to answer."""


def installed(home: Path) -> bool:
    """Whether this state directory's sweep is in the crontab, or may be: in doubt no message says that it is not.

    `crontab` is only asked where this state directory ever changed it.
    """
    if not (home / BEFORE).exists():
        return False
    try:
        named = f"UGRO_HOME={_in_line(home.absolute())} "
        return any(named in line for line in own_lines(read()))
    except InputError:
        return True


# --- text ------------------------------------------------------------------------------------------------------------


def sweep_line(every: int, python: str, inventory: Path, home: Path) -> str:
    """The line for cron.

    Raises:
        InputError: a path has something that crons read differently, or the line is too long for some.
    """
    for path in (python, str(inventory), str(home)):
        # Some crons take a backslash before another one away; a newline ends the entry for all of them.
        if "\\" in path or not path.isprintable():
            raise InputError(
                f"{path!a} cannot stand in a crontab", "give it a name of printable characters, without a backslash"
            )
    words = [_in_line(word) for word in (home, python, inventory, home / "sweep.log")]
    line = f"*/{every} * * * * " + "UGRO_HOME={} {} -m ugro --inventory {} sweep >> {} 2>&1".format(*words)
    if len(os.fsencode(line)) > LONGEST:
        raise InputError(f"the line for cron has more than {LONGEST} bytes", "use shorter paths")
    return line


def _in_line(path: Path | str) -> str:
    """A path as it stands in the line: a bare % is a line break to cron, in quotes too."""
    return shlex.quote(str(path)).replace("%", r"\%")


def own_lines(crontab: str) -> list[str]:
    """Return the lines between the markers.

    Raises:
        InputError: one marker is missing, so that it is unknown which lines are UGRO's.
    """
    return _parted(crontab)[0]


def with_block(crontab: str, line: str) -> str:
    """The crontab with UGRO's block, which stands first: a SHELL= or PATH= further down does not reach it."""
    return f"{BEGIN}\n{line}\n{END}\n{without_block(crontab)}"


def without_block(crontab: str) -> str:
    """The crontab without UGRO's block; a last line without an end gets one, because `crontab` insists on it."""
    rest = _parted(crontab)[1]
    return rest if not rest or rest.endswith("\n") else rest + "\n"


def _parted(crontab: str) -> tuple[list[str], str]:
    """UGRO's lines without markers, and the text of everybody else's."""
    own: list[str] = []
    others: list[str] = []
    inside = False
    for line in crontab.split("\n"):  # not splitlines: a form feed or a carriage return is the user's own
        if line in (BEGIN, END):
            if inside == (line == BEGIN):
                raise _torn(line)
            inside = line == BEGIN
        else:
            (own if inside else others).append(line)
    if inside:
        raise _torn(BEGIN)
    return own, "\n".join(others)


def _torn(marker: str) -> InputError:
    other = "end" if marker == BEGIN else "beginning"
    return InputError(
        f"your crontab has the line {marker!r} without its {other}, so it is not clear which lines are UGRO's",
        "nothing was changed: take UGRO's lines out by hand (crontab -e), then call this again",
    )


# --- the crontab -----------------------------------------------------------------------------------------------------


def edit(home: Path, change: Callable[[str], str]) -> bool:
    """Change the crontab, if it changes; what it was before is kept in UGRO_HOME.

    Raises:
        InputError: another process changed it meanwhile, or `crontab` refused; then nothing was changed.
    """
    before = read()
    after = change(before)
    if after == before:
        return False
    backup = home / BEFORE
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(backup, before)
    except OSError as error:
        raise StateError(f"{backup} cannot be written: {error.strerror}", "nothing was changed") from None
    if read() != before:
        raise InputError("your crontab was changed by another program just now", "nothing was changed: call this again")
    _crontab("-", text=after)
    if read() != after:
        raise InputError("your crontab is not what was written", f"see: crontab -l; the previous one is in {backup}")
    return True


def read() -> str:
    """The crontab as it is; empty where there is none.

    Raises:
        InputError: `crontab` refused.
    """
    done = _run_crontab("-l")
    if done.returncode == 0:
        return text_of(done.stdout)
    said = text_of(done.stderr)
    # The second is busybox's way to say so.
    if "no crontab" in said or "No such file" in said:
        return ""
    raise _refused(said)


def _crontab(*args: str, text: str) -> None:
    done = _run_crontab(*args, text=text)
    if done.returncode != 0:
        raise _refused(text_of(done.stderr))


def _refused(said: str) -> InputError:
    return InputError(f"crontab refused: {printable(' '.join(said.split())) or 'it did not say why'}")


def _run_crontab(*args: str, text: str = "") -> subprocess.CompletedProcess[bytes]:
    program = crontab_program()
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        return subprocess.run(
            [program, *args],
            input=text.encode("utf-8", "surrogateescape"),
            capture_output=True,
            timeout=PATIENCE,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"crontab gave no answer within {PATIENCE:.0f} s") from None


def crontab_program() -> str:
    """The program that reads and writes crontabs.

    Raises:
        InputError: there is none.
    """
    program = shutil.which("crontab")
    if program is None:
        hint = "install cron, or use a systemd timer, or let `ugro serve` run (examples/ugro.service)"
        raise InputError("there is no `crontab` on this machine", hint)
    return program


def text_of(data: bytes) -> str:
    """Decode a program's output; bytes that are not UTF-8 survive as surrogates."""
    return data.decode("utf-8", "surrogateescape")
