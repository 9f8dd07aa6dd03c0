"""`ugro stacks`: where each rank of a running job stands."""

from __future__ import annotations

from collections import Counter

import click

from ugro.cli.app import App, Whole, command, json_option
from ugro.cli.complete import complete_job
from ugro.cli.output import print_json, stamp, state_in_words
from ugro.common.errors import InputError, NodeError
from ugro.common.models.job import Job
from ugro.common.text import clock, printable
from ugro.control_plane.failure_handler.stacks import Said, ask, kept, report_of_nccl
from ugro.control_plane.scheduler.accepted import accepts
from ugro.nodes.remote.stacks.stacks import STATES, RankStack, Thread

SHOWN_FRAMES = 12
"""Frames of a thread that are shown, the innermost; --json has all."""


@command(name="stacks")
@click.argument("job", shell_complete=complete_job)
@click.option("--rank", type=Whole(min=0), help="Only this rank.")
@json_option
def stacks_(app: App, job: str, rank: int | None, as_json: bool) -> int:
    """Where each rank of a running JOB (id or name) stands: its Python stack, or what the kernel says of its threads.

    Of one that was found to hang and then ended, it is where its ranks stood then. Python stacks need py-spy, on the
    node or here, and a kernel that lets it look. Nothing is paused or changed.
    """
    found = app.store.jobs.find(job)
    node = None if rank is None else _node_of(found, rank)
    if accepts("stacks", found):
        at, said = None, app.run(lambda _, pool: ask(app.cluster, pool, found, node, rank))
    else:
        at, said = _before_the_end(app, found, rank)
    errors = [answer for answer in said.values() if isinstance(answer, NodeError)]
    answers = {name: answer for name, answer in said.items() if not isinstance(answer, NodeError)}
    seen = [(name, one) for name, answer in answers.items() for one in answer.ranks]
    report = report_of_nccl(list(answers.values())) or None
    if as_json:
        ranks = [{"node": name, **one.model_dump(mode="json")} for name, one in seen]
        refused = [error.as_dict() for error in errors]
        print_json({"id": found.id, "at": stamp(at), "ranks": ranks, "nccl": report, "errors": refused})
    else:
        if at is not None:
            click.echo(f"{state_in_words(found)}; so it stood at {clock(at)}, when it was found to hang:")
        for name, one in seen:
            _show(name, one)
        if report:
            click.secho("NCCL says", bold=True)
        for line in (report or "").splitlines():
            click.echo(f"  {printable(line)}")
        for error in errors:
            click.echo(printable(error.message), err=True)
    return max((error.exit_code for error in errors), default=0)


def _before_the_end(app: App, job: Job, rank: int | None) -> tuple[float, Said]:
    """Where the ranks of a job stood when it was last found to hang, that does not run any more."""
    attempts = range(job.attempt, 0, -1)
    found = next((one for each in attempts if (one := kept(app.store.jobs.files(job.id).hang(each)))), None)
    if found is None:
        raise InputError(f"{state_in_words(job)}; only a running job stands somewhere", f"see: ugro status {job.id}")
    wanted = {
        name: one.model_copy(update={"ranks": tuple(each for each in one.ranks if rank in (None, each.rank))})
        for name, one in found.nodes.items()
    }
    return found.at, wanted


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
