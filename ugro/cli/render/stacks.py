"""Prints the stacks of a rank."""

from __future__ import annotations

from collections import Counter

import click

from ugro.common.models.stacks import STATES, Thread
from ugro.common.text import printable
from ugro.service.schemas.stacks import RankStackDocument

SHOWN_FRAMES = 12
"""Frames of a thread that are shown, the innermost; --json has all."""


def print_rank(rank: RankStackDocument) -> None:
    """Print the threads of a rank that have a Python stack, its main thread first, and count the others."""
    state = "its process has ended" if rank.state is None else STATES.get(rank.state, rank.state)
    used = "" if rank.cpu_seconds is None else f", {rank.cpu_seconds:.1f} s of CPU time so far"
    click.secho(f"rank {rank.rank} on {rank.node}: {printable(state)} (pid {rank.pid or '-'}){used}", bold=True)
    shown = [thread for thread in rank.threads if thread.frames or thread.tid == rank.pid]
    for thread in sorted(shown, key=lambda thread: thread.tid != rank.pid):
        _print_thread(thread)
    others = Counter(thread.waits_in for thread in rank.threads if thread not in shown)
    for words, number in others.most_common():
        click.echo(f"  {number} more: {printable(words)}")
    if rank.problem:
        click.echo(f"  no Python stack: {printable(rank.problem)}")


def _print_thread(thread: Thread) -> None:
    click.echo(f"  {printable(thread.name)} ({thread.tid}) {printable(thread.waits_in)}{_kernel(thread)}")
    for frame in thread.frames[:SHOWN_FRAMES]:
        line = "" if frame.line is None else f":{frame.line}"
        click.echo(f"    {printable(frame.function)}  {printable(frame.file)}{line}")
    if len(thread.frames) > SHOWN_FRAMES:
        click.echo(f"    … and {len(thread.frames) - SHOWN_FRAMES} more")


def _kernel(thread: Thread) -> str:
    where = thread.kernel[0] if thread.kernel else thread.wchan
    return f" [{printable(where)}]" if where else ""
