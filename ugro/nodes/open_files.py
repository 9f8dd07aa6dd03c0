"""How many files this process may have open: as many as the system allows. What it starts gets what a login has."""

from __future__ import annotations

import contextlib
import resource

_inherited: int | None = None


def raise_limit() -> None:
    """Raise the soft limit of open files to the hard one: a connection to a node takes several of them."""
    global _inherited
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # a container may forbid it; then the usual limit has to do
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            _inherited = soft


def with_inherited_limit(command: str) -> str:
    """A command line for /bin/sh that runs with the soft limit from before `raise_limit`.

    A training that runs on this machine has what it has on the others, and programs that close what they may have
    inherited one by one do not take seconds for it.
    """
    return command if _inherited is None else f"ulimit -S -n {_inherited}; {command}"
