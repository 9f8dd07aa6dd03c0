"""Starts a Jupyter server as a job on a node, and finds it there.

The server writes its port into a file of its runtime folder, which is in the run's folder and is removed with it.
"""

from __future__ import annotations

import json
import re
import secrets
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from ugro.common.models.record import Record
from ugro.common.paths import RunPaths
from ugro.nodes.remote.answers import read_sections, require
from ugro.nodes.remote.bundle import load
from ugro.nodes.transport import Transport

RUNTIME = "jupyter"
"""Folder in a run's folder for the runtime files of its Jupyter server."""

LOOK_TIMEOUT = 20.0

STARTER = "START_NOTEBOOK"
"""The variable with the program that starts the server, so that the command stays short where it is shown."""

COMMAND = ("sh", "-c", f'exec "$UGRO_PYTHON" -c "${STARTER}" "$@"', "notebook")
"""What such a job runs; more arguments are those of Jupyter."""

_PATH = re.compile(r"/(?:[A-Za-z0-9._~-]+/)*")


def starter() -> str:
    """Return the program that starts the server on a node."""
    return load("notebook/start.py")


class JupyterServer(Record):
    """A Jupyter server as its runtime file describes it: its port there and the path that its pages begin with."""

    port: Annotated[int, Field(ge=1, le=65535)]
    base_url: str = "/"


_SERVER = TypeAdapter(JupyterServer)


async def find_server(transport: Transport, paths: RunPaths) -> JupyterServer | None:
    """Return the Jupyter server of a run; None: there is none so far.

    Raises:
        NodeRefused: its folder cannot be read. NodeError: as `Transport.run` does.
    """
    nonce = secrets.token_hex(8)
    outcome = await transport.run(
        load("notebook/servers.sh"), (nonce, f"{paths.run_dir}/{RUNTIME}"), timeout=LOOK_TIMEOUT
    )
    require(transport, outcome, "the notebook cannot be looked for")
    for section in read_sections(outcome.text, nonce):
        try:
            said = json.loads("\n".join(section.lines))
            found = _SERVER.validate_python({name: said[name] for name in ("port", "base_url") if name in said})
        except (ValueError, TypeError, RecursionError, ValidationError):  # half written, or of something else
            continue
        if _PATH.fullmatch(found.base_url):
            return found
    return None
