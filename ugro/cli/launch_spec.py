"""What `ugro launch` is asked for: its words and options as a job spec, or the command that was meant."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ugro.cli.app import App
from ugro.common.errors import InputError, JobSpecError
from ugro.common.job_spec import OPTIONS, JobSpec, job_spec, load_job_spec
from ugro.common.text import printable
from ugro.common.units import parse_duration
from ugro.control_plane.scheduler.launch_line import START, Foreign, line, translated

ALIKE = 0.7
"""How alike a word and an option are, of 1, for the option to be what was meant."""


def line_so_far(ctx: click.Context) -> list[str]:
    """The command with the options that were given, as words: what a better command line begins with.

    How a script is run is left out: that is part of what may be wrong.
    """
    groups = [ctx.find_root(), ctx]
    words = []
    for group in groups:
        words.append(group.info_name or "")
        for param in group.command.params:
            name = param.name or ""
            given = group.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE
            if not given or not isinstance(param, click.Option) or name in ("module", "no_python"):
                continue
            value = group.params[name]
            for each in value if param.multiple else [value]:
                words += [param.opts[-1]] if param.is_flag else [param.opts[-1], str(each)]
    return words


def read_spec(
    app: App,
    words: tuple[str, ...],
    script_args: tuple[str, ...],
    options: dict[str, Any],
    start: Sequence[str] = START,
) -> JobSpec:
    """The job spec of any of the three forms; options on the command line win over the file.

    A command that would do where this one cannot be meant begins with `start`.

    Raises:
        InputError, JobSpecError: with what is wrong and what is expected.
    """
    given = {key: value for key, value in options.items() if value not in (None, ())}
    rules = {key: given.pop(name) for name, key in (("checkpoints", "dir"), ("resume_with", "resume")) if name in given}
    given |= {key: _span(key, given[key]) for key in ("time_limit", "time_warning", "grace") if key in given}
    if "after" in given:
        given["after"] = tuple(_by_id(app, word.strip()) for words in given["after"] for word in words.split(","))
    if "env" in given:
        given["env"] = dict(map(_variable, given["env"]))
    if words and not words[0].startswith("-"):
        first, *rest = words
        said = Foreign(first, (*rest, *script_args), bool(given.get("module")), bool(given.get("no_python")))
        if rest:
            if instead := translated(Path(), (*words, *script_args), said, start):
                raise InputError(f"{printable(first)!r} is no script of {Path.cwd()}", instead)
            raise InputError(
                f"{printable(rest[0])!r} is not an option of `ugro launch`",
                f"{_meant(rest[0])}what the script should get stands after --: {line(Path(), said, start)}",
            )
        if Path(first).suffix in (".yaml", ".yml") and not (said.module or said.no_python):
            spec = load_job_spec(Path(first))
            given = {"after": tuple(_by_id(app, word) for word in spec.after)} | given
            given["env"] = spec.env | given.get("env", {})
            # as the file says it, from where the file is
            workdir = str(Path(first).parent / Path(spec.workdir).expanduser())
            if rules:
                given["checkpoints"] = spec.checkpoints.model_dump() | rules
            return job_spec(**(spec.model_dump() | given | {"args": (*spec.args, *script_args), "workdir": workdir}))
        script = first if given.get("module") else _relative(first)
        if given.get("no_python") and script != first:
            script = f"./{script}"  # a name alone would be looked for in PATH
        return job_spec(script=script, args=script_args, checkpoints=rules or None, **given)
    if "module" in given or "no_python" in given:
        raise InputError("no module or program is named", "name it: ugro launch -m pkg.train")
    default = app.inventory.script
    if not default:
        raise InputError(
            "no script is named",
            _after_options(words, script_args, start)
            or f"ugro launch train.py, or set defaults: script: in {app.inventory.path}",
        )
    return job_spec(script=_relative(default), args=(*words, *script_args), checkpoints=rules or None, **given)


def _after_options(words: tuple[str, ...], script_args: tuple[str, ...], start: Sequence[str]) -> str:
    """The command line where the script stands behind options that are its own; nothing where none of them is one."""
    for number, word in enumerate(words):
        if word.endswith((".py", ".sh", ".yaml", ".yml")) and Path(word).is_file():
            args = (*words[:number], *words[number + 1 :], *script_args)
            return f"what the script should get stands after --: {line(Path(), Foreign(word, args), start)}"
    return ""


def _variable(text: str) -> tuple[str, str]:
    """A variable and its value.

    Raises:
        InputError: it is not NAME=VALUE.
    """
    name, equals, value = text.partition("=")
    if not (equals and name):
        hint = "a script's own option of that name stands after --: ugro launch train.py -- --env …"
        raise InputError(f"--env {printable(text)!r}: NAME=VALUE is expected", hint)
    return name, value


def _span(key: str, text: str) -> float:
    """Seconds of a duration on the command line, where a bare number counts minutes, as in Slurm.

    Raises:
        JobSpecError: it is none.
    """
    try:
        return parse_duration(text, bare="m")
    except ValueError as error:
        raise JobSpecError(f"--{OPTIONS.get(key, key).replace('_', '-')}: found {text!r}: {error}") from None


def _meant(word: str) -> str:
    """The option of `ugro launch` that somebody mistyped, as a question; nothing where none is like it."""
    options = [
        name for param in click.get_current_context().command.params for name in param.opts if name.startswith("--")
    ]
    near = difflib.get_close_matches(word.partition("=")[0], options, 1, ALIKE) if word.startswith("--") else []
    return f"did you mean {near[0]}? Else " if near else ""


def _relative(script: str) -> str:
    """A script inside the working directory as a path from there; others are left for the spec to refuse."""
    path = Path(script)
    return str(path.relative_to(Path.cwd())) if path.is_absolute() and path.is_relative_to(Path.cwd()) else script


def _by_id(app: App, dependency: str) -> str:
    """A dependency with the id of its job, which stays the same when another job gets the name."""
    name, colon, when = dependency.partition(":")
    return f"{app.store.jobs.find(name).id}{colon}{when}"
