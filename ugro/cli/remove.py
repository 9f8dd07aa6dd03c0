"""`ugro rm`: an ended job goes wholly, from this machine and from its nodes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from ugro.cli.app import App, command, json_option
from ugro.cli.complete import complete_job
from ugro.cli.main import report
from ugro.cli.output import checkpoint_document, print_json, title
from ugro.cli.prompts import confirm
from ugro.common.errors import EXIT_NODES, EXIT_OK, Declined, InputError, NodeError, UgroError
from ugro.common.models.checkpoint import Checkpoint
from ugro.common.models.job import Job
from ugro.common.text import count, printable, size, some
from ugro.control_plane.controller.tick import Controller
from ugro.control_plane.metadata_store import removal
from ugro.nodes.pool import Pool
from ugro.nodes.remote.footprint.footprint import Removal

Said = dict[str, Removal | NodeError]


@command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...", shell_complete=complete_job)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--with-checkpoints", is_flag=True, help="Also jobs that have checkpoints, or may have some.")
@json_option
def rm(app: App, jobs: tuple[str, ...], yes: bool, with_checkpoints: bool, as_json: bool) -> int:
    """Remove ended jobs (ids or names) wholly: record, logs, code, copies of checkpoints, and their folders on nodes.

    What they wrote into their code folders on the nodes goes too; what they saved elsewhere stays. From a node that is
    unreachable a job's folder goes once it answers.
    """
    found, refused = _removable(app, jobs)

    async def act(_: Controller, pool: Pool) -> list[tuple[removal.Use, Said]]:
        uses = (await removal.survey(app.store, app.cluster, pool, found)).uses
        if not as_json:
            for use in uses:
                _show(use)
        _agree(uses, yes, with_checkpoints, as_json)
        return [(use, await removal.remove(app.store, pool, use)) for use in uses]

    done = app.run(act) if found else []
    if as_json:
        removed = [_document(use, said) for use, said in done]
        failed = [{"name": name, "error": error.as_dict()} for name, error in refused.items()]
        print_json({"schema_version": 1, "removed": removed, "failed": failed})
    else:
        for use, said in done:
            _tell(use.job, said)
        for error in refused.values():
            report(error.as_dict(), as_json=False)
    unreached = any(isinstance(answer, NodeError) for _, said in done for answer in said.values())
    return max([EXIT_NODES if unreached else EXIT_OK, *(error.exit_code for error in refused.values())])


def _removable(app: App, names: Sequence[str]) -> tuple[list[Job], dict[str, UgroError]]:
    """The jobs that may go, and by name why others may not: of several, the failure of one stops no other."""
    found: dict[str, Job] = {}
    refused: dict[str, UgroError] = {}
    for name in dict.fromkeys(names):
        try:
            job = app.settled(app.store.jobs.find(name))
            removal.require_removable(app.store, job)
            found[job.id] = job
        except UgroError as error:
            if len(names) == 1:
                raise
            refused[name] = error
    return list(found.values()), refused


def checkpoints_in_words(found: Sequence[Checkpoint]) -> str:
    """Which checkpoints there are, with their sizes and places."""
    words = []
    for one in found:
        where = ", ".join(place.node for place in one.places) or "this machine"
        torn = f" ({one.name} {one.problem})" if one.problem else ""
        step = one.name if one.position is None else one.where
        words.append(f"{step}, {size(one.bytes / 2**20)} on {where}{torn}")
    return some(words, "; ")


def _show(use: removal.Use) -> None:
    here = use.logs + use.snapshots + use.record
    click.echo(f"{title(use.job)}, {use.job.state.value}:", err=True)
    click.echo(f"  {size(here / 2**20)} on this machine", err=True)
    for part in use.parts:
        found = part.found
        click.echo(f"  {count(found.files, 'file')}, {size(found.bytes / 2**20)} on {part.node.name}", err=True)
    for node in use.silent:
        click.echo(f"  {node.name} is unreachable: what it has goes once it answers", err=True)
    if use.parts:
        click.echo("  with all that it wrote into its code folders", err=True)
    if use.checkpoints:
        click.echo(f"  checkpoints: {printable(checkpoints_in_words(use.checkpoints))}", err=True)
    if use.unseen:
        click.echo(f"  not searched for checkpoints: {some([printable(words) for words in use.unseen])}", err=True)


def _agree(uses: Sequence[removal.Use], yes: bool, with_checkpoints: bool, as_json: bool) -> None:
    """Ask for what goes, and once more for what a job could be resumed from.

    Raises:
        InputError: an answer is missing, and there is no terminal to ask.
        Declined: the answer is no.
    """
    jobs = " ".join(use.job.id for use in uses)
    asked = not as_json and sys.stdin.isatty()
    if not yes and not asked:
        raise InputError("confirmation needed, but stdin is not a terminal", f"use --yes: ugro rm {jobs} --yes")
    if not yes and not confirm("Remove all of it?"):
        raise Declined("nothing was removed")
    for use in uses:
        if with_checkpoints or not use.resumable:
            continue
        reason = f"{use.job.id}: {use.resumable.value}"
        if not asked or yes:
            raise InputError(f"{reason}; nothing was removed", f"to remove it: ugro rm {jobs} --yes --with-checkpoints")
        if not confirm(f"{reason}. It cannot be resumed afterwards. Remove it?"):
            raise Declined("nothing was removed")


def _document(use: removal.Use, said: Said) -> dict[str, Any]:
    nodes = [
        {"node": node, "state": answer.value, "error": None}
        if isinstance(answer, Removal)
        else {"node": node, "state": "unreachable", "error": answer.as_dict()}
        for node, answer in said.items()
    ]
    return {
        "id": use.job.id,
        "name": use.job.name,
        "bytes": use.logs + use.snapshots + use.record,
        "node_bytes": sum(part.found.bytes for part in use.parts),
        "nodes": nodes,
        "checkpoints": [checkpoint_document(found, found.label in use.copies) for found in use.checkpoints],
    }


def _tell(job: Job, said: Said) -> None:
    click.echo(f"{job.id} was removed")
    for node, answer in said.items():
        if isinstance(answer, NodeError):
            click.echo(f"  {node}: {printable(answer.message)}; its folder goes once the node answers", err=True)
        elif answer == Removal.LEFT:
            click.echo(f"  {node}: part of its folder cannot be removed; see: ugro footprint --on {node}", err=True)
        elif answer == Removal.LINK:
            click.echo(f"  {node}: a folder of it is a link; what that leads to stays", err=True)
        elif answer == Removal.REST:
            click.echo(f"  {node}: files that are not UGRO's stay in its folder", err=True)
