"""Say which inventory a command uses, and where its path came from; errors about nodes add this."""

from __future__ import annotations

import os
import shlex
import shutil
import sys

from ugro.common.errors import UgroError
from ugro.common.locations import chosen_inventory
from ugro.common.text import printable
from ugro.sandbox.shell import folder_of_shell, is_sandbox


def as_called() -> str:
    """Return the word that calls this `ugro`: its name where PATH has it, else the path by which it was called."""
    called = sys.argv[0]
    return "ugro" if shutil.which("ugro") or not os.access(called, os.X_OK) else shlex.quote(called)


def leave_sandbox() -> str:
    """Return what to type in a shell that points to the sandbox, and should not any more."""
    return f'eval "$({as_called()} sandbox env --unset)"'


def whence(option: str | None) -> str:
    """The inventory in use and what named it; of a sandbox that is stopped how to start or leave it."""
    path, source = chosen_inventory(option)
    told = f"inventory: {printable(str(path))}" + (f" (from {source})" if source else "")
    if is_sandbox(path) and not _sandbox_runs():
        told += f"\nthe sandbox is stopped: start it with `{as_called()} sandbox up`, or leave it: {leave_sandbox()}"
    return told


def _sandbox_runs() -> bool:
    from ugro.sandbox.cluster import Sandbox  # here, since hardly a command asks for it

    folder = folder_of_shell()
    try:
        return folder is not None and Sandbox(folder).status().running
    except UgroError:  # the sandbox's own commands report broken files
        return False
