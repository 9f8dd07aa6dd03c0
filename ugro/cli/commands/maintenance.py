"""Commands that maintain the state directory: state, gc."""

from __future__ import annotations

import shlex

import click

from ugro.cli.app import App, Whole, command, json_option
from ugro.cli.output import print_hanging, print_json
from ugro.cli.render.checkpoints import checkpoints_in_words
from ugro.common.errors import EXIT_NODES, EXIT_OK, EXIT_STATE, InputError
from ugro.common.text import clock, printable, size, some, visible, without_name
from ugro.common.units import parse_duration
from ugro.service.schemas.records import Rebuild
from ugro.service.schemas.removal import (
    Collect,
    Collected,
    CollectedEnvironment,
    CollectedJob,
    JobInWords,
    PlanCollect,
    UnreachableNode,
)


@click.group()
def state() -> None:
    """Maintain UGRO's own records."""


@command()
@json_option
def rebuild(app: App, as_json: bool) -> int:
    """Rebuild the indexes of jobs from the jobs' folders.

    Jobs with unreadable records are listed after the others are indexed, with exit code 4. A damaged cluster.json is
    kept aside and its previous version restored. Its damaged rows are moved to cluster.json.aside; rows that you
    corrected there are restored.
    """
    done = app.call(Rebuild())
    found = done.answer
    if as_json:
        print_json(found.as_json())
    else:
        for words in found.mended:
            click.echo(printable(words))
        click.echo(f"indexed {found.live} live and {found.ended} ended jobs of {done.home}")
        for broken in found.unreadable:
            hint = f"; {broken.error.hint}" if broken.error.hint else ""
            print_hanging("", f"{broken.id} is unreadable: {broken.error.message}{hint}", fg="red")
    return EXIT_STATE if found.unreadable else EXIT_OK


state.add_command(rebuild)


@command()
@click.option("--older-than", default="30d", show_default=True, metavar="TIME", help="Only jobs that ended longer ago.")
@click.option("--keep", type=Whole(min=0), default=0, metavar="N", help="Keep the N jobs that ended last.")
@click.option("--with-checkpoints", is_flag=True, help="Also code and node folders of jobs with checkpoints.")
@click.option("--delete", is_flag=True, help="Remove it. Default: only show what would be removed.")
@json_option
def gc(app: App, older_than: str, keep: int, with_checkpoints: bool, delete: bool, as_json: bool) -> int:
    """Remove what old jobs left: logs, code, folders on nodes, environments.

    An environment that a setup command made goes if no other job used it in that time; a job that needs it makes it
    again. Partial files of killed commands go, too. Records, specs, events and pulled checkpoints stay. A job keeps
    its code and its folders on nodes if it has checkpoints, if that is unknown, or if one of its nodes is unreachable.
    """
    try:
        seconds = parse_duration(older_than)
    except ValueError as error:
        raise InputError(f"--older-than {older_than!r}: {error}") from None
    plan = app.call(PlanCollect(older_than=seconds, keep=keep, with_checkpoints=with_checkpoints))
    done = app.call(Collect(plan=plan)) if delete else plan.found
    if as_json:
        print_json(done.answer.as_json())
    else:
        words = ["ugro gc", "--older-than", shlex.quote(older_than), *(["--keep", str(keep)] if keep else [])]
        do_it = " ".join([*words, *(["--with-checkpoints"] if with_checkpoints else []), "--delete"])
        _tell(done, older_than, None if delete else do_it)
    return EXIT_NODES if done.answer.unreachable else EXIT_OK


def _tell(done: Collected, older_than: str, do_it: str | None) -> None:
    found = done.answer
    for job, said in zip(found.jobs, done.jobs, strict=True):
        click.echo(f"{job.id}  {_in_words(job, said)}")
    for environment in found.environments:
        click.echo(f"{environment.name} on {environment.node}  {_environment_in_words(environment)}")
    for path in found.temporary:
        click.echo(f"{visible(path)}, partial file, {f'would be removed: {do_it}' if do_it else 'removed'}")
    for silent in found.unreachable:
        click.echo(f"{silent.node} is skipped: {_why(silent)}", err=True)
    for silent in found.unsearched:
        click.echo(f"{silent.node} is not searched for environments: {_why(silent)}", err=True)
    going = [one for one in found.environments if one.kept is None]
    if not (going or any(job.bytes or said.code or job.nodes for job, said in zip(found.jobs, done.jobs, strict=True))):
        click.echo(f"nothing to remove of jobs that ended more than {older_than} ago")
        return
    total = f"{_size(found.bytes)} of logs, {_size(found.code_bytes)} of code"
    if going:
        total += f", {_size(sum(one.bytes for one in going))} of environments"
    for on in found.nodes:
        total += f", {_size(on.bytes)} on {on.node}"
    if found.nodes:
        click.echo("this includes what the jobs wrote into their code folders on nodes")
    click.echo(f"{total} would be removed: {do_it}" if do_it else f"{total} removed")


_KEPT = {
    "running": "it is used by now",
    "left": "not all of it could be removed",
    "unreachable": "its node is unreachable",
}


def _environment_in_words(one: CollectedEnvironment) -> str:
    used = f"last used {clock(one.used_at)[:10]}" if one.used_at else "its setup did not end well"
    return f"{_size(one.bytes)}, {used}" + (f"; it stays: {_KEPT[one.kept]}" if one.kept else "")


def _in_words(job: CollectedJob, said: JobInWords) -> str:
    goes = [f"logs {_size(job.bytes)}"] if job.bytes else []
    goes += [f"code {_size(job.code_bytes)}"] if said.code else []
    goes += [f"{part.node} {_size(part.bytes)}" for part in job.nodes]
    stays = f"its code and node folders stay: {said.kept}" if said.kept else ""
    if said.resumable:
        stays += f" ({_facts(job)}); with them: --with-checkpoints"
    return "; ".join(filter(None, [", ".join(goes), stays]))


def _why(silent: UnreachableNode) -> str:
    return printable(without_name(silent.error.message, silent.node))


def _facts(job: CollectedJob) -> str:
    return checkpoints_in_words(job.checkpoints) or some(list(job.unseen))


def _size(count: int) -> str:
    return size(count / 2**20)
