"""The job spec: a job as requested on the command line or in a job.yaml."""

from __future__ import annotations

import difflib
import os
import re
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ugro.common.causes import CAUSES
from ugro.common.errors import JobSpecError
from ugro.common.fields import (
    NAME,
    WHOLE,
    Config,
    Env,
    Flag,
    Line,
    Mib,
    Moment,
    Name,
    Seconds,
    Text,
    Whole,
    is_flag,
    whole,
    without_effect,
)
from ugro.common.metric_pattern import compiled, try_out
from ugro.common.mistakes import Location, Misplaced, and_more, mistakes
from ugro.common.units import check_vram
from ugro.common.yaml_files import describe_in_file, line_of, read_yaml, stands

JOB_ID = re.compile(r"job-[0-9]+")
PRIORITIES = (-1000, 1000)
OPTIONS = {"time_limit": "time"}
"""What a field of a job is called on the command line, where that is not its own name."""


def _dependency(value: str) -> str:
    job, _, when = value.partition(":")
    if not NAME.fullmatch(job) or when not in ("", *DEPENDENCIES):
        raise ValueError(f"a job is expected, or JOB:{' or JOB:'.join(DEPENDENCIES)}")
    return value


def _cause(value: str) -> str:
    if value not in CAUSES:
        near = difflib.get_close_matches(value, CAUSES, 1)
        raise ValueError(f"a cause of failure is expected: {', '.join(near or CAUSES)}")
    return value


DEPENDENCIES = ("success", "failure", "any")
"""How the job that is waited for has to end; `success` unless another is said."""

Dependency = Annotated[str, AfterValidator(_dependency)]
Cause = Annotated[str, AfterValidator(_cause)]


class HangAfter(Config):
    """Bounds of the silence, in seconds, after which a job can count as hung."""

    min: Seconds = Field(default=600.0, description="Shortest silence that can be a hang, and time without any work")
    max: Seconds = Field(default=7200.0, validate_default=True, description="Longest silence that is waited for")

    @field_validator("max")
    @classmethod
    def _not_below_min(cls, value: float, info: ValidationInfo) -> float:
        if value < info.data.get("min", 0.0):
            raise ValueError("a duration that is not shorter than 'min' is expected")
        return value


def _resume_template(value: str) -> str:
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise ValueError(f"not words as a shell reads them: {error}") from None
    if words and sum(word.count("{path}") for word in words) != 1:
        raise ValueError("{path} is expected in it once, as in '--resume_from_checkpoint {path}'")
    return value


Action = Literal["ask", "retry", "fail"]
"""What is done about a failure: propose and wait, try again without a question, nothing."""


class FailurePolicy(Config):
    """Retry policy of a job. `causes` overrides it for single causes: standing consent, or none.

    Of retries without a question there are at most `max_retries`; the first comes `backoff` seconds after the failure,
    and each one after twice as long as the one before.
    """

    default: Action = Field(default="ask", description="For every cause that `causes` does not name")
    causes: dict[Cause, Action] = Field(default_factory=dict, description="For single [causes](causes.md)")
    max_retries: Annotated[Whole, Field(ge=0, le=1000)] = Field(
        default=3, description="Retries without a question; after them UGRO asks"
    )
    backoff: Seconds = Field(default=30.0, description="Wait before the first retry; doubled with each one more")

    def action(self, cause: str) -> str:
        """Return the action for a failure of this cause."""
        return self.causes.get(cause, self.default)


class CheckpointRules(Config):
    """Where a job's checkpoints are, how its script resumes from one, and which copies the master keeps.

    `dir` is absolute, begins with `~/`, or is relative to the job's code; `pattern` is a glob of paths below it.
    `resume` are the arguments that a resumed script gets, with {path}; UGRO_RESUME_FROM is also set. The master keeps
    the last `keep_last` copies, and those of every `keep_every` steps.
    """

    dir: Line = Field(default="", description="Where the script saves: absolute, `~/…`, or relative to the code")
    pattern: Line = Field(default="", description="Glob of paths below `dir`; default: what the usual tools write")
    resume: Annotated[Text, AfterValidator(_resume_template)] = Field(
        default="", description="Words for a resumed script, with `{path}` once: `--resume_from_checkpoint {path}`"
    )
    keep_last: Annotated[Whole, Field(ge=1)] = Field(default=3, description="Newest copies that the master keeps")
    keep_every: Annotated[Whole, Field(ge=1)] | None = Field(
        default=None, description="Also keep the copies of every so many steps"
    )


def _metric_pattern(value: str) -> str:
    if value:
        compiled(value)
    return value


class MetricsRules(Config):
    """How metrics are read from a job's log where it has a format that UGRO does not know.

    Each named group of `pattern` is a series; the groups `step` and `epoch` say where. `ugro metrics --try` tries it.
    """

    pattern: Annotated[Line, AfterValidator(_metric_pattern)] = Field(
        default="", description=r"Regular expression with named groups: `step (?P<step>\d+).*loss (?P<loss>\S+)`"
    )


class JobSpec(Config):
    """What to run, frozen at submission as `spec.json`; only its time limit may be extended since.

    Durations are in seconds, `not_before` in seconds since the epoch, `vram` in MiB.
    """

    module: Flag = Field(
        default=False, description="`script` is a module, as for `python -m`; a file may say `module: pkg.train` alone"
    )
    no_python: Flag = Field(default=False, description="`script` is a program: `./train.sh`, or one in the nodes' PATH")
    script: Line = Field(description="What runs: a file inside `workdir`, a module or a program")
    args: tuple[Text, ...] = Field(default=(), description="Arguments of the script")
    name: Name | None = Field(default=None, description="What to call the job; default: its id")
    nodes: int | tuple[Name, ...] | None = Field(
        default=None, description="How many nodes, or which; default: all of them"
    )
    gpus_per_node: Annotated[Whole, Field(ge=0)] | None = Field(
        default=None, description="GPUs of each node; 0: one CPU rank; default: all GPUs of a node"
    )
    env: Env = Field(default_factory=dict, description="Environment of every rank; wins over that of the inventory")
    workdir: Line = Field(default=".", description="Folder that is sent to the nodes, relative to the job file's")
    priority: Annotated[Whole, Field(ge=PRIORITIES[0], le=PRIORITIES[1])] = Field(
        default=0, description="Higher starts sooner"
    )
    hold: Flag = Field(default=False, description="Submit it held: it waits for `ugro release`")
    after: tuple[Dependency, ...] = Field(
        default=(), description="Start once these jobs ended: `JOB` (succeeded), `JOB:failure`, `JOB:any`"
    )
    not_before: Moment | None = Field(default=None, description="Do not start earlier")
    time_limit: Seconds | None = Field(
        default=None, description="End it after so long of running; `--time` on the command line"
    )
    time_warning: Seconds | None = Field(
        default=None,
        description="SIGUSR2 to the ranks so long before the limit; default: a tenth of it, at most 5m",
    )
    grace: Seconds | None = Field(
        default=None, description="Time for processes that are still running after the job succeeded. Default: none"
    )
    vram: Mib | None = Field(default=None, description="Memory that each of its GPUs has to give")
    hang_after: HangAfter | None = Field(default=None, description="Bounds of the watchdog's patience")
    checkpoints: CheckpointRules = Field(
        default_factory=CheckpointRules, description="Where checkpoints are and which are kept; text alone is `dir`"
    )
    metrics: MetricsRules = Field(
        default_factory=MetricsRules, description="How metrics are read from its log; text alone is `pattern`"
    )
    on_failure: FailurePolicy = Field(
        default_factory=FailurePolicy, description="What is done when it fails; a word alone is `default`"
    )
    schema_version: Annotated[Literal[1], BeforeValidator(whole)] = Field(
        default=1, description="Version of this format"
    )

    @model_validator(mode="before")
    @classmethod
    def _module_by_name(cls, fields: object) -> object:
        if isinstance(fields, dict) and isinstance(fields.get("module"), str) and not is_flag(fields["module"]):
            if fields.get("script") is not None:
                raise Misplaced(("module",), "either a 'script' or a 'module' is expected, not both")
            return fields | {"script": fields["module"], "module": True}
        return fields

    @field_validator("no_python")
    @classmethod
    def _no_module_without_python(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("module"):
            raise ValueError("Python runs a module, so it goes without 'module'")
        return value

    @field_validator("name")
    @classmethod
    def _name_is_no_id(cls, value: str | None) -> str | None:
        if value is not None and JOB_ID.fullmatch(value):
            raise ValueError("names like job-001 are ids, which UGRO gives itself")
        return value

    @field_validator("nodes", mode="before")
    @classmethod
    def _nodes_from_text(cls, value: object) -> object:
        if isinstance(value, str):
            value = int(value) if WHOLE.fullmatch(value.strip()) else [name.strip() for name in value.split(",")]
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
            return value
        names = value if isinstance(value, (list, tuple)) else ()
        if not names or not all(isinstance(name, str) and NAME.fullmatch(name) for name in names):
            raise ValueError("a number of nodes, or their names, is expected")
        if len(set(names)) < len(names):
            raise ValueError("a node is named twice")
        return tuple(names)

    @field_validator("on_failure", mode="before")
    @classmethod
    def _policy_from_words(cls, value: object) -> object:
        """Read `retry`, or words of the command line such as `ask` and `peer_lost=retry`."""
        words = [value] if isinstance(value, str) else value
        if not isinstance(words, (list, tuple)):
            return value
        if not words or not all(isinstance(word, str) for word in words):
            raise ValueError("keys with values, or words such as ask and oom=fail, are expected")
        policy: dict[str, Any] = {"causes": {}}
        for word in words:
            cause, equals, action = word.partition("=")
            if equals:
                policy["causes"][cause] = action
            else:
                policy["default"] = cause
        return policy

    @field_validator("checkpoints", mode="before")
    @classmethod
    def _checkpoints_from_text(cls, value: object) -> object:
        return {"dir": value} if isinstance(value, str) else value

    @field_validator("metrics", mode="before")
    @classmethod
    def _metrics_from_text(cls, value: object) -> object:
        return {"pattern": value} if isinstance(value, str) else value

    @field_validator("after", mode="before")
    @classmethod
    def _after_from_text(cls, value: object) -> object:
        return [word.strip() for word in value.split(",")] if isinstance(value, str) else value

    @field_validator("after")
    @classmethod
    def _after_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple({entry.removesuffix(":success"): entry for entry in value}.values())

    @field_validator("time_warning")
    @classmethod
    def _warning_within_limit(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and "time_limit" in info.data and value > (info.data["time_limit"] or 0.0):
            raise ValueError("a time limit that is at least as long is needed with it")
        return value

    @property
    def warning_seconds(self) -> float | None:
        """Return how long before its limit a job is warned: as requested, else a tenth of the limit, at most 5 min."""
        if self.time_limit is None:
            return None
        return min(self.time_limit, self.time_warning or min(300.0, self.time_limit / 10))

    @field_validator("script")
    @classmethod
    def _script_inside(cls, value: str, info: ValidationInfo) -> str:
        path, foreign = Path(value), bool(info.data.get("no_python"))  # a program may be the node's own
        if info.data.get("module"):
            is_file = path.suffix in (".py", ".sh", ".yaml", ".yml")
            if is_file or not all(part.isidentifier() for part in value.split(".")):
                raise ValueError("the name of a module is expected, as in pkg.train")
        elif not value or value.startswith("-") or ".." in path.parts or (path.is_absolute() and not foreign):
            raise ValueError("a path inside the working directory is expected")
        return value

    @property
    def command(self) -> tuple[str, ...]:
        """Return the command in torchrun's form: `-m pkg.train …`, `--no-python ./train.sh …`, `train.py …`."""
        how = ("-m",) if self.module else ("--no-python",) if self.no_python else ()
        return (*how, self.script, *self.args)

    def source(self, directory: Path) -> str | None:
        """Return the file that runs, as a path in the working directory.

        None: it is not there. A module may be installed on the nodes, and a program of theirs have no path.
        """
        if self.module:
            path = self.script.replace(".", "/")
            choices = [f"{path}.py", f"{path}/__main__.py"]
        else:
            choices = [self.script] if not self.no_python or _in_directory(self.script) else []
        return next((os.path.normpath(choice) for choice in choices if (directory / choice).is_file()), None)


def _in_directory(program: str) -> bool:
    """Return whether a program is searched from the working directory, and not in PATH or elsewhere."""
    return "/" in program and not program.startswith("/")


def load_job_spec(path: Path) -> JobSpec:
    """Read and check a job.yaml.

    Raises:
        JobSpecError: with file, line, field, what was found and what is expected.
    """
    document = read_yaml(path, JobSpecError)

    def place(where: Location) -> Location:
        """Return the place in the file: the script may be the name of a module."""
        named = where == ("script",) and not stands(document, where) and stands(document, ("module",))
        return ("module",) if named else where

    try:
        spec = JobSpec.model_validate(document)
    except ValidationError as error:
        keys = {word: key for key in JobSpec.model_fields for word in (key, OPTIONS.get(key, key))}
        raise JobSpecError(describe_in_file(error, path, document, keys, place)) from None
    if spec.metrics.pattern:
        try:
            try_out(spec.metrics.pattern)
        except ValueError as error:
            line = line_of(document, ("metrics", "pattern")) or line_of(document, ("metrics",)) or 1
            raise JobSpecError(f"{path}:{line}: metrics.pattern: {error}", PATTERN_HINT) from None
    for name, reason in _without_effect(spec).items():
        raise JobSpecError(f"{path}:{line_of(document, ('env', name)) or 1}: env.{name}: {reason}", _ENV_HINT)
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
        raise JobSpecError(f"{_option(found[0].where)}: {found[0].text}{and_more(found)}") from None
    try:
        check_vram(spec.vram or 0)  # not a rule of the record: what was once submitted stays readable
    except ValueError as error:
        raise JobSpecError(f"--vram: {error}") from None
    for name, reason in _without_effect(spec).items():
        raise JobSpecError(f"--env {name}: {reason}", _ENV_HINT)
    return spec


PATTERN_HINT = "name what stands between the values, as in `loss: (?P<loss>[^ ]+)`, instead of several `.*`"
_ENV_HINT = "leave it out; GPUs and nodes are chosen by --gpus-per-node and --nodes"


def _without_effect(spec: JobSpec) -> dict[str, str]:
    return without_effect(spec.env, gpus=spec.gpus_per_node != 0)


def _option(where: Location) -> str:
    """Return a field of a job as the command line names it."""
    field = str(where[0])
    if field in ("script", "workdir"):
        return field
    if field == "args" and len(where) > 1:
        return f"argument {int(where[1]) + 1} of the script"
    return "--" + OPTIONS.get(field, field).replace("_", "-")
