"""What UGRO left on the nodes, and its removal: footprint, node clean."""

from __future__ import annotations

from collections.abc import Sequence

import click

from ugro.cli.app import App, command, json_option
from ugro.cli.complete import complete_node, nodes_option
from ugro.cli.output import console, print_json, table
from ugro.cli.prompts import answers
from ugro.common.errors import EXIT_NODES, EXIT_OK
from ugro.common.text import bytes_in_words, clock, count, printable, visible, without_name
from ugro.service.schemas.footprint import (
    Clean,
    CleanedDocument,
    CleanPlan,
    EnvironmentDocument,
    FootprintDocument,
    PlanClean,
    ShowFootprint,
    UnreadDocument,
)

SHOWN_FOREIGN = 10


@command()
@nodes_option
@json_option
def footprint(app: App, names: str | None, as_json: bool) -> int:
    """List everything that UGRO has on the nodes.

    Shows the folders of jobs, their size, and processes. Nothing is changed.
    """
    seen = app.call(ShowFootprint(nodes=names))
    if as_json:
        print_json(seen.as_json())
    else:
        _print(seen.nodes)
    return EXIT_NODES if any(isinstance(found, UnreadDocument) for found in seen.nodes) else EXIT_OK


def _print(seen: Sequence[FootprintDocument | UnreadDocument]) -> None:
    made = table("NODE", "JOBS", "FILES", "SIZE", "PROCESSES", "IN")
    for found in seen:
        if isinstance(found, UnreadDocument):
            name = found.node
            made.add_row(name, "-", "-", "-", "-", printable(without_name(found.error.message, name)))
            continue
        files = sum(job.files for job in found.jobs) + len(found.other)
        place = printable(found.base_dir) + ("" if found.exists else " (not there)")
        processes = str(len(found.processes))
        made.add_row(found.node, str(len(found.jobs)), str(files), bytes_in_words(found.bytes), processes, place)
    console().print(made)
    for found in seen:
        if isinstance(found, FootprintDocument):
            for line in _lines(found):
                click.echo(f"{found.node}: {printable(line)}")


def _lines(found: FootprintDocument) -> list[str]:
    """One line for each thing that UGRO has on a node."""
    lines = []
    for job in found.jobs:
        state = ", running" if job.running else ""
        pids = f", pid {' '.join(str(process.pid) for process in job.processes)}" if job.processes else ""
        lines.append(f"jobs/{job.id}  {count(job.files, 'file')}, {bytes_in_words(job.bytes)}{state}{pids}")
    lines += [f"{name}  a link; its target is not examined" for name in found.links]
    lines += [f"{one.name}  {bytes_in_words(one.bytes)}, {_use(one)}" for one in found.environments]
    lines += [f"{one.name}  {bytes_in_words(one.bytes)}" for one in found.other]
    return lines + [f"process {process.pid}  {process.command}" for process in found.processes]


def _use(environment: EnvironmentDocument) -> str:
    return "its setup did not end well" if environment.used_at is None else f"last used {clock(environment.used_at)}"


@command(name="clean")
@click.argument("name", metavar="NODE", shell_complete=complete_node)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--takeover", is_flag=True, help="Also remove what another master has there.")
@json_option
def clean_node(app: App, name: str, yes: bool, takeover: bool, as_json: bool) -> int:
    """Clean a node: remove everything that UGRO has there.

    That is the folders of jobs with code and logs, and UGRO's own files.

    What jobs wrote into their code folders is removed too. Records, logs and snapshots on the master stay.
    """
    plan = app.call(PlanClean(node=name))
    if not plan.own:
        cleaned, base_dir = _nothing_there(plan), plan.found.base_dir
    else:
        given = {"takeover": True} if takeover else {}
        said = answers(plan.questions, given | ({"remove": True} if yes else {}), ask=not as_json)
        done = app.call(Clean(plan=plan, answers=said))
        cleaned, base_dir = done.answer, done.base_dir
    if as_json:
        print_json(cleaned.as_json())
    else:
        _tell(cleaned, base_dir)
    return EXIT_NODES if cleaned.left else EXIT_OK


def _nothing_there(plan: CleanPlan) -> CleanedDocument:
    found = plan.found
    return CleanedDocument(node=plan.node, removed=(), left=(), foreign=found.foreign, processes=found.processes)


def _tell(found: CleanedDocument, base_dir: str) -> None:
    name = found.node
    if found.left:
        click.echo(f"could not be removed from {name}: {', '.join(map(visible, found.left))}")
    else:
        click.echo(f"nothing of UGRO remains on {name}" + (" except processes:" if found.processes else ""))
    for process in found.processes:
        click.echo(f"  process {process.pid} of a run without a folder there: {printable(process.command)}")
    if found.foreign:
        shown = ", ".join(map(printable, found.foreign[:SHOWN_FOREIGN]))
        more = f" and {len(found.foreign) - SHOWN_FOREIGN} more" if len(found.foreign) > SHOWN_FOREIGN else ""
        click.echo(f"not made by UGRO there and left alone in {printable(base_dir)}: {shown}{more}")
