"""Finds the Python of a job on a node, and sets its environment up there."""

from __future__ import annotations

import base64
import json
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, TypeAdapter

from ugro.common.errors import NodeRefused
from ugro.common.fields import Line
from ugro.common.job_spec.setup import CONDA, conda_name, is_command
from ugro.common.models.record import Record
from ugro.common.paths import RunPaths
from ugro.common.text import printable
from ugro.nodes.remote.answers import payload, require
from ugro.nodes.remote.bundle import load
from ugro.nodes.remote.python import require_python
from ugro.nodes.transport import Transport

ENVIRONMENTS = "setups"
"""The folder below a node's base directory that has the environments, each in a folder named by its digest."""

FIND_TIMEOUT = 20.0
SETUP_TIMEOUT = 60.0
"""Seconds for one check of a setup; the command itself runs beside it."""

COMMAND_LENGTH = 100
"""Characters of a command that messages show."""

NOT_FOUND = 3

RUN_SETUP = """python=$1; case $python in "~/"*) python=$home/${python#"~/"} ;; esac; exec "$python" - "$2" "$home"
"""
"""PYTHON REQUEST: the script is what comes on stdin. The job's own environment may have another HOME."""


@dataclass(frozen=True)
class JobInterpreters:
    """What runs a job: by node the path of its Python, and the folder that its setup filled.

    Nodes without an entry have the Python of the inventory, and no such folder. Not `made`: the setup that makes the
    Python has not run, since this is a rehearsal.
    """

    pythons: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, str] = field(default_factory=dict)
    made: bool = True

    def usable(self, transport: Transport) -> str:
        """Return a Python that is on a node: that of the job, else the node's own."""
        return (self.made and self.pythons.get(transport.name)) or transport.node.python

    def remedy(self, node: str) -> str:
        """Return what to do where the Python of a node lacks something, other than to install it."""
        return "name another Python: --python PATH" if node in self.pythons else "set 'python' of this node"

    def variables(self, node: str) -> dict[str, str]:
        """Return what ranks find in their environment."""
        return {"UGRO_ENV_DIR": self.folders[node]} if node in self.folders else {}


OF_INVENTORY = JobInterpreters()
"""The Python of each node as the inventory names it."""


def _absolute(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError("an absolute path is expected")
    return value


def _decoded(value: str) -> str:
    base64.b64decode(value, validate=True)
    return value


class SetupSeen(Record):
    """How far a setup is on a node.

    `free`: it has to be started. `job` is the one whose run does it, or did. `env` is the folder that the command
    fills. `code` or `signal` say how it ended badly, `late` that its time was over. `log` is what is new of its
    output, in base64, and `more` that there is more by now.
    """

    state: Literal["done", "running", "failed", "free"]
    env: Annotated[Line, AfterValidator(_absolute)]
    job: Line
    code: Annotated[int, Field(ge=-255, le=255)] | None
    signal: Line | None
    late: bool
    log: Annotated[str, AfterValidator(_decoded)]
    more: bool

    @property
    def output(self) -> bytes:
        """Return what is new of its output."""
        return base64.b64decode(self.log)

    @property
    def ended(self) -> str:
        """Return in words how it ended badly."""
        if self.late:
            return "took too long and was ended"
        if self.signal:
            return f"was ended by SIG{printable(self.signal)[:20]}"
        return f"ended with exit code {self.code}"


_SEEN = TypeAdapter(SetupSeen)


@dataclass(frozen=True)
class NodeSetup:
    """A setup on one node: the environment's digest, for which run, and what runs. `python`: the first in its PATH.

    `secrets` are values by variable, which the command finds beside those of `env`.
    """

    digest: str
    paths: RunPaths
    run: str
    command: str
    timeout: float
    python: str
    env: Mapping[str, str]
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def folder(self) -> str:
        """The folder of the environment on the node; may begin with `~/`."""
        return f"{self.paths.base_dir.rstrip('/')}/{ENVIRONMENTS}/{self.digest}"

    @property
    def words(self) -> str:
        """The command on one line, for people."""
        return printable(" ".join(self.command.split()))[:COMMAND_LENGTH]


async def find_python(transport: Transport, python: str) -> str:
    """Return the path of a Python on a node: of a path, a program in its PATH, or a conda environment.

    Raises:
        NodeRefused: it is not there; the message says where it was looked for. NodeError: as `Transport.run` does.
    """
    name = conda_name(python)
    kind = "conda" if name else "command" if is_command(python) else "path"
    outcome = await transport.run(load("setup/find_python.sh"), (kind, name or python), timeout=FIND_TIMEOUT)
    lines = outcome.text.splitlines()
    found = next((line.removeprefix("python ") for line in lines if line.startswith("python /")), "")
    if outcome.status == 0 and found and found == printable(found):
        return found
    looked = next((line.removeprefix("looked ") for line in lines if line.startswith("looked ")), None)
    if outcome.status != NOT_FOUND or looked is None:
        require(transport, outcome, f"its python {python} cannot be looked for")
        raise NodeRefused(transport.name, f"its python {python} cannot be looked for: its answer makes no sense")
    what = f"the conda environment {name.removeprefix(CONDA)}" if name else f"python {python}"
    raise NodeRefused(
        transport.name,
        f"{what} is not there; looked for {printable(looked)[:500]}",
        f"make it on {transport.name}, or name another one: --python PATH",
    )


async def look_at_setup(transport: Transport, setup: NodeSetup, have: int, *, start: bool) -> SetupSeen:
    """Check how far a setup is, and with `start` begin it if it does not run. `have`: bytes of its output already here.

    Its secrets are sent only with `start`: as data on stdin, and from there into the environment of its processes.
    They are in no argument and in no file.

    Raises:
        NodeRefused: it cannot be checked, or begun. NodeError: as `Transport.run` does.
    """
    paths = setup.paths
    request = {
        "folder": setup.folder,
        "id": secrets.token_hex(8),
        "node": transport.name,
        "run": setup.run,
        "job": paths.job,
        "run_dir": paths.run_dir,
        "code": f"{paths.job_dir}/code",
        "command": setup.command,
        "python": setup.python,
        "timeout": setup.timeout,
        "start": start,
        "have": have,
    }
    handed = setup.secrets if start else {}
    variables = {
        **setup.env,
        **handed,
        "UGRO_RUN": setup.run,
    }  # by which what it starts is known, and ended with the job
    exports = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in variables.items())
    outcome = await transport.run(
        f"home=$HOME\n{exports}{RUN_SETUP}",
        (setup.python or transport.node.python, json.dumps(request)),
        data=load("setup/setup.py").encode(),
        timeout=SETUP_TIMEOUT,
    )
    require_python(transport, outcome, setup.python or None)
    return payload(transport, outcome, "setup", _SEEN, "the setup of its environment cannot be looked at")
