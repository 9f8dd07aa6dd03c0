"""Reads the command line of a launch and its job.yaml as a job spec. Runs where the client does."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ugro.common.errors import InputError, JobSpecError
from ugro.common.fields import ENV_NAME
from ugro.common.job_spec import OPTIONS, OPTIONS_HINT, JobSpec, job_spec, load_job_spec
from ugro.common.job_spec.environment import NotSet, forwarded, laid_over, read_env_files
from ugro.common.job_spec.rules import MOST_JOBS, sweep_values
from ugro.common.text import printable
from ugro.common.units import parse_duration
from ugro.control_plane.metadata_store.history import run_of
from ugro.control_plane.scheduler.command import require_source
from ugro.control_plane.scheduler.launch_line import START, Foreign, line, translated
from ugro.service.project import Project, find_project
from ugro.service.schemas.launch import DefaultScriptDocument

ALIKE = 0.7
"""How alike a word and an option are, of 1, for the option to be what was meant."""

COUNTS = (("gpus", "gpus_per_node"), ("gpus_per_node", "gpus"))
"""Options that exclude each other: the one on the command line replaces the other one of the file."""


@dataclass(frozen=True)
class LaunchLine:
    """The command line of a launch, taken apart.

    `script_args` stood after `--`. `options` are the values by name. A command that would do where this one cannot be
    meant begins with `start`; `known` are the options that there are, as they are typed.
    """

    words: tuple[str, ...]
    script_args: tuple[str, ...]
    options: dict[str, Any]
    start: Sequence[str] = START
    known: Sequence[str] = ()


@dataclass(frozen=True)
class Training:
    """A training whose memory is estimated: its arguments, the MiB it says it takes, the key of equal runs, and how
    many GPUs it asks for in all.
    """

    args: tuple[str, ...]
    vram: int | None = None
    run: str = ""
    gpus: int | None = None


def read_training(script: str, args: tuple[str, ...], module: bool, no_python: bool) -> Training:
    """Read what would run with these arguments, from the command line or a job.yaml.

    Raises:
        InputError, JobSpecError: it is not there, or has a mistake.
    """
    if module or no_python or Path(script).suffix not in (".yaml", ".yml"):
        # Not checked as a job's: nothing is sent, so any path will do.
        spec, directory = JobSpec.model_construct(script=script, args=args, module=module, no_python=no_python), Path()
    else:
        found = load_job_spec(Path(script))
        spec = found.model_copy(update={"args": (*found.args, *args)})
        directory = Path(script).parent / Path(spec.workdir).expanduser()
    require_source(directory, spec, start=("ugro", "estimate"))
    return Training(spec.args, spec.vram, run_of(spec), spec.gpus)


@dataclass(frozen=True)
class SpecRead:
    """A job spec that was read, and what its project added to it, in words."""

    spec: JobSpec
    note: str = ""


def read_spec(said: LaunchLine, default: Callable[[], DefaultScriptDocument], projects: bool = True) -> SpecRead:
    """Return the job spec of any of the three forms.

    Options on the command line win over the file, and that over the defaults of the project, if these count at all.

    Raises:
        InputError, JobSpecError: with what is wrong and what is expected.
    """
    given = given_fields(said.options)
    if said.words and not said.words[0].startswith("-"):
        return _named(said, given, projects)
    if _is_command(said, given):
        program, *words = said.script_args
        project = find_project(Path()) if projects else None
        as_typed = {"script": _in_place(program, project), "no_python": True, "launcher": "none"}
        return _launched(project, given | as_typed | {"args": tuple(words)})
    if "module" in given or "no_python" in given:
        raise InputError("no module or program is named", "name it: ugro launch -m pkg.train")
    project = find_project(Path()) if projects else None
    args = (*said.words, *said.script_args)
    if project and "script" in project.fields:
        return _launched(project, {"args": args, **given})
    found = default()
    if not found.script:
        raise InputError(
            "no script is named",
            _after_options(said) or f"ugro launch train.py, or set defaults: script: in {found.inventory}",
        )
    return _launched(project, {"script": _relative(found.script, project), "args": args, **given})


def _launched(project: Project | None, fields: dict[str, Any]) -> SpecRead:
    """Return the spec of a job with these fields, and the defaults of its project beneath them. None: not that."""
    if project is None:
        return SpecRead(job_spec(**fields))
    own = fields | {other: None for one, other in COUNTS if one in fields and other not in fields}
    workdir = {"workdir": os.path.relpath(project.workdir)}
    return SpecRead(job_spec(**(workdir | project.beneath(own))), project.words(own))


def _is_command(said: LaunchLine, given: dict[str, Any]) -> bool:
    """Return whether what stands after `--` is a plain command; else it is arguments of the default script.

    Raises:
        InputError: it is, and options speak of another launcher.
    """
    if said.words or not said.script_args or said.script_args[0].startswith("-"):
        return False
    if "module" in given or "no_python" in given:
        return False  # then what they mean is missing
    if given.get("launcher") not in (None, "none"):
        better = line(Path(), Foreign(said.script_args[0], said.script_args[1:]), said.start)
        told = f"after -- stands a command, and --launcher {given['launcher']} starts a script"
        raise InputError(told, f"name the script first: {better}")
    return True


def _in_place(program: str, project: Project | None) -> str:
    """Return a program of a command; one inside the folder that is sent as a path from there."""
    if "/" not in program:
        return program  # in PATH
    found = _relative(program, project)
    return program if found == program else f"./{found}"


def given_fields(options: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a spec that options give."""
    given = {key: value for key, value in options.items() if value not in (None, ())}
    rules = {key: given.pop(name) for name, key in (("checkpoints", "dir"), ("resume_with", "resume")) if name in given}
    given |= {"checkpoints": rules} if rules else {}
    given |= {key: _span(key, given[key]) for key in ("time_limit", "time_warning", "grace") if key in given}
    if "after" in given:
        given["after"] = tuple(word.strip() for words in given["after"] for word in words.split(","))
    if "sweep" in given:
        given["sweep"] = _sweep(given["sweep"])
    files = [Path(name).expanduser() for name in given.pop("env_file", ())]
    if files or "env" in given:
        from_files = read_env_files(files, given.get("gpus_per_node") != 0)
        given["env"] = from_files | dict(map(_variable, given.get("env", ())))
    return given


def _named(said: LaunchLine, given: dict[str, Any], projects: bool) -> SpecRead:
    """Return the spec of a launch that names a script, a module, a program or a job.yaml."""
    first, *rest = said.words
    what = Foreign(first, (*rest, *said.script_args), bool(given.get("module")), bool(given.get("no_python")))
    if rest:
        if instead := translated(Path(), (*said.words, *said.script_args), what, said.start):
            raise InputError(f"{printable(first)!r} is no script of {Path.cwd()}", instead)
        better = f"put the script's arguments after --: {line(Path(), what, said.start)}"
        raise InputError(
            f"{printable(rest[0])!r} is not an option of `ugro launch`", _meant(rest[0], said.known) + better
        )
    if Path(first).suffix in (".yaml", ".yml") and not (what.module or what.no_python):
        return _from_file(Path(first), said.script_args, given, projects)
    project = find_project(Path()) if projects else None
    script = first if what.module else _in_place(first, project) if what.no_python else _relative(first, project)
    return _launched(project, {"script": script, "args": said.script_args, **given})


def _from_file(path: Path, script_args: tuple[str, ...], given: dict[str, Any], projects: bool) -> SpecRead:
    spec = load_job_spec(path)
    own = spec.model_dump(exclude_unset=True)
    own = {key: value for key, value in own.items() if key not in ("env", "secrets")}
    merged = laid_over(given, {"env": spec.env, "secrets": spec.secrets})
    if "checkpoints" in given:
        merged["checkpoints"] = own.get("checkpoints", {}) | given["checkpoints"]
    merged |= {other: None for one, other in COUNTS if one in given and other not in given}
    # as the file says it, from where the file is
    merged["workdir"] = str(path.parent / Path(spec.workdir).expanduser())
    own |= given | merged | {"args": (*spec.args, *script_args)}
    return _launched(find_project(path.parent) if projects else None, own)


def _after_options(said: LaunchLine) -> str:
    """Return the command where the script stands behind options that are its own; nothing where none of them is one."""
    for number, word in enumerate(said.words):
        if word.endswith((".py", ".sh", ".yaml", ".yml")) and os.path.isfile(word):
            args = (*said.words[:number], *said.words[number + 1 :], *said.script_args)
            return f"put the script's arguments after --: {line(Path(), Foreign(word, args), said.start)}"
    return ""


def _variable(text: str) -> tuple[str, str]:
    """A variable and its value; the one of this shell for a name alone.

    Raises:
        InputError: it is neither NAME=VALUE nor the name of a variable that is set here.
    """
    name, equals, value = text.partition("=")
    after = "the script's own --env goes after --"
    if not name or not (equals or ENV_NAME.fullmatch(name)):
        expected = "NAME=VALUE, or the NAME of a variable to forward, is expected"
        raise InputError(f"--env {printable(name)!r}: {expected}", f"{after}: ugro launch train.py -- --env …")
    try:
        return name, value if equals else forwarded(name)
    except NotSet as error:
        raise InputError(f"--env {name}: {error.message}", f"{error.hint}; {after}") from None


def _sweep(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The values of a sweep by argument.

    Raises:
        InputError: one is not ARG=VALUES, or an argument is given twice.
    """
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.lstrip("-")
        if not (equals and name):
            expected = "for example: --sweep lr=1e-3,1e-4"
            raise InputError(f"--sweep {printable(text)!r}: ARG=VALUES is expected", expected)
        if name in found:
            hint = f"name all values at once: --sweep {printable(name)}={printable(','.join(found[name]))},…"
            raise InputError(f"--sweep {printable(name)} is given twice", hint)
        try:
            found[name] = sweep_values(values)
        except ValueError as error:
            raise JobSpecError(f"--sweep {printable(text)}: {error}", OPTIONS_HINT) from None
    if (jobs := math.prod(map(len, found.values()))) > MOST_JOBS:
        raise JobSpecError(
            f"--sweep: these values make {jobs:,} jobs; at most {MOST_JOBS} jobs are a sweep", OPTIONS_HINT
        )
    return found


def _span(key: str, text: str) -> float:
    """Seconds of a duration on the command line, where a bare number counts minutes, as in Slurm.

    Raises:
        JobSpecError: it is none.
    """
    try:
        return parse_duration(text, bare="m")
    except ValueError as error:
        raise JobSpecError(
            f"--{OPTIONS.get(key, key).replace('_', '-')}: found {text!r}: {error}", OPTIONS_HINT
        ) from None


def _meant(word: str, known: Sequence[str]) -> str:
    """Return the option of `ugro launch` that was mistyped, as a question; nothing where none is like it."""
    near = difflib.get_close_matches(word.partition("=")[0], known, 1, ALIKE) if word.startswith("--") else []
    return f"did you mean {near[0]}? Else " if near else ""


def _relative(script: str, project: Project | None) -> str:
    """A script inside the folder that is sent as a path from there; others are left for the spec to refuse."""
    path, folder = Path(script), project.workdir if project else Path.cwd()
    if not path.is_absolute() and folder == Path.cwd():
        return script
    path = Path(os.path.abspath(path))
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else script
