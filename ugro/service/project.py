"""Defaults of a project: `ugro.toml`, or `[tool.ugro]` of pyproject.toml. Read where the client is; only data."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ugro.common.errors import JobSpecError
from ugro.common.fields import variables_of, without_effect
from ugro.common.job_spec import OPTIONS, JobSpec
from ugro.common.job_spec.environment import FILES_KEY, laid_over, listed, resolve
from ugro.common.mistakes import and_more, mistakes
from ugro.common.text import printable
from ugro.common.written import read_written
from ugro.common.yaml_files import Items, Keys

FILE, PYPROJECT = "ugro.toml", "pyproject.toml"

OF_ONE_JOB = ("sweep", "max_parallel", "args", "module", "no_python", "name", "after", "not_before", "schema_version")
"""Fields of a job that no project can have a default for."""

ENVIRONMENT = ("env", "secrets")
"""Fields of which each variable is merged by itself."""

WITHOUT = "to launch without it: --no-project"


@dataclass(frozen=True)
class Project:
    """The defaults of a project: fields of a job spec as the file has them, without `workdir`.

    `workdir` is the folder that is sent: that of the file, or the one that it names.
    """

    path: Path
    fields: Mapping[str, Any]
    workdir: Path

    def beneath(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return fields of a job with the defaults beneath them. Variables and rules for checkpoints are merged."""
        found = {**self.fields, **fields}
        if "checkpoints" in fields and "checkpoints" in self.fields:
            found["checkpoints"] = {**_mapping("checkpoints", self.fields["checkpoints"]), **fields["checkpoints"]}
        return {key: value for key, value in found.items() if key not in ENVIRONMENT} | laid_over(fields, self.fields)

    def words(self, fields: Mapping[str, Any]) -> str:
        """Say what comes from here into a job with these fields of its own; nothing where nothing does."""
        taken = [name for name, value in self.fields.items() if name not in fields or self._adds(name, value, fields)]
        folder = os.path.relpath(self.workdir)
        taken += [f"code from {folder}"] if folder != "." and "workdir" not in fields else []
        return f"defaults from {printable(os.path.relpath(self.path))}: {', '.join(taken)}" if taken else ""

    def _adds(self, name: str, value: Any, fields: Mapping[str, Any]) -> bool:
        """Whether a mapping or the secrets have keys beside those of the job."""
        if name == "secrets":
            return bool(variables_of(listed(value)).keys() - variables_of(listed(fields[name])).keys())
        merged = name in ("env", "checkpoints")
        return merged and bool(_mapping(name, value).keys() - _mapping(name, fields[name]).keys())


def _mapping(name: str, value: Any) -> dict[str, Any]:
    return {"dir": value} if name == "checkpoints" and isinstance(value, str) else dict(value)


def find_project(folder: Path, home: Path | None = None) -> Project | None:
    """Find the project of a folder: the nearest file from it up, as far as the root of its git repository.

    Neither the home directory nor what is above it is a project, unless it is the folder itself.

    Raises:
        JobSpecError: the file has a mistake, or belongs to another user; the message names file and key.
    """
    folder = Path(os.path.abspath(folder))
    for place in _upwards(folder, Path.home() if home is None else home):
        own, shared = place / FILE, place / PYPROJECT
        table = _table_of(shared) if shared.is_file() else None
        if own.is_file():
            if table is not None:
                raise JobSpecError(f"{own} and [tool.ugro] in {shared}: one of them is expected", WITHOUT)
            return _checked(own, _parsed(own, read_written(own, JobSpecError, WITHOUT)), folder)
        if table is not None:
            return _checked(shared, table, folder)
    return None


def _upwards(folder: Path, home: Path) -> Iterator[Path]:
    yield folder
    for place, above in zip((folder, *folder.parents), folder.parents, strict=False):
        if (place / ".git").exists() or above == home or above in home.parents:
            return
        yield above


def _table_of(path: Path) -> dict[str, Any] | None:
    """`[tool.ugro]` of a pyproject.toml, if it has one; others that are broken are not UGRO's to judge."""
    text = ""
    with contextlib.suppress(JobSpecError):
        text = read_written(path, JobSpecError)
    if "tool" not in text or "ugro" not in text:
        return None
    tool = _parsed(path, text).get("tool")
    table = tool.get("ugro") if isinstance(tool, dict) else None
    if table is not None and not isinstance(table, dict):
        raise JobSpecError(f"{path}: tool.ugro: keys with values are expected", WITHOUT)
    return table


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        said, place = str(error), re.search(r" \(at line (\d+), column \d+\)$", str(error))
        where = f"{path}:{place[1]}" if place else f"{path}"
        raise JobSpecError(f"{where}: not valid TOML: {said[: place.start()] if place else said}", WITHOUT) from None
    except RecursionError:
        raise JobSpecError(f"{path}: nested too deeply to be meant", WITHOUT) from None


def _checked(path: Path, fields: dict[str, Any], folder: Path) -> Project:
    """Return what a file says.

    Raises:
        JobSpecError: a key or a value is wrong, or the file lies above and is that of a stranger.
    """
    _refuse_stranger(path, folder)
    for name in OF_ONE_JOB:
        if name in fields:
            raise JobSpecError(
                f"{_place(path, name)}: {name}: belongs to one job, not to a project", "put it in job.yaml"
            )
    fields = _with_environment(path, fields)
    try:
        spec = JobSpec.model_validate({"script": "train.py", **fields})
    except ValidationError as error:
        found = mistakes(error)
        first = found[0]
        said = str(first)
        if first.unknown:
            known = [*JobSpec.model_fields, FILES_KEY]
            keys = {word: key for key in known for word in (key, OPTIONS.get(key, key))}
            near = difflib.get_close_matches(str(first.where[-1]).replace("-", "_"), keys, 1)
            said += f"; did you mean {keys[near[0]]!r}?" if near else ""
        where = _place(path, *map(str, first.where))
        raise JobSpecError(f"{where}: {said}{and_more(found)}", WITHOUT) from None
    for name, reason in without_effect(spec.env, gpus=spec.gpus_per_node != 0).items():
        raise JobSpecError(f"{_place(path, 'env', name)}: env.{name}: {reason}", WITHOUT)
    workdir = path.parent / Path(spec.workdir).expanduser()
    kept = {name: value for name, value in fields.items() if name != "workdir"}
    return Project(path, kept, Path(os.path.normpath(workdir)))


def _with_environment(path: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with the environment as one mapping: a list and files may stand in its place, as in a job.yaml.

    Raises:
        JobSpecError: with the file and its line.
    """
    document = Keys()
    for name in [name for name in ("env", FILES_KEY, "gpus_per_node") if name in fields]:
        found = re.search(r":([0-9]+)$", _place(path, name))
        line, value = int(found[1]) if found else 1, fields[name]
        if isinstance(value, list):
            items = Items()
            items.extend(value)
            items.lines = [line] * len(items)
            value = items
        elif isinstance(value, dict):
            keys = Keys()
            for key, item in value.items():
                keys.put(key, item, line)
            value = keys
        document.put(name, value, line)
    resolve(document, path)
    others = {name: value for name, value in fields.items() if name not in ("env", FILES_KEY)}
    env = document.get("env")
    return others if env is None else others | {"env": dict(env) if isinstance(env, Keys) else env}


def _refuse_stranger(path: Path, folder: Path) -> None:
    """Refuse a file above the folder that another user put there: it says what runs on the nodes."""
    owner = path.stat().st_uid
    if path.parent != folder and owner not in (0, os.getuid(), folder.stat().st_uid):
        raise JobSpecError(f"{path}: belongs to another user (uid {owner}), so it is not used", WITHOUT)


def _place(path: Path, *keys: str) -> str:
    """The file with the line of a key, as far as that is found: TOML's reader does not tell it."""
    words = [key for key in keys if not key.isdigit()]
    lines = path.read_text(encoding="utf-8").splitlines()
    for key in reversed(words):
        word = rf"[\"']?{re.escape(key)}[\"']?"
        for number, line in enumerate(lines, 1):
            if re.match(rf"\s*(?:[\w.\"'-]+\.)?{word}\s*[=.]|\s*\[(?:[^\]]*\.)?{word}\]", line):
                return f"{path}:{number}"
    return str(path)
