"""What a job runs, in the folder that its code comes from: a script, a module or a program, as torchrun takes them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

from ugro.common.errors import InputError
from ugro.common.job_spec import JobSpec
from ugro.common.text import printable

NAME_ONE = "name one of the working directory, or none: then the inventory's 'script' counts"

PYTHON = re.compile(r"(python|pypy)[0-9.]*|torchrun")


def source_text(directory: Path, spec: JobSpec) -> str:
    """The text of what a job runs; nothing where it is not in that folder."""
    source = spec.source(directory)
    try:
        return (directory / source).read_text(encoding="utf-8", errors="replace") if source else ""
    except OSError:
        return ""


def require_source(directory: Path, spec: JobSpec, otherwise: str = "") -> str | None:
    """See that what a job runs is there, and can be run in that way; `otherwise` says what to do where it is not.

    Returns its path in the folder; None: it is the nodes' own.

    Raises:
        InputError: it is not, or it cannot.
    """
    source = spec.source(directory)
    name, where = printable(spec.script), directory.resolve()
    if spec.module:
        package = spec.script.partition(".")[0]
        if source is None and (directory / package).is_dir():
            hint = f"{where / package} is there: is its name or one in it misspelt?"
            raise InputError(f"there is no module {name!r} in {where}", otherwise or hint)
        return source
    if spec.no_python:
        return _program(directory, spec, source, otherwise)
    if source is None:
        raise InputError(f"there is no script {name!r} in {where}", otherwise or _meant(directory, spec))
    if _is_shell_script(directory / source):
        hint = f"ugro launch --no-python {shlex.quote('./' + source)}, or in a job.yaml: no_python: true"
        raise InputError(f"{name} is no Python script", printable(hint))
    return source


def _is_shell_script(path: Path) -> bool:
    """Whether a file is meant for another interpreter than Python."""
    if path.suffix in (".sh", ".bash", ".zsh", ".fish"):
        return True
    with open(path, "rb") as file:
        first = file.readline(200)
    return path.suffix != ".py" and first.startswith(b"#!") and b"python" not in first


def _program(directory: Path, spec: JobSpec, source: str | None, otherwise: str) -> str | None:
    name, here = printable(spec.script), directory / spec.script
    if source is not None:
        if not os.access(directory / source, os.X_OK):
            raise InputError(f"{name} is not executable", f"chmod +x {shlex.quote(str(directory / source))}")
    elif "/" not in spec.script and here.is_file() and shutil.which(spec.script) is None:
        hint = f"without a path, a program is looked for in the PATH of the nodes: name it ./{name}"
        raise InputError(f"there is no program {name!r}", hint)
    elif "/" in spec.script and not spec.script.startswith("/"):
        raise InputError(f"there is no program {name!r} in {directory.resolve()}", otherwise)
    return source


def _meant(directory: Path, spec: JobSpec) -> str:
    """What was meant by a script that is not there, as the next command."""
    if all(part.isidentifier() for part in spec.script.split(".")):
        module = spec.model_copy(update={"module": True})
        if module.source(directory):
            return f"a module is run with -m: ugro launch -m {spec.script}"
    return interpreter_hint(directory, (spec.script, *spec.args)) or NAME_ONE


def interpreter_hint(directory: Path, words: tuple[str, ...]) -> str:
    """How to launch what is written as in `python train.py …` or `bash run.sh …`; nothing where it is not."""
    program, *rest = words
    if (directory / program).is_file():
        return ""
    if PYTHON.fullmatch(Path(program).name):
        for number, word in enumerate(rest):
            if word == "-m" and number + 1 < len(rest):
                return _launch("-m", rest[number + 1], rest[number + 2 :])
            if word.endswith(".py"):
                return _launch("", word, rest[number + 1 :])
        return "name the script alone: UGRO runs it with torchrun and the python of each node"
    return _launch("--no-python", program, rest) if shutil.which(program) else ""


def _launch(how: str, what: str, args: list[str]) -> str:
    options = [word for word in args if word != "--"]
    words = [*filter(None, [how]), what, *(["--", *options] if options else [])]
    runs = "" if how == "--no-python" else "UGRO runs it with torchrun and the python of each node: "
    return printable(f"{runs}ugro launch {shlex.join(words)}")
