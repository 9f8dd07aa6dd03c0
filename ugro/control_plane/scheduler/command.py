"""The command of a job, in the folder that its code comes from: a script, a module, a program or a plain command."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from ugro.common.errors import InputError
from ugro.common.job_spec import JobSpec
from ugro.common.text import printable
from ugro.control_plane.scheduler.launch_line import START, Foreign, line, translated

NAME_ONE = "name one of the working directory, or none: then the inventory's 'script' counts"

LONGEST_NAME = 255
"""Bytes of the name of a file on Linux."""


def source_text(directory: Path, spec: JobSpec) -> str:
    """The text of what a job runs; nothing where it is not in that folder."""
    source = spec.source(directory)
    try:
        return (directory / source).read_text(encoding="utf-8", errors="replace") if source else ""
    except OSError:
        return ""


def _shortened(name: str) -> str:
    """Return a name for a message, as a file can have it at most."""
    shown = printable(name)
    return shown if len(shown) <= LONGEST_NAME else shown[:LONGEST_NAME] + "…"


def require_source(directory: Path, spec: JobSpec, otherwise: str = "", start: Sequence[str] = START) -> str | None:
    """See that what a job runs is there, and can be run in that way; `otherwise` says what to do where it is not.

    A command that would do begins with `start`. Returns its path in the folder; None: it is the nodes' own.

    Raises:
        InputError: it is not, or it cannot.
    """
    source = spec.source(directory)
    name, where = _shortened(spec.script), directory.resolve()
    if spec.module:
        package = spec.script.partition(".")[0]
        if source is None and os.path.isdir(directory / package):
            hint = f"{where / package} is there: is its name or one in it misspelt?"
            raise InputError(f"there is no module {name!r} in {where}", otherwise or hint)
        return source
    if spec.no_python:
        _require_program(directory, spec, otherwise, start)
        return source
    if source is None:
        raise InputError(f"there is no script {name!r} in {where}", otherwise or _meant(directory, spec, start))
    if _is_program(directory / source):
        raise InputError(f"{name} is no Python script", _as_program(directory, source, spec, start))
    return source


def _is_program(path: Path) -> bool:
    """Whether a file is meant for another interpreter than Python, or is none's text at all."""
    if path.suffix in (".sh", ".bash", ".zsh", ".fish"):
        return True
    with open(path, "rb") as file:
        first = file.readline(200)
    return path.suffix != ".py" and ((first.startswith(b"#!") and b"python" not in first) or b"\0" in first)


def _as_program(directory: Path, source: str, spec: JobSpec, start: Sequence[str]) -> str:
    path = source if "/" in source else f"./{source}"
    once = [path] if os.access(directory / source, os.X_OK) else ["bash", source]
    each = line(directory, Foreign(path, spec.args, no_python=True), start)
    return printable(f"{shlex.join([*start, '--', *once, *spec.args])} (once, on one node; for each GPU: {each})")


def _require_program(directory: Path, spec: JobSpec, otherwise: str, start: Sequence[str]) -> None:
    """See that a program which is named by a path in the folder is there.

    Raises:
        InputError: it is not, or it is not executable.
    """
    name, here = printable(spec.script), directory / spec.script
    if "/" in spec.script and not spec.script.startswith("/") and os.path.isfile(here):
        if not os.access(here, os.X_OK):
            raise InputError(f"{name} is not executable", f"chmod +x {shlex.quote(str(directory / spec.script))}")
    elif "/" not in spec.script and os.path.isfile(here) and shutil.which(spec.script) is None:
        hint = f"without a path, a program is looked for in the PATH of the nodes: name it ./{name}"
        if spec.launcher == "none":
            with_what = "python" if here.suffix == ".py" else "bash"
            hint = printable(shlex.join([*start, "--", with_what, spec.script, *spec.args]))
        raise InputError(f"there is no program {name!r}", hint)
    elif "/" in spec.script and not spec.script.startswith("/"):
        raise InputError(f"there is no program {name!r} in {directory.resolve()}", otherwise)
    elif spec.launcher == "none" and len(spec.script.split()) > 1:
        shell = shlex.join([*start, "--", "bash", "-c", " ".join((spec.script, *spec.args))])
        raise InputError(f"there is no program {name!r}", f"for a shell to read it: {printable(shell)}")


def _meant(directory: Path, spec: JobSpec, start: Sequence[str]) -> str:
    """Return the command that was probably meant by a script that does not exist."""
    if all(part.isidentifier() for part in spec.script.split(".")):
        module = spec.model_copy(update={"module": True})
        if module.source(directory):
            return f"a module is run with -m: {line(directory, Foreign(spec.script, spec.args, module=True), start)}"
    return translated(directory, (spec.script, *spec.args), Foreign(""), start) or NAME_ONE
