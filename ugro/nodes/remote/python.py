"""Runs a Python script with the python that trains on a node."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TypeVar

from pydantic import TypeAdapter

from ugro.common.config import NodeConfig
from ugro.common.errors import NodeRefused
from ugro.nodes.remote.answers import payload
from ugro.nodes.remote.bundle import load
from ugro.nodes.transport import Outcome, Transport

T = TypeVar("T")

ANOTHER = "set 'python' of this node in the inventory to an interpreter that has torch"
ANOTHER_OF_JOB = "name another one with --python, or let the setup command make it: $UGRO_ENV_DIR/bin/python"

RUN_PYTHON = 'python=$1; shift; case $python in "~/"*) python=$HOME/${python#"~/"} ;; esac; exec "$python" - "$@"'
"""PYTHON [ARG…]: the script is what comes on stdin."""

RUN_PROGRAM = """
python=$1 program=$2
shift 2
case $python in "~/"*) python=$HOME/${python#"~/"} ;; esac
exec "$python" -I -S -c "$program" "$@"
"""
"""PYTHON PROGRAM [ARG…]: stdin is for the program, which goes without what that python has installed."""


async def ask_script(
    transport: Transport,
    script: str,
    args: Sequence[str],
    shape: TypeAdapter[T],
    problem: str,
    *,
    timeout: float,
    hint: str = "",
    python: str | None = None,
) -> T:
    """The answer of a script, such as `speed/speed.py`, run with the node's own python and its `env`, as a rank would.

    `python` is another one, which a job asks for.

    Raises:
        NodeRefused: that python is not there, or has no answer of that shape: `problem`, and why.
        NodeError: as `Transport.run` does.
    """
    outcome = await transport.run(
        with_env(transport.node, RUN_PYTHON),
        (python or transport.node.python, *args),
        data=load(script).encode(),
        timeout=timeout,
    )
    require_python(transport, outcome, python)
    return payload(transport, outcome, PurePosixPath(script).stem, shape, problem, hint)


def with_env(node: NodeConfig, script: str) -> str:
    """A shell script that has the environment of the node's `env`."""
    return "".join(f"export {key}={shlex.quote(value)}\n" for key, value in node.env.items()) + script


def require_python(transport: Transport, outcome: Outcome, python: str | None = None) -> None:
    """See that the python that a shell script was to run was there: the node's, or another one.

    Raises:
        NodeRefused: it was not.
    """
    if outcome.status in (126, 127):
        raise NodeRefused(
            transport.name,
            f"python {python or transport.node.python} cannot be run there",
            ANOTHER if python in (None, transport.node.python) else ANOTHER_OF_JOB,
        )
