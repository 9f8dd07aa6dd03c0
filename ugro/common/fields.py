"""Kinds of values that people write into the inventory and into jobs, each with what is wrong about another value."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ugro.common.units import check_mib, check_moment, check_seconds, parse_duration, parse_mib, parse_moment

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


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


Seconds = Annotated[float, _said_as(parse_duration), AfterValidator(check_seconds)]
Moment = Annotated[float, _said_as(parse_moment), AfterValidator(check_moment)]
Mib = Annotated[int, _said_as(parse_mib), Field(ge=0), AfterValidator(check_mib)]


def _env(value: dict[str, str]) -> dict[str, str]:
    for key in value:
        if not ENV_NAME.fullmatch(key):
            raise ValueError(f"{key!r} is not a variable name")
        if key.startswith("UGRO_"):
            raise ValueError(f"{key} is set by UGRO itself")
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


def without_effect(env: Mapping[str, str], gpus: bool = True) -> dict[str, str]:
    """By variable, why a rank would not find what is meant; `gpus`: whether it gets GPUs of its own.

    No rule of `Env`: what was once written down stays readable.
    """
    found = {name: "torchrun sets it for each rank" for name in _TORCHRUN if name in env}
    if gpus:
        found |= {name: "UGRO sets it to the GPUs that each rank gets" for name in _GPUS if name in env}
    for name, value in env.items():
        if re.search(rf"\$({name}\b|\{{{name}\}})", value):
            found[name] = f"${name} is not expanded here, a value is taken as it stands"
    return found


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True, defer_build=True)
