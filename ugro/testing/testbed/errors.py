"""What goes wrong with the bed itself, and running the tools it is made with."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping


class TestbedError(Exception):
    """The bed cannot be made or changed as asked."""

    __test__ = False


def system(*argv: str, env: Mapping[str, str] | None = None) -> str:
    """Run a program of this machine and return its output. `env` is its whole environment, ours if None.

    Raises:
        TestbedError: it failed; the message is what it said.
    """
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env)
    if done.returncode:
        raise TestbedError(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip() or done.returncode}")
    return done.stdout
