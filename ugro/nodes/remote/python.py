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
) -> T:
    """The answer of a script, such as `speed/speed.py`, run with the node's own python and its `env`, as a rank would.

    Raises:
        NodeRefused: that python is not there, or has no answer of that shape: `problem`, and why.
        NodeError: as `Transport.run` does.
    """
    outcome = await transport.run(
        with_env(transport.node, RUN_PYTHON),
        (transport.node.python, *args),
        data=load(script).encode(),
        timeout=timeout,
    )
    require_python(transport, outcome)
    return payload(transport, outcome, PurePosixPath(script).stem, shape, problem, hint)


def with_env(node: NodeConfig, script: str) -> str:
    """A shell script that has the environment of the node's `env`."""
    return "".join(f"export {key}={shlex.quote(value)}\n" for key, value in node.env.items()) + script


def require_python(transport: Transport, outcome: Outcome) -> None:
    """See that the python that a shell script was to run was there.

    Raises:
        NodeRefused: it was not.
    """
    if outcome.status in (126, 127):
        raise NodeRefused(
            transport.name,
            f"python {transport.node.python} cannot be run there",
            f"find one there that can train, and set 'python' of this node to it: ugro node python {transport.name}",
        )
