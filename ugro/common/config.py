"""The two things a person writes: the inventory and the job spec. A mistake names file, line and field."""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ugro.common.causes import CAUSES
from ugro.common.errors import InputError, InventoryError, JobSpecError
from ugro.common.units import (
    check_mib,
    check_moment,
    check_seconds,
    check_vram,
    parse_duration,
    parse_mib,
    parse_moment,
)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
JOB_ID = re.compile(r"job-[0-9]+")
INVENTORY = "inventory.yaml"
PRIORITIES = (-1000, 1000)
OPTIONS = {"time_limit": "time"}
"""What a field of a job is called on the command line, where that is not its own name."""


def _no_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("a NUL byte cannot be passed to a program")
    return value


def _one_line(value: str) -> str:
    if any(ord(c) < 32 or ord(c) == 127 for c in value):
        raise ValueError("control characters and newlines are not allowed here")
    return value


def _address(value: str) -> str:
    # A leading dash would be read as an option by ssh; white space would split a known_hosts line.
    if not re.fullmatch(r"[A-Za-z0-9_:\[\]%.][A-Za-z0-9_:\[\]%.-]*", value):
        raise ValueError("a host name or an IP address is expected")
    return value


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError("letters, digits, '.', '_' and '-' are expected, starting with a letter or digit, at most 63")
    return value


def _remote_path(value: str) -> str:
    if not value.startswith(("/", "~/")):
        raise ValueError("an absolute path or one starting with ~/ is expected")
    return value


Text = Annotated[str, AfterValidator(_no_nul)]
Line = Annotated[str, AfterValidator(_one_line)]
Name = Annotated[str, AfterValidator(_name)]
Address = Annotated[str, AfterValidator(_address)]
RemotePath = Annotated[str, AfterValidator(_one_line), AfterValidator(_remote_path)]


def _said_as(parse: Callable[[str], float]) -> BeforeValidator:
    """Text as people type it becomes a number; a number is one already."""
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


def _dependency(value: str) -> str:
    job, _, when = value.partition(":")
    if not NAME.fullmatch(job) or when not in ("", *DEPENDENCIES):
        raise ValueError(f"a job is expected, or JOB:{' or JOB:'.join(DEPENDENCIES)}")
    return value


def _cause(value: str) -> str:
    if value not in CAUSES:
        near = difflib.get_close_matches(value, CAUSES, 1)
        raise ValueError(f"a cause of failure is expected{f', such as {near[0]}' if near else ''} (docs/diagnosis.md)")
    return value


DEPENDENCIES = ("success", "failure", "any")
"""How the job that is waited for has to end; `success` unless another is said."""

Seconds = Annotated[float, _said_as(parse_duration), AfterValidator(check_seconds)]
Moment = Annotated[float, _said_as(parse_moment), AfterValidator(check_moment)]
Mib = Annotated[int, _said_as(parse_mib), Field(ge=0), AfterValidator(check_mib)]
Dependency = Annotated[str, AfterValidator(_dependency)]
Cause = Annotated[str, AfterValidator(_cause)]


def _env(value: dict[str, str]) -> dict[str, str]:
    for key in value:
        if not ENV_NAME.fullmatch(key):
            raise ValueError(f"{key!r} is not a variable name")
        if key.startswith("UGRO_"):
            raise ValueError(f"{key} is set by UGRO itself")
    return value


Env = Annotated[dict[str, Text], AfterValidator(_env)]


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True, defer_build=True)


class NodeConfig(_Config):
    """One machine of the inventory."""

    name: Name
    address: Address
    user: Line | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    identity_file: Line | None = None
    ssh_config: Line = "~/.ssh/config"
    local: bool = False
    python: Line = "python3"
    base_dir: RemotePath = "~/.ugro"
    interface: Line | None = None
    train_address: Address | None = None
    env: Env = Field(default_factory=dict)
    gpus: tuple[Line, ...] = ()
    reserve_memory: Mib = Field(default=0, description="MiB of each GPU's memory left to others")
    max_temperature: Annotated[int, Field(ge=30, le=150)] = Field(
        default=90, description="°C; a hotter GPU gets no new job"
    )
    min_disk: Mib = Field(default=1024, description="MiB free under base_dir; with less the node gets no new job")

    @field_validator("user")
    @classmethod
    def _user_is_no_option(cls, value: str | None) -> str | None:
        if value is not None and (not value or value.startswith("-") or re.search(r"[\s@]", value)):
            raise ValueError("a user name is expected")
        return value

    @field_validator("gpus", mode="before")
    @classmethod
    def _gpus_as_list(cls, value: object) -> object:
        if not isinstance(value, (str, list, tuple)):
            raise ValueError("the name of a GPU, or a list of them, is expected")
        return [value] if isinstance(value, str) else value


class Inventory(_Config):
    """The cluster as the person describes it. Its order is the order of node ranks.

    `departed` names nodes that left the file while a job of theirs runs: they are still watched, and get no new one.
    """

    nodes: dict[str, NodeConfig]
    script: Line | None = None
    path: Path = Path(INVENTORY)
    departed: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_local_node(self) -> Inventory:
        if not self.nodes:
            raise ValueError("at least one node is expected under 'nodes:'")
        local = [name for name, node in self.nodes.items() if node.local]
        if len(local) > 1:
            raise ValueError(f"only this machine can be 'local: true', not {' and '.join(local)}")
        return self

    def with_departed(self, configs: Mapping[str, NodeConfig], needed: Iterable[str]) -> Inventory:
        """With the needed nodes that are not in the file any more, as they were reached last."""
        gone = {name: configs[name] for name in needed if name not in self.nodes and name in configs}
        return self.model_copy(update={"nodes": {**self.nodes, **gone}, "departed": tuple(gone)}) if gone else self

    def present(self) -> Inventory:
        """Without the departed nodes."""
        nodes = {name: node for name, node in self.nodes.items() if name not in self.departed}
        return self.model_copy(update={"nodes": nodes, "departed": ()})

    def node(self, name: str) -> NodeConfig:
        """The node of that name.

        Raises:
            InputError: there is none.
        """
        try:
            return self.nodes[name]
        except KeyError:
            raise InputError(
                f"no node is called {name!r} in {self.path}", f"the nodes are: {', '.join(self.nodes)}"
            ) from None

    def select(self, names: str | None) -> list[NodeConfig]:
        """The nodes of a comma-separated list, or all of them.

        Raises:
            InputError: a name is unknown, or given twice.
        """
        if names is None:
            return list(self.nodes.values())
        wanted = [name.strip() for name in names.split(",") if name.strip()]
        if not wanted:
            raise InputError("no node is named", f"the nodes are: {', '.join(self.nodes)}")
        if len(set(wanted)) < len(wanted):
            raise InputError(f"a node is named twice in {names!r}")
        return [self.node(name) for name in wanted]


class HangAfter(_Config):
    """How long a job may show no sign of life, in seconds, before it can be called hung: at least and at most."""

    min: Seconds = 600.0
    max: Seconds = Field(default=7200.0, validate_default=True)

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


class FailurePolicy(_Config):
    """What is done when a job fails. A cause in `causes` has an answer of its own: standing consent, or none.

    Of retries without a question there are at most `max_retries`; the first comes `backoff` seconds after the failure,
    and each one after twice as long as the one before.
    """

    default: Action = "ask"
    causes: dict[Cause, Action] = Field(default_factory=dict)
    max_retries: Annotated[int, Field(ge=0, le=1000)] = 3
    backoff: Seconds = 30.0

    def action(self, cause: str) -> str:
        """What is done about a failure of this cause."""
        return self.causes.get(cause, self.default)


class CheckpointRules(_Config):
    """Where a job's checkpoints are, how its script is told to go on from one, and which the master keeps.

    `dir` is absolute, begins with `~/`, or is relative to the job's code; `pattern` is a glob of paths below it.
    `resume` are the words that a resumed script gets, with {path}; UGRO_RESUME_FROM is set besides. Of those that were
    brought to the master the last `keep_last` stay, and those of every `keep_every` steps.
    """

    dir: Line = ""
    pattern: Line = ""
    resume: Annotated[Text, AfterValidator(_resume_template)] = ""
    keep_last: Annotated[int, Field(ge=1)] = 3
    keep_every: Annotated[int, Field(ge=1)] | None = None


class JobSpec(_Config):
    """What to run, frozen at submission as `spec.json`.

    `nodes` is a number of nodes, or their names; None means every node. `gpus_per_node` None means every GPU of a node.
    `not_before` is in seconds since the epoch. `time_limit` is in seconds of running, and `time_warning` so many
    seconds before it the ranks get SIGUSR2. `vram` is in MiB for each GPU. `hang_after` bounds the watchdog's patience.
    """

    script: Line
    args: tuple[Text, ...] = ()
    name: Name | None = None
    nodes: Annotated[int, Field(ge=1)] | tuple[Name, ...] | None = None
    gpus_per_node: Annotated[int, Field(ge=0)] | None = None
    env: Env = Field(default_factory=dict)
    workdir: Line = "."
    priority: Annotated[int, Field(ge=PRIORITIES[0], le=PRIORITIES[1])] = 0
    hold: bool = False
    after: tuple[Dependency, ...] = ()
    not_before: Moment | None = None
    time_limit: Seconds | None = None
    time_warning: Seconds | None = None
    vram: Mib | None = None
    hang_after: HangAfter | None = None
    checkpoints: CheckpointRules = Field(default_factory=CheckpointRules)
    on_failure: FailurePolicy = Field(default_factory=FailurePolicy)
    schema_version: Literal[1] = 1

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
            value = int(value) if value.strip().isdecimal() else [name.strip() for name in value.split(",")]
        if isinstance(value, (list, tuple)):
            if not value or not all(isinstance(name, str) and NAME.fullmatch(name) for name in value):
                raise ValueError("a number of nodes, or their names, is expected")
            if len(set(value)) < len(value):
                raise ValueError("a node is named twice")
            return tuple(value)
        return value

    @field_validator("on_failure", mode="before")
    @classmethod
    def _policy_from_words(cls, value: object) -> object:
        """`retry`; or words such as `ask` and `peer_lost=retry`, as the command line has them."""
        words = [value] if isinstance(value, str) else value
        if not isinstance(words, (list, tuple)):
            return value
        policy: dict[str, Any] = {"causes": {}}
        for word in words:
            cause, equals, action = str(word).partition("=")
            if equals:
                policy["causes"][cause] = action
            else:
                policy["default"] = cause
        return policy

    @field_validator("checkpoints", mode="before")
    @classmethod
    def _checkpoints_from_text(cls, value: object) -> object:
        return {"dir": value} if isinstance(value, str) else value

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
        """How long before its time limit a job is told: as asked, else a tenth of the limit, at most five minutes."""
        if self.time_limit is None:
            return None
        return min(self.time_limit, self.time_warning or min(300.0, self.time_limit / 10))

    @field_validator("script")
    @classmethod
    def _script_inside(cls, value: str) -> str:
        path = Path(value)
        if not value or value.startswith("-") or path.is_absolute() or ".." in path.parts:
            raise ValueError("a path inside the working directory is expected")
        return value


def inventory_path(option: str | None, environ: Mapping[str, str] = os.environ) -> Path:
    """Which inventory counts: --inventory, $UGRO_INVENTORY, ./inventory.yaml, then $UGRO_HOME/inventory.yaml."""
    chosen = option or environ.get("UGRO_INVENTORY")
    if chosen:
        return Path(chosen).expanduser()
    here = Path(INVENTORY)
    return here if here.exists() else ugro_home(environ) / INVENTORY


def ugro_home(environ: Mapping[str, str] = os.environ) -> Path:
    """The master's state directory."""
    return Path(environ.get("UGRO_HOME") or "~/.ugro").expanduser()


def load_inventory(path: Path) -> Inventory:
    """Read and check an inventory.

    Raises:
        InventoryError: with file, line, field, what was found and what is expected.
    """
    if not path.exists():
        usual = path == ugro_home() / INVENTORY and not Path(INVENTORY).exists()
        places = f"./{INVENTORY} or {path}" if usual else str(path)
        raise InventoryError(
            f"there is no inventory at {places}", "write one with `ugro init`, or name it: --inventory FILE"
        )
    document, lines = _read_yaml(path, InventoryError)
    unknown = [key for key in document if key not in ("defaults", "nodes")]
    if unknown:
        raise InventoryError(
            f"{path}:{lines.get((unknown[0],), 1)}: {unknown[0]}: unknown; 'defaults' or 'nodes' is expected"
        )
    defaults = _mapping(document, ("defaults",), path, lines)
    nodes = _mapping(document, ("nodes",), path, lines)
    script = defaults.pop("script", None)
    merged = {}
    for name in nodes:
        own = _mapping(nodes, (name,), path, lines, under=("nodes",))
        env = (
            {**(defaults.get("env") or {}), **(own.get("env") or {})}
            if _envs_are_maps(defaults, own)
            else own.get("env")
        )
        merged[str(name)] = {**defaults, **own, "name": str(name)} | ({"env": env} if env else {})
    try:
        return Inventory.model_validate({"nodes": merged, "script": script, "path": path})
    except ValidationError as error:
        raise InventoryError(
            _describe_in_file(error, path, lines, {key: key for key in NodeConfig.model_fields})
        ) from None


def load_job_spec(path: Path) -> JobSpec:
    """Read and check a job.yaml.

    Raises:
        JobSpecError: with file, line, field, what was found and what is expected.
    """
    document, lines = _read_yaml(path, JobSpecError)
    try:
        return JobSpec.model_validate(document)
    except ValidationError as error:
        keys = {word: key for key in JobSpec.model_fields for word in (key, OPTIONS.get(key, key))}
        raise JobSpecError(_describe_in_file(error, path, lines, keys)) from None


def job_spec(**fields: Any) -> JobSpec:
    """A job spec from command-line values.

    Raises:
        JobSpecError: a value is wrong; the message names its option.
    """
    try:
        spec = JobSpec.model_validate({key: value for key, value in fields.items() if value is not None})
    except ValidationError as error:
        first, more = _first_mistake(error)
        raise JobSpecError(f"{_option(first['loc'])}: {_mistake_in_words(first)}{more}") from None
    try:
        check_vram(spec.vram or 0)  # not a rule of the record: what was once submitted stays readable
    except ValueError as error:
        raise JobSpecError(f"--vram: {error}") from None
    return spec


Location = tuple[str | int, ...]


def _read_yaml(path: Path, kind: type[InputError]) -> tuple[dict[str, Any], dict[Location, int]]:
    try:
        node = yaml.compose(text := path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise kind(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise kind(f"{path}: not valid YAML: {error}") from None
    except UnicodeDecodeError as error:
        raise kind(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise kind(f"{path}: cannot be read: {error.strerror}") from None
    except RecursionError:
        raise kind(f"{path}: nested too deeply to be meant") from None
    if not isinstance(document, dict):
        raise kind(f"{path}:1: a mapping is expected, found {_shown(document)}")
    lines: dict[Location, int] = {}
    if node is not None:
        try:
            _index_lines(node, (), lines, path, kind)
        except RecursionError:
            raise kind(f"{path}: something in it contains itself") from None
    return document, lines


def _index_lines(
    node: yaml.Node, where: Location, lines: dict[Location, int], path: Path, kind: type[InputError]
) -> None:
    """Remember the line of every key, and refuse a key that stands twice (YAML would silently keep the last)."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            at = (*where, str(key.value))
            line = key.start_mark.line + 1
            if at in lines and key.value != "<<":
                raise kind(f"{path}:{line}: {'.'.join(map(str, at))}: stands twice (first on line {lines[at]})")
            lines[at] = line
            _index_lines(value, at, lines, path, kind)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*where, index)] = value.start_mark.line + 1
            _index_lines(value, (*where, index), lines, path, kind)


def _mapping(
    parent: dict[str, Any], key: Location, path: Path, lines: dict[Location, int], under: Location = ()
) -> dict[str, Any]:
    value = parent.get(key[0])  # type: ignore[arg-type]
    if value is None:
        return {}
    if not isinstance(value, dict):
        field = ".".join(str(part) for part in (*under, *key))
        line = lines.get((*under, *(str(part) for part in key)), 1)
        raise InventoryError(f"{path}:{line}: {field}: found {_shown(value)}, a mapping is expected")
    return dict(value)


def _envs_are_maps(*parts: dict[str, Any]) -> bool:
    return all(isinstance(part.get("env") or {}, dict) for part in parts)


def _describe_in_file(error: ValidationError, path: Path, lines: dict[Location, int], keys: Mapping[str, str]) -> str:
    """The first mistake in one line: `file:line: field: found X, expected Y`, and how many more there are.

    `keys` has what is known there, by every word that a person may use for it.
    """
    first, more = _first_mistake(error)
    where = first["loc"]
    field = ".".join(str(part) for part in where)
    # A field that every node inherits is written under `defaults:`, and an absent one has its parent's line.
    inherited = ("defaults", *where[2:]) if where[:1] == ("nodes",) and len(where) > 2 else where
    line = next((lines[at] for at in (where, inherited, where[:-1], where[:-2]) if at in lines), None)
    said = _mistake_in_words(first)
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(where[-1]).replace("-", "_"), keys, 1)
        said = f"unknown key; did you mean {keys[near[0]]!r}?" if near else "unknown key"
    prefix = f"{path}:{line}: " if line else f"{path}: "
    return f"{prefix}{field}: {said}{more}" if field else f"{prefix}{said}{more}"


def _option(where: Location) -> str:
    """A field of a job as somebody gives it on the command line."""
    field = str(where[0])
    if field in ("script", "workdir"):
        return field
    if field == "args":
        return f"argument {int(where[1]) + 1} of the script"
    return "--" + OPTIONS.get(field, field).replace("_", "-")


def _first_mistake(error: ValidationError) -> tuple[Any, str]:
    """The mistake to tell, with its place as a person knows it, and how many more there are, in words."""
    # A misspelt key is also a missing one: the spelling is what the person can mend.
    first, *rest = sorted(error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden")
    where: Location = tuple(part for part in first["loc"] if not _is_union_tag(part))
    more = f" (and {len(rest)} more)" if len({e["loc"][:3] for e in rest}) > 1 else ""
    return {**first, "loc": where}, more


def _mistake_in_words(mistake: Any) -> str:
    message = mistake["msg"].removeprefix("Value error, ")
    if mistake["type"] == "missing":
        return "is missing"
    return f"found {_shown(mistake['input'])}: {message[0].lower()}{message[1:]}" if mistake["loc"] else message


def _is_union_tag(part: str | int) -> bool:
    return isinstance(part, str) and (
        part == "int" or part.startswith(("constrained", "tuple[", "function-", "lax-or"))
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
