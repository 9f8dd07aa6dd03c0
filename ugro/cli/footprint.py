"""What UGRO left on the nodes, and its removal: footprint, node clean."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ugro.cli.app import App, command, json_option
from ugro.cli.complete import complete_node, nodes_option
from ugro.cli.consent import to_clean
from ugro.cli.output import console, print_json, table
from ugro.common.errors import EXIT_NODES, EXIT_OK, Declined, InputError, NodeError, NodeRefused
from ugro.common.text import count, printable, size
from ugro.control_plane.metadata_store.records import stop_where_held
from ugro.nodes.footprint import Footprint, Process, clean
from ugro.nodes.footprint import footprint as look

if TYPE_CHECKING:
    from ugro.nodes.pool import Pool

T = TypeVar("T")

MIB = 1024 * 1024
SHOWN_FOREIGN = 10


@command()
@nodes_option
@json_option
def footprint(app: App, names: str | None, as_json: bool) -> int:
    """What UGRO has on the nodes: folders of jobs, their size, and processes. Changes nothing."""
    chosen = [node.name for node in app.inventory.select(names)]
    seen = app.run(lambda _, pool: pool.each(chosen, look))
    if as_json:
        print_json({"schema_version": 1, "nodes": [_document(name, found) for name, found in seen.items()]})
    else:
        _print(seen)
    return EXIT_NODES if any(isinstance(found, NodeError) for found in seen.values()) else EXIT_OK


def _document(name: str, found: Footprint | NodeError) -> dict[str, Any]:
    if isinstance(found, NodeError):
        return {"node": name, "error": found.as_dict()}
    document = asdict(found)
    for part in (document, *document["jobs"]):
        part["processes"] = _processes(part["processes"])
    document["other"] = [{"name": path, "bytes": count} for path, count in found.other]
    return {"node": name, **document, "error": None}


def _processes(processes: Sequence[Process]) -> list[dict[str, Any]]:
    return [{"pid": pid, "command": line} for pid, line in processes]


def _print(seen: Mapping[str, Footprint | NodeError]) -> None:
    made = table("NODE", "JOBS", "FILES", "SIZE", "PROCESSES", "IN")
    for name, found in seen.items():
        if isinstance(found, NodeError):
            made.add_row(name, "-", "-", "-", "-", printable(found.message.removeprefix(f"{name}: ")))
            continue
        files = sum(job.files for job in found.jobs) + len(found.other)
        place = _shown(found.base_dir) + ("" if found.exists else " (not there)")
        made.add_row(name, str(len(found.jobs)), str(files), _size(found.bytes), str(len(found.processes)), place)
    console().print(made)
    for name, found in seen.items():
        if isinstance(found, Footprint):
            for line in _lines(found):
                click.echo(f"{name}: {line}")


def _lines(found: Footprint) -> list[str]:
    """One line for each thing that UGRO has on a node."""
    lines = []
    for job in found.jobs:
        state = ", running" if job.running else ""
        pids = f", pid {' '.join(str(pid) for pid, _ in job.processes)}" if job.processes else ""
        lines.append(f"jobs/{_shown(job.id)}  {count(job.files, 'file')}, {_size(job.bytes)}{state}{pids}")
    lines += [f"{_shown(name)}  a link: what it leads to is not looked at" for name in found.links]
    lines += [f"{_shown(name)}  {_size(count)}" for name, count in found.other]
    return lines + [f"process {pid}  {line}" for pid, line in found.processes]


def _shown(name: str) -> str:
    """A file's name, which may hold anything, for a terminal."""
    return printable(name.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


def _size(count: int) -> str:
    return f"{count} B" if count < 1024 else size(count / MIB)


@click.group()
def node() -> None:
    """What is done to one machine."""


@command(name="clean")
@click.argument("name", metavar="NODE", shell_complete=complete_node)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--takeover", is_flag=True, help="Also what another master has there.")
@json_option
def clean_node(app: App, name: str, yes: bool, takeover: bool, as_json: bool) -> int:
    """Remove everything UGRO made on NODE: the jobs' folders there with code and logs, and what marks it as UGRO's.

    What jobs wrote into their own code folder goes too. The master's own records, logs and snapshots stay.
    """
    app.inventory.node(name)
    after = before = _idle(app, name)
    if before.own:
        to_clean(name, before.owner, app.store.config.known_master(), takeover)
        if not as_json:
            _show(name, before)
        _agree(name, yes, as_json)
        after = app.run(lambda _, pool: _cleaned(app, pool, name))
    if as_json:
        removed = [path for path in before.own if path not in after.own]
        rest = {"left": after.own, "foreign": after.foreign, "processes": _processes(after.processes)}
        print_json({"schema_version": 1, "node": name, "removed": removed, **rest})
    else:
        _tell(name, after)
    return EXIT_NODES if after.own else EXIT_OK


async def _cleaned(app: App, pool: Pool, name: str) -> Footprint:
    """Clean a node. No controller of this master may start something there meanwhile, so this takes its turn."""
    async with app.store.turn():
        await _look_if_idle(app, pool, name)
        _answer((await pool.each([name], clean))[name])
        return _answer((await pool.each([name], look))[name])


def _answer(answer: T | NodeError) -> T:
    if isinstance(answer, NodeError):
        raise answer
    return answer


def _idle(app: App, name: str) -> Footprint:
    return app.run(lambda _, pool: _look_if_idle(app, pool, name))


async def _look_if_idle(app: App, pool: Pool, name: str) -> Footprint:
    """What is on a node where no job runs.

    Raises:
        InputError: a job of this master is there. NodeRefused: something runs there, or may run in the same folder.
    """
    live = [job for job in app.store.jobs.live(stop_where_held) if job.state.on_nodes]
    for job in live:
        if name in job.nodes:
            raise InputError(f"{job.id} is on {name}", f"wait for it, or end it: ugro cancel {job.id}")
    others = sorted({node for job in live for node in job.nodes if node in app.inventory.nodes})
    seen = await pool.each([name, *others], look)
    found = _answer(seen[name])
    for stranger in found.jobs:
        if stranger.running:
            raise NodeRefused(name, f"{_shown(stranger.id)} is running here; nothing was removed")
    for other in others:
        _refuse_if_shared(name, found, other, seen[other])
    return found


def _refuse_if_shared(name: str, found: Footprint, other: str, its: Footprint | NodeError) -> None:
    """Nodes with one home have one folder: cleaning it for one would take the code of what runs on the other."""
    if isinstance(its, NodeError):
        raise NodeRefused(name, f"it may share its folder with {other}, where a job runs and which does not answer")
    if its.storage_id and its.storage_id == found.storage_id:
        raise NodeRefused(name, f"it shares {_shown(found.base_dir)} with {other}, where a job runs")


def _show(name: str, found: Footprint) -> None:
    click.echo(f"This goes from {_shown(found.base_dir)} on {name}:")
    for job in found.jobs:
        click.echo(f"  jobs/{_shown(job.id)}  {count(job.files, 'file')}, {_size(job.bytes)}")
    for path, used in found.other:
        click.echo(f"  {_shown(path)}  {_size(used)}")
    if found.jobs:
        click.echo("with all that the jobs wrote into their code folders, such as checkpoints.")
    if found.owner:
        click.echo(f"The node belongs to: {found.owner}")


def _agree(name: str, yes: bool, as_json: bool) -> None:
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise InputError("nobody is there to agree", f"if it shall be removed: ugro node clean {name} --yes")
    if not click.confirm("Remove it?"):
        raise Declined("nothing was removed")


def _tell(name: str, found: Footprint) -> None:
    if found.own:
        click.echo(f"could not be removed from {name}: {', '.join(map(_shown, found.own))}")
    else:
        click.echo(f"nothing of UGRO is left on {name}" + (" but processes:" if found.processes else ""))
    for pid, line in found.processes:
        click.echo(f"  process {pid} of a run that has no folder there: {line}")
    if found.foreign:
        shown = ", ".join(map(_shown, found.foreign[:SHOWN_FOREIGN]))
        more = f" and {len(found.foreign) - SHOWN_FOREIGN} more" if len(found.foreign) > SHOWN_FOREIGN else ""
        click.echo(f"not made by UGRO there and left alone in {_shown(found.base_dir)}: {shown}{more}")


node.add_command(clean_node)
