"""Enters a running job on a node: its directory, its environment and its GPUs, for a command or for a terminal.

What runs there is no part of the job: it carries no mark of the run, so it neither counts as one of its processes nor
is ended with them.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ugro.common.errors import NodeRefused
from ugro.common.paths import CODE, RunPaths
from ugro.common.text import printable
from ugro.nodes.remote.answers import require
from ugro.nodes.remote.bundle import load
from ugro.nodes.remote.command.command import as_words
from ugro.nodes.remote.run.process_manager import path_word
from ugro.nodes.transport import Outcome, Transport
from ugro.nodes.transport.base import Output
from ugro.nodes.transport.ssh_config import find_route

ENTER = "enter.sh"
"""The file in a run's folder that a terminal begins with. It goes with the folder."""


@dataclass(frozen=True)
class Surroundings:
    """What a command finds around it: the directory of a run's code, the job's variables, and the job's python first
    in PATH.
    """

    paths: RunPaths
    environment: Mapping[str, str]
    python: str

    @property
    def setup(self) -> str:
        """The lines for a shell. They end it where the directory is gone."""
        lines = [f"cd {path_word(f'{self.paths.job_dir}/{CODE}')} || exit 1"]
        lines.append(f"programs={path_word(os.path.dirname(self.python))}")  # before another HOME counts
        lines += [f"export {name}={shlex.quote(value)}" for name, value in self.environment.items()]
        lines.append('PATH="${programs:+$programs:}$PATH"; export PATH; unset programs')
        return "\n".join(lines) + "\n"


async def execute(
    transport: Transport, around: Surroundings, words: Sequence[str], on_output: Output | None = None
) -> Outcome:
    """Run a command in a job's surroundings; one word is a line for /bin/sh. Without `on_output` its output is kept.

    It ends as a command of `run_command` does.

    Raises:
        NodeError: as in `Transport.run`.
    """
    script = around.setup + load("command/command.sh")
    return await transport.run(script, as_words(words), data=None, timeout=None, on_output=on_output)


async def leave_door(transport: Transport, around: Surroundings) -> str:
    """Write the file that a terminal in a job's surroundings begins with. Returns its absolute path.

    Raises:
        NodeRefused: it cannot be written. NodeError: as in `Transport.run`.
    """
    text = f'#!/bin/sh\n{around.setup}[ $# -eq 0 ] || exec "$@"\nexec "${{SHELL:-/bin/sh}}" -l\n'
    outcome = await transport.run(load("entry/write.sh"), (around.paths.run_dir, ENTER, text))
    require(transport, outcome, f"{around.paths.job} cannot be entered")
    folder = outcome.text.strip()
    if not folder.startswith("/") or printable(folder) != folder:
        raise NodeRefused(transport.name, f"the path of its folder makes no sense: {printable(folder)[:100]!r}")
    return f"{folder}/{ENTER}"


async def terminal_words(transport: Transport, command: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the command line that gives a terminal on a node: of ssh, over the way that UGRO takes there.

    With a `command`, this runs instead of a login shell. An unknown host key is refused, not asked about: `ugro trust`
    does that.

    Raises:
        KeyUnusable: its ssh_config cannot be read.
    """
    if transport.node.local:
        return tuple(command) or (os.environ.get("SHELL") or "/bin/sh", "-l")
    target = (await find_route(transport.node))[-1]
    key = ("-i", target.path(target.identity_file)) if target.identity_file else ()
    remote = (shlex.join(command),) if command else ()
    return ("ssh", *target.arguments, *key, "-t", "-o", "StrictHostKeyChecking=yes", "--", target.asked, *remote)
