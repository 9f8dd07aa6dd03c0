"""Read a job spec from a job.yaml or a command line. An error names file and line, or the option."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ugro.common.errors import JobSpecError
from ugro.common.fields import names_itself, without_effect
from ugro.common.job_spec import environment
from ugro.common.job_spec.spec import JobSpec
from ugro.common.metric_pattern import try_out
from ugro.common.mistakes import Location, and_more, mistakes
from ugro.common.units import check_vram
from ugro.common.yaml_files import describe_in_file, line_of, read_yaml, stands

OPTIONS = {"time_limit": "time", "secrets": "secret"}
"""What a field of a job is called on the command line, where that is not its own name."""

PATTERN_HINT = "name what stands between the values, as in `loss: (?P<loss>[^ ]+)`, instead of several `.*`"
_ENV_HINT = "leave it out; GPUs and nodes are chosen by --gpus-per-node and --nodes"
_ITSELF_HINT = "write the value out, or let your shell do it: of --env it expands $NAME in double quotes"
OPTIONS_HINT = "see: ugro launch --help"


def load_job_spec(path: Path) -> JobSpec:
    """Read and check a job.yaml.

    Raises:
        JobSpecError: with file, line, field, what was found and what is expected.
    """
    document = read_yaml(path, JobSpecError)
    environment.resolve(document, path)

    def place(where: Location) -> Location:
        """Return the place in the file: the script may be the name of a module, or the first word of a command."""
        if where[:1] in (("script",), ("args",)) and stands(document, ("command",)):
            inside = ("command", 0 if where[0] == "script" else 1 + int(where[1])) if len(where) < 3 else ("command",)
            return inside if stands(document, inside) else ("command",)
        named = where == ("script",) and not stands(document, where) and stands(document, ("module",))
        return ("module",) if named else where

    try:
        spec = JobSpec.model_validate(document)
    except ValidationError as error:
        fields = [*JobSpec.model_fields, environment.FILES_KEY]
        keys = {word: key for key in fields for word in (key, OPTIONS.get(key, key))}
        keys |= {"command": "command"}
        raise JobSpecError(describe_in_file(error, path, document, keys, place)) from None
    if spec.metrics.pattern:
        try:
            try_out(spec.metrics.pattern)
        except ValueError as error:
            line = line_of(document, ("metrics", "pattern")) or line_of(document, ("metrics",)) or 1
            raise JobSpecError(f"{path}:{line}: metrics.pattern: {error}", PATTERN_HINT) from None
    for name, reason in _without_effect(spec).items():
        raise JobSpecError(
            f"{path}:{line_of(document, ('env', name)) or 1}: env.{name}: {reason}", _env_hint(spec, name)
        )
    return spec


def job_spec(**fields: Any) -> JobSpec:
    """Build a job spec from command-line values.

    Raises:
        JobSpecError: a value is wrong; the message names its option.
    """
    try:
        spec = JobSpec.model_validate({key: value for key, value in fields.items() if value is not None})
    except ValidationError as error:
        found = mistakes(error)
        raise JobSpecError(f"{_option(found[0].where)}: {found[0].text}{and_more(found)}", OPTIONS_HINT) from None
    try:
        check_vram(spec.vram or 0)  # not a rule of the record: what was once submitted stays readable
    except ValueError as error:
        raise JobSpecError(f"--vram: {error}", OPTIONS_HINT) from None
    for name, reason in _without_effect(spec).items():
        raise JobSpecError(f"--env {name}: {reason}", _env_hint(spec, name))
    return spec


def _without_effect(spec: JobSpec) -> dict[str, str]:
    return without_effect(spec.env, gpus=spec.gpus_per_node != 0, launcher=None if spec.one_process else spec.launcher)


def _env_hint(spec: JobSpec, name: str) -> str:
    return _ITSELF_HINT if names_itself(name, spec.env[name]) else _ENV_HINT


def _option(where: Location) -> str:
    """Return a field of a job as the command line names it."""
    field = str(where[0])
    if field in ("script", "workdir"):
        return field
    if field == "args" and len(where) > 1:
        return f"argument {int(where[1]) + 1} of the script"
    if where[:2] == ("checkpoints", "resume"):
        return "--resume-with"
    return "--" + OPTIONS.get(field, field).replace("_", "-")
