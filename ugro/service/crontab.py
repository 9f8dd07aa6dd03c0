"""Adds the scheduling pass to the user's crontab, removes it, shows it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

from ugro.common.errors import InputError
from ugro.common.text import printable
from ugro.service.context import Context
from ugro.service.crontab_lines import (
    crontab_program,
    edit,
    own_lines,
    read,
    sweep_line,
    text_of,
    with_block,
    without_block,
)
from ugro.service.schemas.crontab import CrontabChanged, CrontabLines, InstallSweep, RemoveSweep, ShowSweep

TRIAL_PATIENCE = 60.0
"""Seconds that the trial of the line's Python has."""


async def install(context: Context, request: InstallSweep) -> CrontabChanged:
    """Add the sweep to the crontab, or replace what was added before. Every other line stays as it is.

    Raises:
        InputError: cron cannot do that, there is no `crontab`, or the line would not work there.
        StateError: the copy of what the crontab was cannot be written.
    """
    if 60 % request.every:
        fitting = ", ".join(str(minutes) for minutes in range(1, 31) if 60 % minutes == 0)
        problem = f"--every {request.every}: cron restarts every hour, and 60 is no multiple of it"
        raise InputError(problem, f"take {fitting}")
    crontab_program()
    home = context.store.home.absolute()
    line = sweep_line(request.every, sys.executable, context.inventory.path.absolute(), home)
    await asyncio.to_thread(_try, sys.executable)
    changed = await asyncio.to_thread(edit, home, lambda text: with_block(text, line))
    return CrontabChanged(changed=changed, lines=(line,))


async def remove(context: Context, request: RemoveSweep) -> CrontabChanged:
    """Take the sweep out of the crontab. Every other line stays as it is.

    Raises:
        InputError, StateError: as `edit`.
    """
    changed = await asyncio.to_thread(edit, context.store.home.absolute(), without_block)
    return CrontabChanged(changed=changed, lines=())


async def show(context: Context, request: ShowSweep) -> CrontabLines:
    """Return UGRO's lines in the crontab.

    Raises:
        InputError: as `read` and `own_lines`.
    """
    own = own_lines(await asyncio.to_thread(read))
    lines = tuple(line.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for line in own)
    return CrontabLines(installed=bool(lines), lines=lines)


def _try(python: str) -> None:
    """Check that the line works where nothing is set, as under cron.

    Raises:
        InputError: it does not.
    """
    bare = {"PATH": "/usr/bin:/bin", "HOME": os.path.expanduser("~")}
    trial = [python, "-m", "ugro", "--help"]
    done = subprocess.run(trial, cwd="/", env=bare, capture_output=True, timeout=TRIAL_PATIENCE)
    if done.returncode != 0:
        raise InputError(
            f"{python} -m ugro does not work outside of this shell: {printable(text_of(done.stderr).strip())[-200:]}",
            "install UGRO into that Python; cron knows no PYTHONPATH",
        )
