"""Kinds of values in the inventory and in job files, each with its error message.

A file has nothing but text (`yaml_files`), and here it becomes what a key is for. In arguments, environments and names
it stays as it is, whatever YAML would make of it. A key of UGRO itself with nothing or `null` after it is not given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ugro.common.mistakes import Misplaced
from ugro.common.units import check_mib, check_moment, check_seconds, parse_duration, parse_mib, parse_moment

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
"""A whole number that everybody reads alike: without a leading zero, which may mean octal, an underscore or a plus."""

_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NOTHING = ("", "null", "Null", "NULL")


class Plain(str):
    """Text without quotes in a file."""


def is_given(value: object) -> bool:
    """Return whether a key has a value: not if nothing, or an unquoted `null`, follows it."""
    return not (isinstance(value, Plain) and value in _NOTHING)


def _unicode(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:  # a byte of the command line that is no character could not be recorded
        raise ValueError("text in UTF-8 is expected") from None
    return value


def _no_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("a NUL byte cannot be passed to a program")
    return value


def _one_line(value: str) -> str:
    if value == "~":  # nothing for some who know YAML, the home directory for others
        raise ValueError("a longer path is expected, such as ~/data; leave it empty for none")
    if _CONTROL.search(value):
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


def is_node_name(text: str) -> bool:
    """Return whether a node may have this name: `--nodes 2` asks for two nodes, and `all` for every one."""
    return bool(NAME.fullmatch(text)) and not text.isdecimal() and text.casefold() != "all"


def _node_name(value: str) -> str:
    if not is_node_name(value):
        raise ValueError("a name that is neither a number nor 'all' is expected, since --nodes 2 asks for two nodes")
    return value


def _remote_path(value: str) -> str:
    if not value.startswith(("/", "~/")):
        raise ValueError("an absolute path or one starting with ~/ is expected")
    return value


def whole(value: object) -> int:
    """Read a whole number, or the text of one.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, str) and WHOLE.fullmatch(value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError("a whole number is expected")


def as_list(value: object) -> object:
    """Return a single text as a list of it; anything else as it is."""
    return [value] if isinstance(value, str) else value


def is_flag(value: object) -> bool:
    """Return whether a value is read as true or false."""
    return isinstance(value, bool) or (isinstance(value, str) and value.lower() in _FLAGS)


def _flag(value: object) -> bool:
    if not is_flag(value):
        raise ValueError("true or false is expected")
    return _FLAGS[value.lower()] if isinstance(value, str) else bool(value)


def _mib(text: str) -> float:
    return int(text) if WHOLE.fullmatch(text) else parse_mib(text)


Text = Annotated[str, AfterValidator(_unicode), AfterValidator(_no_nul)]
Line = Annotated[str, AfterValidator(_unicode), AfterValidator(_one_line)]
Name = Annotated[str, AfterValidator(_name)]
NodeName = Annotated[Name, AfterValidator(_node_name)]
Whole = Annotated[int, BeforeValidator(whole)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Address = Annotated[str, AfterValidator(_address)]
RemotePath = Annotated[str, AfterValidator(_one_line), AfterValidator(_remote_path)]


def _said_as(parse: Callable[[str], float]) -> BeforeValidator:
    """Parse text into a number; pass a number through."""
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


Seconds = Annotated[float, _said_as(parse_duration), AfterValidator(check_seconds)]
Moment = Annotated[float, _said_as(parse_moment), AfterValidator(check_moment)]
Mib = Annotated[int, _said_as(_mib), Field(ge=0), AfterValidator(check_mib)]


def _env(value: dict[str, str]) -> dict[str, str]:
    for key in value:
        if not ENV_NAME.fullmatch(key):
            raise Misplaced((key,), f"{key!r} is not a variable name")
        if key.startswith("UGRO_"):
            raise Misplaced((key,), f"{key} is set by UGRO itself")
    return value


Env = Annotated[dict[str, Text], AfterValidator(_env)]


_TORCHRUN = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
    *("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_RUN_ID"),
    *("TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_ERROR_FILE"),
)
"""What torchrun sets for each rank, whatever was there before (torch/distributed/elastic, 2.1 to 2.9)."""
_GPUS = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")


def without_effect(env: Mapping[str, str], gpus: bool = True, launcher: str | None = "torchrun") -> dict[str, str]:
    """Return by variable why its value would not reach a rank; `gpus`: whether it gets GPUs of its own, `launcher`:
    what sets rank variables for it.

    No rule of `Env`: what was once written down stays readable.
    """
    found = {name: f"{launcher} sets it for each rank" for name in _TORCHRUN if launcher and name in env}
    if gpus:
        found |= {name: "UGRO sets it to the GPUs that each rank gets" for name in _GPUS if name in env}
    for name, value in env.items():
        if names_itself(name, value):
            found[name] = f"${name} is not expanded here, a value is taken as it stands"
    return found


def names_itself(name: str, value: str) -> bool:
    """Return whether the value of a variable is to extend what it was: `$PATH:/x`. Quotes in it make no difference.

    A user who wants those very characters is rarer than one who lost the value of PATH.
    """
    return bool(re.search(rf"\$({name}\b|\{{{name}\}})", value))


def variables_of(secrets: Iterable[str]) -> dict[str, str]:
    """Return the names of secrets by the variables that get them: `HF_TOKEN`, or `WANDB_API_KEY=team-key`."""
    return {variable: name or variable for variable, _, name in (one.partition("=") for one in secrets)}


def _secret(value: str) -> str:
    variable, equals, name = value.partition("=")
    if not ENV_NAME.fullmatch(variable) or (equals and not NAME.fullmatch(name)):
        # The text is left out of the message: it may be a value.
        raise Misplaced((), "the name of a secret is expected, as in HF_TOKEN, or VARIABLE=NAME")
    if variable.startswith("UGRO_"):
        raise Misplaced((), f"{variable} is set by UGRO itself")
    if reason := without_effect({variable: ""}).get(variable):
        raise Misplaced((), f"{variable}: {reason}")
    return variable if name == variable else value


def _secrets(value: object) -> object:
    return [word.strip() for word in value.split(",")] if isinstance(value, str) else value


def _once(value: tuple[str, ...]) -> tuple[str, ...]:
    found = dict[str, str]()
    for one in value:
        variable = one.partition("=")[0]
        if found.setdefault(variable, one) != one:
            raise Misplaced((), f"{variable} gets two secrets, {found[variable]} and {one}")
    return tuple(found.values())


Secrets = Annotated[
    tuple[Annotated[str, AfterValidator(_secret)], ...], BeforeValidator(_secrets), AfterValidator(_once)
]

TOKEN_NAME = re.compile(r"ugro-token-[0-9a-f]{12}")
"""The name of a token: a random value that UGRO makes for a job when it is first needed, and forgets at its end."""

_SECRET_NAME = re.compile(r"(?i)(^|_)(token|key|apikey|secret|password|passwd|credentials?)$")


def looks_secret(variable: str) -> bool:
    """Return whether a variable has the name of a secret: HF_TOKEN, WANDB_API_KEY, DB_PASSWORD."""
    return bool(_SECRET_NAME.search(variable))


class Config(BaseModel):
    """Base of configuration files: immutable, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _what_is_given(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or all(map(is_given, fields.values())):
            return fields
        return {key: value for key, value in fields.items() if is_given(value)}
