"""`ugro stacks`: where each rank of a running job stands."""

from __future__ import annotations

from collections import Counter

import click

from ugro.cli.app import App, Whole, command, complete_job, json_option
from ugro.cli.output import print_json, state_in_words
from ugro.common.errors import InputError, NodeError
from ugro.common.models import Job, JobState
from ugro.common.paths import run_paths
from ugro.common.text import printable
from ugro.control_plane.controller import Controller
from ugro.nodes.pool import Pool
from ugro.nodes.stacks import STATES, NodeStacks, RankStack, Thread, own_py_spy, stacks
from ugro.nodes.transport import Transport

SHOWN_FRAMES = 12
"""Frames of a thread that are shown, the innermost; --json has all."""


@command(name="stacks")
@click.argument("job", shell_complete=complete_job)
@click.option("--rank", type=Whole(min=0), help="Only this rank.")
@json_option
def stacks_(app: App, job: str, rank: int | None, as_json: bool) -> int:
    """Where each rank of a running JOB (id or name) stands: its Python stack, or what the kernel says of its threads.

    Python stacks need py-spy, on the node or here, and a kernel that lets it look. Nothing is paused or changed.
    """
    found = app.store.find(job)
    if found.state not in (JobState.RUNNING, JobState.UNKNOWN):
        raise InputError(
            f"{state_in_words(found)}; only a running job stands somewhere", f"see: ugro status {found.id}"
        )
    node = None if rank is None else _node_of(found, rank)

    async def look(_: Controller, pool: Pool) -> dict[str, NodeStacks | NodeError]:
        async def one(transport: Transport) -> NodeStacks:
            paths = run_paths(app.cluster, found, transport.name)
            if paths is None:
                return NodeStacks(ranks=())
            return await stacks(transport, paths, [] if rank is None else [rank], own_py_spy())

        return await pool.each([name for name in found.nodes if node in (None, name)], one)

    said = app.run(look)
    errors = [answer for answer in said.values() if isinstance(answer, NodeError)]
    answers = {name: answer for name, answer in said.items() if not isinstance(answer, NodeError)}
    seen = [(name, one) for name, answer in answers.items() for one in answer.ranks]
    report = next((answer.nccl for answer in answers.values() if answer.nccl), None)  # of the whole job, on every node
    if as_json:
        ranks = [{"node": name, **one.model_dump(mode="json")} for name, one in seen]
        refused = [error.as_dict() for error in errors]
        print_json({"id": found.id, "ranks": ranks, "nccl": report, "errors": refused})
    else:
        for name, one in seen:
            _show(name, one)
        if report:
            click.secho("NCCL says", bold=True)
        for line in (report or "").splitlines():
            click.echo(f"  {printable(line)}")
        for error in errors:
            click.echo(printable(error.message), err=True)
    return max((error.exit_code for error in errors), default=0)


def _node_of(job: Job, rank: int) -> str:
    for one in job.ranks:
        if one.rank == rank:
            return one.node
    raise InputError(f"{job.id} has no rank {rank}", f"its ranks are 0 to {len(job.ranks) - 1}")


def _show(node: str, rank: RankStack) -> None:
    state = "its process has ended" if rank.state is None else STATES.get(rank.state, rank.state)
    used = "" if rank.cpu_seconds is None else f", {rank.cpu_seconds:.1f} s of CPU time so far"
    click.secho(f"rank {rank.rank} on {node}: {printable(state)} (pid {rank.pid or '-'}){used}", bold=True)
    shown = [thread for thread in rank.threads if thread.frames or thread.tid == rank.pid]
    for thread in sorted(shown, key=lambda thread: thread.tid != rank.pid):
        _show_thread(thread)
    others = Counter(thread.waits_in for thread in rank.threads if thread not in shown)
    for words, number in others.most_common():
        click.echo(f"  {number} more: {printable(words)}")
    if rank.problem:
        click.echo(f"  no Python stack: {printable(rank.problem)}")


def _show_thread(thread: Thread) -> None:
    click.echo(f"  {printable(thread.name)} ({thread.tid}) {printable(thread.waits_in)}{_kernel(thread)}")
    for frame in thread.frames[:SHOWN_FRAMES]:
        line = "" if frame.line is None else f":{frame.line}"
        click.echo(f"    {printable(frame.function)}  {printable(frame.file)}{line}")
    if len(thread.frames) > SHOWN_FRAMES:
        click.echo(f"    … and {len(thread.frames) - SHOWN_FRAMES} more")


def _kernel(thread: Thread) -> str:
    where = thread.kernel[0] if thread.kernel else thread.wchan
    return f" [{printable(where)}]" if where else ""
