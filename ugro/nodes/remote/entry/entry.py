"""Enters a running job on a node: its directory, its environment and its GPUs, for a command or for a terminal.

What runs there is no part of the job: it carries no mark of the run, so it neither counts as one of its processes nor
is ended with them.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import AsyncIterable, Sequence

from ugro.common.paths import RunPaths
from ugro.nodes.remote.command.command import as_words, run_command
from ugro.nodes.remote.run.process_manager import path_word
from ugro.nodes.transport import Outcome, Transport
from ugro.nodes.transport.base import Output
from ugro.nodes.transport.ssh_config import find_route

OWN_SHELL = ("/bin/sh", "-c", 'exec "${SHELL:-/bin/sh}"')
"""The user's shell, and no login shell: on many systems that one's start-up files set another PATH."""


def door(paths: RunPaths) -> tuple[str, ...]:
    """Return the words that run the words after them as the ranks of a run on its node run: `launch.sh` knows how."""
    return ("/bin/sh", "-c", f'cd {path_word(paths.run_dir)} && exec sh ./launch.sh "$@"', "ugro")


async def execute(
    transport: Transport,
    paths: RunPaths,
    words: Sequence[str],
    on_output: Output | None = None,
    given: AsyncIterable[bytes] | None = None,
) -> Outcome:
    """Run a command in a run's surroundings, as `run_command` does; one word is a line for /bin/sh.

    Raises:
        NodeError: as in `Transport.run`.
    """
    return await run_command(transport, (*door(paths), *as_words(words)), on_output, given)


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
