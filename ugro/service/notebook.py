"""Notebooks: Jupyter servers that run as jobs, with a token of their own."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from pydantic import SecretStr

from ugro.common.errors import InputError
from ugro.common.job_spec import JobSpec, job_spec
from ugro.common.models.job_state import JobState
from ugro.common.paths import run_config, run_paths
from ugro.control_plane.metadata_store.secrets import SecretMissing
from ugro.nodes.remote.notebook.notebook import COMMAND, STARTER, find_server, starter
from ugro.service.context import Context
from ugro.service.schemas.notebook import FindNotebook, NotebookServer
from ugro.service.submission import LaunchLine, SpecRead, read_spec
from ugro.service.words import state_in_words

VARIABLE = "JUPYTER_TOKEN"
"""The variable from which Jupyter reads its token."""

NOTEBOOKS = "**/*.ipynb"
"""The outputs of such a job."""

FOR_EVER = 10 * 365 * 86400.0
"""Seconds of silence that are no hang: a notebook waits for its user."""


def notebook_spec(options: dict[str, Any], jupyter: tuple[str, ...]) -> SpecRead:
    """Return the spec of a job that serves notebooks, from options of `ugro launch` and arguments for Jupyter.

    It has the project's defaults beneath it, as any launch.

    Raises:
        InputError, JobSpecError: as `read_spec` does.
    """
    read = read_spec(LaunchLine((), (*COMMAND, *jupyter), options), _no_default)
    own = read.spec.model_dump(exclude_unset=True)
    own |= {
        "env": read.spec.env | {STARTER: starter()},
        "secrets": (*read.spec.secrets, f"{VARIABLE}=ugro-token-{secrets.token_hex(6)}"),
        "outputs": (NOTEBOOKS,),
        "hang_after": {"min": FOR_EVER, "max": FOR_EVER},
        "on_failure": "fail",
    }
    return SpecRead(job_spec(**own), read.note)


def _no_default() -> Any:
    raise AssertionError("a command is named")


async def find(context: Context, request: FindNotebook) -> NotebookServer:
    """Find the Jupyter server of a job on its node.

    Raises:
        InputError: there is no such job, it is no notebook, or it has ended. NodeError: its node is unreachable.
    """
    job = context.store.jobs.find(request.job)
    spec = context.asked(job)
    if spec is None or STARTER not in spec.env:
        raise InputError(f"{job.id} is no notebook", "start one: ugro notebook")
    if job.state.ended:
        raise InputError(f"{state_in_words(job)}: it serves no notebook", f"run it again: ugro rerun {job.id}")
    node, token = (job.nodes[0] if job.nodes else None), await asyncio.to_thread(_token, context, spec)
    config = run_config(context.cluster, job, node) if node else None
    paths = run_paths(context.cluster, job, node) if node else None
    python = config.python if config and not spec.python else None
    if job.state != JobState.RUNNING or config is None or paths is None:
        return NotebookServer(id=job.id, node=node, python=python, port=None, path="/", token=token)
    found = await find_server((await context.reach()).pool.transport(config), paths)
    path, port = (found.base_url, found.port) if found else ("/", None)
    return NotebookServer(id=job.id, node=node, python=python, port=port, path=path, token=token)


def _token(context: Context, spec: JobSpec) -> SecretStr | None:
    name = spec.secret_names.get(VARIABLE)
    try:
        return SecretStr(context.store.secrets.value(name)) if name else None
    except SecretMissing:  # it ended meanwhile
        return None
