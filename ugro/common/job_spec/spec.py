"""The job spec itself: what to run, where, when, and what is done about a failure."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from ugro.common.fields import (
    NAME,
    TOKEN_NAME,
    WHOLE,
    Config,
    Env,
    Flag,
    Line,
    Mib,
    Moment,
    Name,
    Seconds,
    Secrets,
    Text,
    Whole,
    is_flag,
    variables_of,
    whole,
)
from ugro.common.job_spec.launchers import ONE_PROCESS, Launcher, check_options, words_of_command
from ugro.common.job_spec.rules import (
    BY_VRAM,
    CheckpointRules,
    Dependency,
    FailurePolicy,
    HangAfter,
    MetricsRules,
    OutputGlob,
    Share,
    Sweep,
    policy_from_words,
)
from ugro.common.job_spec.setup import ENVIRONMENT, Python, Setup, setup_from_text
from ugro.common.mistakes import Misplaced

JOB_ID = re.compile(r"job-[0-9]+")
PRIORITIES = (-1000, 1000)


class JobSpec(Config):
    """What to run, frozen at submission as `spec.json`; only its time limit may be extended since.

    Durations are in seconds, `not_before` in seconds since the epoch, `vram` in MiB.
    """

    module: Flag = Field(
        default=False, description="`script` is a module, as for `python -m`; a file may say `module: pkg.train` alone"
    )
    no_python: Flag = Field(default=False, description="`script` is a program: `./train.sh`, or one in the nodes' PATH")
    launcher: Launcher = Field(
        default="torchrun",
        validate_default=True,
        description="What starts it on each node; `python` and `none`: one process, without rank variables",
    )
    launcher_args: tuple[Text, ...] = Field(default=(), description="Options of the launcher, also as one text")
    script: Line = Field(
        description="What runs: a file inside `workdir`, a module or a program; instead of it, its `args` and the"
        " launcher `none` a file may say `command: [bash, train.sh]`, or a text for bash"
    )
    args: tuple[Text, ...] = Field(default=(), description="Arguments of the script")
    name: Name | None = Field(default=None, description="What to call the job; default: its id")
    nodes: int | tuple[Name, ...] | None = Field(
        default=None, description="How many nodes, or which; default: all of them"
    )
    gpus: Annotated[Whole, Field(ge=1)] | None = Field(
        default=None, description="GPUs in all, placed on as few nodes as possible (within `nodes`)"
    )
    gpus_per_node: Annotated[Whole, Field(ge=0)] | None = Field(
        default=None, description="GPUs of each node; 0: one CPU rank; default: all GPUs of a node"
    )
    env: Env = Field(default_factory=dict, description="Environment of every rank; wins over that of the inventory")
    secrets: Secrets = Field(
        default=(), description="Variables whose values `ugro secret set` keeps: `NAME`, or `VARIABLE=NAME`"
    )
    python: Python | None = Field(
        default=None,
        description="Python on the nodes: a path, a conda environment, or `uv`; default: the inventory's `python`",
    )
    setup: Setup | None = Field(
        default=None, validate_default=True, description="Command that sets the environment up; text alone is `run`"
    )
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
    share: Share = Field(
        default=None,
        description="Share one GPU with other jobs: a fraction of its memory, or `true` with `vram`; default: alone",
    )
    hang_after: HangAfter | None = Field(default=None, description="Bounds of the watchdog's patience")
    checkpoints: CheckpointRules = Field(
        default_factory=CheckpointRules, description="Where checkpoints are and which are kept; text alone is `dir`"
    )
    outputs: tuple[OutputGlob, ...] = Field(
        default=(),
        description="Globs of the files that are its results, relative to `workdir` on the nodes: `[out/**]`;"
        " they come to the master after success",
    )
    metrics: MetricsRules = Field(
        default_factory=MetricsRules, description="How metrics are read from its log; text alone is `pattern`"
    )
    on_failure: FailurePolicy = Field(
        default_factory=FailurePolicy, description="What is done when it fails; a word alone is `default`"
    )
    sweep: Sweep = Field(
        default_factory=dict,
        description="One job for each combination: `{lr: [1e-3, 1e-4], seed: 1..3}`; `--sweep` on the command line",
    )
    max_parallel: Annotated[Whole, Field(ge=1)] | None = Field(
        default=None, description="Jobs of the sweep that run at a time; default: as many as there is room for"
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

    @model_validator(mode="before")
    @classmethod
    def _plain_command(cls, fields: object) -> object:
        """Read `command`: words, or a text for a shell, as the program and the arguments of the launcher `none`."""
        if not isinstance(fields, dict) or (given := fields.get("command")) is None:
            return fields
        other = next((key for key in ("script", "module", "args", "no_python") if fields.get(key) is not None), None)
        if other:
            raise Misplaced(("command",), f"it says all that runs, and goes without {other!r}")
        if fields.get("launcher") not in (None, "none"):
            raise Misplaced(("launcher",), "a 'command' has the launcher none; others start a 'script' or a 'module'")
        try:
            words = words_of_command(given)
        except ValueError as error:
            raise Misplaced(("command",), str(error)) from None
        rest = {key: value for key, value in fields.items() if key != "command"}
        return rest | {"script": words[0], "args": list(words[1:]), "no_python": True, "launcher": "none"}

    @field_validator("launcher_args", mode="before")
    @classmethod
    def _options_from_text(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return shlex.split(value)
        except ValueError as error:
            raise ValueError(f"not words as a shell reads them: {error}") from None

    @field_validator("launcher")
    @classmethod
    def _launcher_of_what_runs(cls, value: str, info: ValidationInfo) -> str:
        program = info.data.get("no_python")
        if value == "none" and program is False:
            raise ValueError("it runs a command as typed; for a Python script or module: python")
        if value == "python" and program:
            raise ValueError("it runs a Python script or module; for a program: none")
        return value

    @field_validator("launcher_args")
    @classmethod
    def _launcher_knows(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if "launcher" in info.data:
            check_options(info.data["launcher"], value)
        return value

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

    @field_validator("secrets")
    @classmethod
    def _no_variable_twice(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if both := [name for name in variables_of(value) if name in info.data.get("env", {})]:
            raise Misplaced((), f"{both[0]} is in 'env' too, and a variable has one value: leave one out")
        return value

    @property
    def secret_names(self) -> dict[str, str]:
        """Return the names of its secrets, by the variable that has the value."""
        return variables_of(self.secrets)

    @property
    def tokens(self) -> frozenset[str]:
        """Return those names of its secrets that are tokens."""
        return frozenset(filter(TOKEN_NAME.fullmatch, self.secret_names.values()))

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

    @field_validator("gpus")
    @classmethod
    def _enough_for_nodes(cls, value: int | None, info: ValidationInfo) -> int | None:
        nodes = info.data.get("nodes")
        if value is not None and isinstance(nodes, int) and value < nodes:
            raise ValueError(f"at least one GPU for each of the {nodes} nodes is expected")
        return value

    @field_validator("gpus_per_node")
    @classmethod
    def _one_count_of_gpus(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("gpus") is not None:
            raise ValueError("GPUs are counted in all ('gpus') or on each node, not both")
        return value

    @field_validator("share")
    @classmethod
    def _one_gpu_with_known_memory(cls, value: Share, info: ValidationInfo) -> Share:
        if value is None:
            return None
        given = info.data
        for name in ("nodes", "gpus", "gpus_per_node"):
            if isinstance(asked := given.get(name), int) and asked > 1:
                option = f"--{name.replace('_', '-')}"
                raise ValueError(
                    f"a job that shares a GPU has one rank, since NCCL needs a GPU each: no {option} {asked}"
                )
        if given.get("gpus_per_node") == 0:
            raise ValueError("a CPU rank has no GPU to share")
        if value == BY_VRAM and not given.get("vram"):
            raise Misplaced((), "how much memory does it take? --vram 4G --share, or a fraction of a GPU: --share 0.5")
        if value != BY_VRAM and given.get("vram") is not None:
            raise ValueError("either a fraction is expected, or memory with it: --vram 4G --share")
        return value

    @field_validator("on_failure", mode="before")
    @classmethod
    def _policy_from_words(cls, value: object) -> object:
        return policy_from_words(value)

    @field_validator("checkpoints", mode="before")
    @classmethod
    def _checkpoints_from_text(cls, value: object) -> object:
        return {"dir": value} if isinstance(value, str) else value

    @field_validator("setup", mode="before")
    @classmethod
    def _setup_from_text(cls, value: object, info: ValidationInfo) -> object:
        return setup_from_text(value, info.data.get("python"))

    @field_validator("outputs", mode="before")
    @classmethod
    def _outputs_from_text(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("outputs")
    @classmethod
    def _outputs_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(value))

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
    def python_from_setup(self) -> bool:
        """Return whether the setup command makes the Python that runs the job."""
        return self.python in ENVIRONMENT

    @property
    def gpus_in_all(self) -> int | None:
        """Return how many GPUs of its own are requested in all; None: they are counted by node, or it shares one."""
        return None if self.share is not None else self.gpus

    @property
    def warning_seconds(self) -> float | None:
        """Return how long before its limit a job is warned: as requested, else a tenth of the limit, at most 5 min."""
        if self.time_limit is None:
            return None
        return min(self.time_limit, self.time_warning or min(300.0, self.time_limit / 10))

    @field_validator("max_parallel")
    @classmethod
    def _parallel_jobs_of_a_sweep(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and "sweep" in info.data and not info.data["sweep"]:
            raise ValueError("a sweep is needed with it")
        return value

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
    def words(self) -> tuple[str, ...]:
        """Return what runs in torchrun's form: `-m pkg.train …`, `--no-python ./train.sh …`, `train.py …`."""
        how = ("-m",) if self.module else ("--no-python",) if self.no_python else ()
        return (*how, self.script, *self.args)

    @property
    def command(self) -> tuple[str, ...]:
        """Return what runs for people: torchrun's form, or a plain command as it was typed."""
        return (self.script, *self.args) if self.launcher == "none" else self.words

    @property
    def one_process(self) -> bool:
        """Return whether each node runs one process, with all GPUs of the job there and no rank variables."""
        return self.launcher in ONE_PROCESS

    def source(self, directory: Path) -> str | None:
        """Return the file that runs, as a path in the working directory; of a plain command also its first file.

        None: it is not there. A module may be installed on the nodes, and a program of theirs have no path.
        """
        if self.module:
            path = self.script.replace(".", "/")
            choices = [f"{path}.py", f"{path}/__main__.py"]
        elif self.launcher == "none":
            choices = [word for word in (self.script, *self.args) if _may_be_file(word)]
            choices = choices if _in_directory(self.script) or self.script not in choices else choices[1:]
        else:
            choices = [self.script] if not self.no_python or _in_directory(self.script) else []
        return next((os.path.normpath(choice) for choice in choices if os.path.isfile(directory / choice)), None)


def _in_directory(program: str) -> bool:
    """Return whether a program is searched from the working directory, and not in PATH or elsewhere."""
    return "/" in program and not program.startswith("/")


def _may_be_file(word: str) -> bool:
    """Return whether a word of a command may name a file of the working directory."""
    return 0 < len(word) < 200 and not word.startswith(("-", "/", "~")) and ".." not in Path(word).parts
