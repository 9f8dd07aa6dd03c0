"""Read what a job's environment is made of, where the job is submitted: files, variables of this shell, lists."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ugro.common.dotenv import read_dotenv
from ugro.common.errors import InputError, JobSpecError
from ugro.common.fields import ENV_NAME, is_given, variables_of, without_effect
from ugro.common.mistakes import shown
from ugro.common.yaml_files import Items, Keys

FILES_KEY = "env_file"
"""A key of a job.yaml alone: the spec has what stands in the files, as it was at the submission."""

FILES_MEANING = (
    "File of variables, or a list of them, relative to the job file: `NAME=value` lines, comments, quotes, `export`; "
    "`env` wins over it"
)


class NotSet(InputError):
    """A variable is to be forwarded that this shell does not have."""


def forwarded(name: str) -> str:
    """Return the value that a variable has here.

    Raises:
        NotSet: it has none.
    """
    if name not in os.environ:
        raise NotSet(
            f"{name} is not set here, so it cannot be forwarded", f"export {name}=VALUE, or --env {name}=VALUE"
        )
    return os.environ[name]


def read_env_files(paths: Iterable[Path], gpus: bool) -> dict[str, str]:
    """Return the variables of files, those of later ones winning. `gpus`: whether the job gets GPUs of its own.

    Raises:
        JobSpecError: a file cannot be read, or sets what it cannot set; the message names file and line.
    """
    found: dict[str, str] = {}
    for path in paths:
        variables = read_dotenv(path, JobSpecError)
        no_effect = without_effect({name: one.value for name, one in variables.items()}, gpus)
        for name, one in variables.items():
            reason = f"{name} is set by UGRO itself" if name.startswith("UGRO_") else no_effect.get(name)
            if reason:
                raise JobSpecError(f"{path}:{one.line}: {name}: {reason}", "leave it out")
        found |= {name: one.value for name, one in variables.items()}
    return found


def laid_over(above: Mapping[str, Any], below: Mapping[str, Any]) -> dict[str, Any]:
    """Return `env` and `secrets` of two sets of fields as one. A variable has one value: the one from above.

    What neither of them has is left out.
    """
    env, secrets = dict(above.get("env") or {}), listed(above.get("secrets"))
    said = {*env, *variables_of(secrets)}
    env = {name: value for name, value in (below.get("env") or {}).items() if name not in said} | env
    secrets = [one for one in listed(below.get("secrets")) if not said & {*variables_of([one])}] + secrets
    return ({"env": env} if env else {}) | ({"secrets": secrets} if secrets else {})


def listed(secrets: object) -> list[str]:
    """Return names of secrets as a list, however a file has them; what is none is left for the spec to refuse."""
    found = [word.strip() for word in secrets.split(",")] if isinstance(secrets, str) else secrets
    return [str(one) for one in found] if isinstance(found, list | tuple) else []


def resolve(document: Keys, path: Path) -> None:
    """Put the environment of a job.yaml, or of a project, together as one mapping: its files, then its own variables.

    Raises:
        JobSpecError: with file and line.
    """
    own = document.get("env")
    if isinstance(own, Items):
        own = _from_list(own, path)
    files = document.pop(FILES_KEY, None)
    if files is not None and is_given(files):
        line = document.lines.get(FILES_KEY, 1)
        named = files if isinstance(files, Items) else [files]
        if not named or not all(isinstance(one, str) and one for one in named):
            raise JobSpecError(f"{path}:{line}: {FILES_KEY}: found {shown(files)}: the path of a file is expected")
        beside = [path.parent / Path(one).expanduser() for one in named]
        merged = Keys()
        for name, value in read_env_files(beside, str(document.get("gpus_per_node")) != "0").items():
            merged.put(name, value, line)
        if isinstance(own, Keys):
            for name, value in own.items():
                merged.put(name, value, own.lines[name])
            own = merged
        elif own is None or not is_given(own):
            own = merged
    if isinstance(own, Keys):
        document.put("env", own, document.lines.get("env", document.lines.get(FILES_KEY, 1)))


def _from_list(items: Items, path: Path) -> Keys:
    """Return `[NAME, NAME=value]` as a mapping: a name alone is forwarded from here."""
    found = Keys()
    for item, line in zip(items, items.lines, strict=True):
        name, equals, value = item.partition("=") if isinstance(item, str) else ("", "", "")
        if not ENV_NAME.fullmatch(name):
            found_there = shown(name if isinstance(item, str) else item)  # without the value, which may be a secret
            expected = "NAME=VALUE, or the NAME of a variable to forward, is expected"
            raise JobSpecError(f"{path}:{line}: env: found {found_there}: {expected}")
        try:
            found.put(name, value if equals else forwarded(name), line)
        except NotSet as error:
            hint = f"set it: export {name}=VALUE, or write its value: {name}=VALUE"
            raise JobSpecError(f"{path}:{line}: env: {error.message}", hint) from None
    return found
