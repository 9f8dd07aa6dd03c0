"""The Python of a job and the command that sets its environment up."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, Field, field_validator

from ugro.common.fields import Config, Line, Seconds, Text

ENVIRONMENT = ("uv", "setup")
"""Words of `python:` for the environment that the setup command makes; `uv` also names that command."""

UV_SYNC = "uv sync --frozen --no-install-project"
"""What `python: uv` runs. The project itself is not installed: the environment is shared by jobs with other code."""

UV_INPUTS = ("pyproject.toml", "uv.lock")

INPUTS = (
    *("uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock", "conda-lock.yml", "pylock.toml"),
    *("pyproject.toml", "setup.py", "setup.cfg", "requirements.txt", "environment.yml", "environment.yaml"),
)
"""Files at the top of the code on which a setup command depends, as far as they are there, unless it names others."""

SETUP_TIMEOUT = 1800.0
"""Seconds that a setup command may take by default."""

CONDA = "conda:"
_CONDA_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")
_COMMAND = re.compile(r"(python|pypy)[0-9.]*")


def is_command(python: str) -> bool:
    """Return whether this is a program in the nodes' PATH: `python3.11`."""
    return bool(_COMMAND.fullmatch(python))


def conda_name(python: str) -> str | None:
    """Return the name of the conda environment that is meant; None: another Python is."""
    if "/" in python or python in ENVIRONMENT or is_command(python):
        return None
    return python.removeprefix(CONDA)


def check_python(value: str) -> str:
    """Return the Python that is asked for.

    Raises:
        ValueError: it is neither a path, a program, a conda environment nor a word of ENVIRONMENT.
    """
    name = conda_name(value)
    if name is None and (value.startswith(("/", "~/")) or "/" not in value):
        return value
    if name is None or not _CONDA_NAME.fullmatch(name):
        raise ValueError("an absolute path or one starting with ~/, the name of a conda environment or uv is expected")
    return value


Python = Annotated[Line, AfterValidator(check_python)]


def _input(value: str) -> str:
    path = PurePosixPath(value)
    if not value or path.is_absolute() or ".." in path.parts or str(path) != value:
        raise ValueError("the path of a file inside the working directory is expected")
    return value


Input = Annotated[Line, AfterValidator(_input)]


def setup_from_text(value: object, python: str | None) -> object:
    """Return the fields of a setup: text is its command, and `uv` has one of its own.

    Raises:
        ValueError: the Python is to come from a setup, and there is none.
    """
    if value is None and python == "uv":
        return {"run": UV_SYNC, "inputs": UV_INPUTS}
    if value is None and python == "setup":
        raise ValueError("a command that makes the environment is needed with 'python: setup'")
    return {"run": value} if isinstance(value, str) else value


class Setup(Config):
    """A shell command that sets up the environment of a job: once for each content on each node, before the start.

    The content is the command, the Python and the `inputs`.
    """

    run: Text = Field(description="Shell command, run in the code folder: `pip install -r requirements.txt`")
    inputs: tuple[Input, ...] | None = Field(
        default=None, description="Files of the code that it depends on; default: the usual lock files that are there"
    )
    timeout: Seconds = Field(default=SETUP_TIMEOUT, description="Longest time that it may take")

    @field_validator("run")
    @classmethod
    def _something_runs(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("a shell command is expected")
        return value

    @property
    def words(self) -> str:
        """Return the command on one line, for people."""
        return " ".join(self.run.split())
