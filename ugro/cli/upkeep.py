"""Commands that look after the state directory: state, gc."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ugro.cli.app import App, Whole, command, json_option
from ugro.cli.output import checkpoint_document, print_json, print_unreadable, unreadable_document
from ugro.cli.remove import checkpoints_in_words
from ugro.common.config import Inventory
from ugro.common.errors import EXIT_NODES, EXIT_OK, EXIT_STATE, InputError, NodeError
from ugro.common.models.job import Job
from ugro.common.text import printable, size, some
from ugro.common.units import parse_duration
from ugro.control_plane.metadata_store import removal
from ugro.control_plane.metadata_store.retention import STRAY_AFTER, remove_stray, strays
from ugro.nodes.pool import Pool


@click.group()
def state() -> None:
    """Look after UGRO's own records."""


@command()
@json_option
def rebuild(app: App, as_json: bool) -> int:
    """Make the indexes of jobs anew from the jobs' folders, which are their truth.

    Jobs whose record cannot be read are named, and exit code 4 tells of them once the others are indexed. A broken
    cluster.json is kept, and its copy of before its last change is taken. Damaged rows of it are put aside in
    cluster.json.aside; those that you corrected there are taken back.
    """
    with app.store.lock():
        live, ended, unreadable, mended = app.store.rebuild()
    if as_json:
        broken = [unreadable_document(error) for error in unreadable]
        print_json({"live": live, "ended": ended, "unreadable": broken, "mended": mended})
    else:
        for words in mended:
            click.echo(printable(words))
        click.echo(f"indexed {live} live and {ended} ended jobs of {app.store.home}")
        print_unreadable(unreadable)
    return EXIT_STATE if unreadable else EXIT_OK


state.add_command(rebuild)


@command()
@click.option(
    "--older-than", default="30d", show_default=True, metavar="TIME", help="Only jobs that ended before that."
)
@click.option("--keep", type=Whole(min=0), default=0, metavar="N", help="Not the N jobs that ended last.")
@click.option("--with-checkpoints", is_flag=True, help="Also code and node folders of jobs with checkpoints.")
@click.option("--delete", is_flag=True, help="Do it. Without this, only what would go is shown.")
@json_option
def gc(app: App, older_than: str, keep: int, with_checkpoints: bool, delete: bool, as_json: bool) -> int:
    """Remove what old jobs left: logs and code on this machine, their folders on the nodes, and what killed commands
    left half written.

    Records, specs, events and checkpoints that were brought here stay. A job that has checkpoints keeps its
    code and its folders on nodes, with the checkpoints in them, and so does one of which that is not known, or that ran
    on a node that is unreachable.
    """
    try:
        before = time.time() - parse_duration(older_than)
    except ValueError as error:
        raise InputError(f"--older-than {older_than!r}: {error}") from None
    ids = removal.chosen(app.store.jobs.summaries(), before, keep)
    jobs = removal.ended(app.store, [job_id for job_id in ids if removal.has_more(app.store, job_id)])
    temporary = strays(app.store, time.time() - STRAY_AFTER)
    if delete:
        for path in temporary:
            remove_stray(path)

    async def act(inventory: Inventory, pool: Pool) -> Collected:
        found = await removal.survey(app.store, inventory, pool, jobs)
        going = removal.decide_all(app.store, found, with_checkpoints)
        freed = removal.freed_by(app.store, going)
        if not delete:
            return Collected(going, freed, found.silent)
        done = [await removal.collect(app.store, pool, one) for one in going]
        failed = {node: error for one in done for node, error in one.failed.items()}
        return Collected([one.going for one in done], freed, {**found.silent, **failed})

    done = _on_nodes(app, jobs, act)
    if as_json:
        print_json(_document(done, temporary, delete))
    else:
        words = ["ugro gc", "--older-than", shlex.quote(older_than), *(["--keep", str(keep)] if keep else [])]
        do_it = " ".join([*words, *(["--with-checkpoints"] if with_checkpoints else []), "--delete"])
        _tell(done, temporary, older_than, None if delete else do_it)
    return EXIT_NODES if done.silent else EXIT_OK


@dataclass(frozen=True)
class Collected:
    """What goes or went, the bytes of code that frees on this machine, and the nodes that could not be asked."""

    going: list[removal.Going]
    code_bytes: int
    silent: Mapping[str, NodeError]

    @property
    def log_bytes(self) -> int:
        return sum(one.use.logs for one in self.going if one.logs)

    @property
    def node_bytes(self) -> dict[str, int]:
        """What goes from each node."""
        found: dict[str, int] = {}
        for one in self.going:
            for part in one.use.parts if one.code else ():
                found[part.node.name] = found.get(part.node.name, 0) + part.found.bytes
        return found


def _on_nodes(
    app: App, jobs: Sequence[Job], act: Callable[[Inventory, Pool], Coroutine[Any, Any, Collected]]
) -> Collected:
    """Act with the cluster of the inventory, which is not needed where none of the jobs ever ran."""
    if any(job.placement or job.past for job in jobs):
        return app.run(lambda _, pool: act(app.cluster, pool))
    nowhere = Inventory.model_construct(nodes={})
    return asyncio.run(act(nowhere, Pool(nowhere)))


def _document(done: Collected, temporary: list[Path], delete: bool) -> dict[str, Any]:
    """`bytes` are those of logs, here and of each job."""
    return {
        "deleted": delete,
        "bytes": done.log_bytes,
        "code_bytes": done.code_bytes,
        "nodes": [{"node": node, "bytes": count} for node, count in done.node_bytes.items()],
        "jobs": [_job_document(one) for one in done.going],
        "temporary": [str(path) for path in temporary],
        "unreachable": [{"node": node, "error": error.as_dict()} for node, error in done.silent.items()],
    }


def _job_document(one: removal.Going) -> dict[str, Any]:
    use = one.use
    parts = use.parts if one.code else ()
    return {
        "id": use.job.id,
        "bytes": use.logs if one.logs else 0,
        "code_bytes": use.snapshots if one.code else 0,
        "nodes": [{"node": part.node.name, "bytes": part.found.bytes} for part in parts],
        "kept": one.kept.name.lower() if one.kept else None,
        "checkpoints": [checkpoint_document(found, found.label in use.copies) for found in use.checkpoints],
        "unseen": list(map(printable, use.unseen)),
    }


def _tell(done: Collected, temporary: list[Path], older_than: str, do_it: str | None) -> None:
    for one in done.going:
        click.echo(f"{one.use.job.id}  {_in_words(one)}")
    for path in temporary:
        click.echo(f"{printable(str(path))}, half written, {f'would go: {do_it}' if do_it else 'is gone'}")
    for node, error in done.silent.items():
        click.echo(f"{node} is left out: {printable(error.message)}", err=True)
    if not any(one.logs or one.code for one in done.going):
        click.echo(f"nothing to remove of jobs that ended more than {older_than} ago")
        return
    total = f"{_size(done.log_bytes)} of logs, {_size(done.code_bytes)} of code"
    for node, count in done.node_bytes.items():
        total += f", {_size(count)} on {node}"
    if done.node_bytes:
        click.echo("what the jobs wrote into their code folders on nodes is part of it")
    click.echo(f"{total} would go: {do_it}" if do_it else f"{total} are gone")


def _in_words(one: removal.Going) -> str:
    use = one.use
    goes = [f"logs {_size(use.logs)}"] if one.logs else []
    if one.code:
        goes += [f"code {_size(use.snapshots)}"] if use.has_code else []
        goes += [f"{part.node.name} {_size(part.found.bytes)}" for part in use.parts]
    stays = f"its code and node folders stay: {one.kept.value}" if one.kept else ""
    if one.kept in (removal.Kept.CHECKPOINTS, removal.Kept.UNSEEN):
        stays += f" ({_facts(use)}); with them: --with-checkpoints"
    return "; ".join(filter(None, [", ".join(goes), stays]))


def _facts(use: removal.Use) -> str:
    return checkpoints_in_words(use.checkpoints) or some([printable(words) for words in use.unseen])


def _size(count: int) -> str:
    return size(count / 2**20)
