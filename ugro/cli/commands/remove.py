"""`ugro rm`: removes ended jobs from this machine and from their nodes."""

from __future__ import annotations

import click

from ugro.cli.app import App, command, json_option
from ugro.cli.main import report
from ugro.cli.output import print_json
from ugro.cli.prompts import answers
from ugro.cli.render.checkpoints import checkpoints_in_words
from ugro.cli.several import JobChoice, choose, jobs_arguments
from ugro.common.errors import EXIT_NODES
from ugro.common.text import bytes_in_words, count, printable, size, some, without_name
from ugro.service.schemas.removal import PlanRemove, Remove, RemovedJob, UseDocument

LEFT_THERE = {
    "left": "part of its folder cannot be removed; see: ugro footprint --on {node}",
    "link": "a folder of it is a link; its target stays",
    "rest": "files that are not UGRO's stay in its folder",
}
"""What is said of a node where something of a job stays, by what became of its folder."""


@command()
@jobs_arguments()
@click.option("--with-checkpoints", is_flag=True, help="Also jobs that have checkpoints, or may have them.")
@json_option
def rm(app: App, choice: JobChoice, with_checkpoints: bool, as_json: bool) -> int:
    """Remove ended jobs: record, logs, code, folders on nodes.

    JOB is an id, a name or a pattern like 'lr-*'. Copies of outputs and checkpoints on this machine and everything in
    the code folders on nodes are removed too; files that a job saved elsewhere stay. The folder on an unreachable node
    is removed once the node answers.
    """
    yes, chosen = choice.yes, choose(app, "rm", choice, as_json)
    jobs = tuple(one.job.id if one.job else one.reference for one in chosen.found)
    plan = app.call(PlanRemove(jobs=jobs, with_checkpoints=with_checkpoints))
    if not as_json:
        for use in plan.jobs:
            _show(use)
    # --yes is no consent to what a job could be resumed from, and who says it wants no question.
    said = answers(plan.questions, {"remove": True} if yes else None, ask=not (as_json or yes))
    done = app.call(Remove(plan=plan, answers=said))
    if as_json:
        print_json(done.as_json())
    else:
        for job in done.removed:
            _tell(job)
        for refused in done.failed:
            report(refused.error.as_json(), as_json=False)
    unreached = any(node.error for job in done.removed for node in job.nodes)
    return max(EXIT_NODES, plan.exit_code) if unreached else plan.exit_code


def _show(use: UseDocument) -> None:
    click.echo(f"{use.title}, {use.state.value}:", err=True)
    outputs = f", {bytes_in_words(use.outputs)} of them its outputs" if use.outputs else ""
    click.echo(f"  {size(use.bytes / 2**20)} on this machine{outputs}", err=True)
    for part in use.parts:
        click.echo(f"  {count(part.files, 'file')}, {size(part.bytes / 2**20)} on {part.node}", err=True)
    for node in use.silent:
        click.echo(f"  {node} is unreachable: its part is removed once it answers", err=True)
    if use.parts:
        click.echo("  with everything that it wrote into its code folders", err=True)
    if use.checkpoints:
        click.echo(f"  checkpoints: {printable(checkpoints_in_words(use.checkpoints))}", err=True)
    if use.unseen:
        click.echo(f"  not searched for checkpoints: {some([printable(words) for words in use.unseen])}", err=True)


def _tell(job: RemovedJob) -> None:
    click.echo(f"{job.id} was removed")
    for on in job.nodes:
        if on.error:
            why = printable(without_name(on.error.message, on.node))
            click.echo(f"  {on.node}: {why}; its folder goes once the node answers", err=True)
        elif words := LEFT_THERE.get(on.state):
            click.echo(f"  {on.node}: {words.format(node=on.node)}", err=True)
