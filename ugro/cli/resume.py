"""Commands about going on: checkpoints, resume."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

import click
from pydantic import ValidationError
from rich.text import Text

from ugro.cli.announce import CodeProgress, announce, gpus_come_free, tell_what_stays
from ugro.cli.app import App, Whole, command, json_option, span_option
from ugro.cli.complete import complete_folder, complete_job, complete_nodes
from ugro.cli.consent import Consent
from ugro.cli.output import checkpoint_document, job_document, print_json, title, wide_option
from ugro.cli.prompts import confirm
from ugro.cli.render.grid import Column, Grid, Names
from ugro.common.errors import Declined, InputError, JobSpecError
from ugro.common.job_spec import JobSpec
from ugro.common.mistakes import first_mistake
from ugro.common.models.checkpoint import Checkpoint
from ugro.common.models.job import Job
from ugro.common.models.proposal import Change
from ugro.common.text import duration, printable, size, some
from ugro.control_plane.controller.tick import Controller
from ugro.control_plane.failure_handler.handler import script_of
from ugro.control_plane.failure_handler.recovery.next_attempt import NextAttempt, next_attempt
from ugro.control_plane.failure_handler.recovery.repair import smaller_batch
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.checkpoint_store import CheckpointStore, Listing, newest_whole
from ugro.control_plane.metadata_store.retention import require_code
from ugro.control_plane.scheduler.accepted import accepts
from ugro.control_plane.scheduler.queue import read_offers
from ugro.control_plane.scheduler.scheduling import check_request
from ugro.control_plane.scheduler.submission import NewCode, adopt, choose_new_code, require_room
from ugro.control_plane.scheduler.submission import new_code as fresh_code
from ugro.nodes.code_sync import Differences
from ugro.nodes.pool import Pool

T = TypeVar("T")

MOST_NAMED = 10
"""Files that are named of those in which new code differs."""

DIGEST_SHOWN = 12


@command()
@click.argument("job", shell_complete=complete_job)
@click.option(
    "--checkpoints",
    "directory",
    metavar="DIR",
    shell_complete=complete_folder,
    help="Where they are, if the job did not say.",
)
@click.option("--pull", is_flag=True, help="Bring the last whole one to this machine.")
@wide_option
@json_option
def checkpoints(app: App, job: str, directory: str | None, pull: bool, wide: bool, as_json: bool) -> None:
    """The checkpoints of JOB (id or name) on whichever node has them: step, size, whole or torn."""
    found = app.store.jobs.find(job)
    spec = asked_with(app, found, directory, None)

    async def act(controller: Controller, pool: Pool) -> tuple[Listing, dict[str, Checkpoint], Path | None]:
        brought = None
        listing, kept = await _listed(app, controller, pool, found, spec)
        if pull:
            store = CheckpointStore(app.store, app.cluster, pool)
            newest = newest_whole(listing.checkpoints)
            brought = _held(await store.bring(found, newest, progress.update), newest)
            kept = store.kept(found)
        return listing, kept, brought

    with CodeProgress() as progress:
        listing, kept, brought = app.run(act, progress.update)
    if as_json:
        folder = app.store.jobs.files(found.id).checkpoints
        kept_at = {label: str(_held(folder / label, one)) for label, one in kept.items()}
        documents = [
            checkpoint_document(one, one.label in kept) | {"kept_at": None if one.problem else kept_at.get(one.label)}
            for one in listing.checkpoints
        ]
        print_json(documents)
    elif listing.checkpoints:
        checkpoints_grid(listing.checkpoints, kept).print(wide)
    else:
        click.echo("no checkpoints were found")
    if brought and not as_json:
        click.echo(f"it is on this machine: {printable(str(brought))}")
    for error in listing.silent.values():
        click.echo(f"{printable(error.message)}: what it has is missing here", err=True)
    for node, places in listing.passed.items():
        for place in places:
            click.echo(f"{node} did not search {printable(place)}", err=True)


@command()
@click.argument("job", shell_complete=complete_job)
@click.option("--from", "step", type=Whole(min=0), metavar="STEP", help="Not the last whole checkpoint; 0: anew.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Another value for an argument.")
@click.option(
    "--nodes", shell_complete=complete_nodes, metavar="N|NODES", help="Another number of nodes, or their names."
)
@click.option(
    "--time", "time_limit", metavar="TIME", callback=span_option, help="Another time limit: 4h, 90 (minutes), 1:30:00."
)
@click.option(
    "--checkpoints",
    "directory",
    metavar="DIR",
    shell_complete=complete_folder,
    help="Where the checkpoints are, if the job did not say.",
)
@click.option("--resume-with", metavar="WORDS", help="How the script is told: '--resume_from_checkpoint {path}'.")
@click.option("--new-code", is_flag=True, help="With the files of its working directory as they are now.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def resume(
    app: App,
    job: str,
    step: int | None,
    settings: tuple[str, ...],
    nodes: str | None,
    time_limit: float | None,
    directory: str | None,
    resume_with: str | None,
    new_code: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Go on with JOB (id or name), which ended, from its last whole checkpoint: a new attempt with the same code.

    The script is told by UGRO_RESUME_FROM in its environment, and by an argument where it has one for that. With
    --new-code it is the script as it is now, for instance mended; what the job wrote on the nodes stays there.
    """
    found = app.settled(app.store.jobs.find(job))
    if not accepts("resume", found):
        raise InputError(f"{title(found)} has not ended: it is {found.state.value}", f"see: ugro status {found.id}")
    if not new_code:
        require_code(app.store, found)
    spec, wanted = asked_with(app, found, directory, resume_with), dict(map(_setting, settings))

    async def act(controller: Controller, pool: Pool) -> Job:
        views = (await controller.observe([])).views
        told = not as_json or (sys.stdin.isatty() and not yes)  # what is shown is for whoever is asked
        if told and found.first_failure:
            click.echo(f"{title(found)} failed: {printable(found.reason)}", err=True)
        checkpoint = None
        if step != 0:
            listing = await CheckpointStore(app.store, app.cluster, pool).find(found, spec, views)
            checkpoint = _chosen(found, listing, step, yes)
        if told:
            _tell_where(checkpoint)
        smaller = _smaller_batch(found, spec, script, bool(settings) or yes)
        wanted.update(smaller)
        planned = _checked(lambda: next_attempt(found, spec, script, checkpoint, wanted, nodes, time_limit))
        check_request(planned.spec, app.inventory, read_offers(app.store, app.inventory, (), views))
        if code and code.differences:
            await require_room(app.store, pool, app.cluster.nodes, found, code)
        if told:
            _tell_changes(found, [change for change in planned.changes if change.name not in smaller], code)
        _agree(yes)
        if checkpoint and any(node not in checkpoint.whole_at for node in found.nodes):
            await CheckpointStore(app.store, app.cluster, pool).bring(found, checkpoint, progress.update)
        _reopen(app.store, found, planned, checkpoint, code)
        named = planned.spec.nodes
        await gpus_come_free(app, controller, found, named if isinstance(named, tuple) else found.nodes)
        return await app.started(controller, found.id)

    with CodeProgress() as progress, _fresh_code(app, found, spec, yes, as_json) if new_code else nullcontext() as code:
        script = code.script if code else script_of(app.store, found)
        resumed = app.run(act, progress.update)
    if as_json:
        changes = {"code_changes": dataclasses.asdict(code.differences) if code else None}
        print_json(job_document(resumed, app.asked(resumed)) | changes)
    else:
        announce(app, resumed)


def _chosen(job: Job, listing: Listing, step: int | None, yes: bool) -> Checkpoint | None:
    """The checkpoint to go on from; where there is none a person may agree to begin again, and is told what was not
    looked at.
    """
    try:
        return newest_whole(listing.checkpoints, step)
    except InputError as error:
        unseen = listing.unseen(job)
        missed = f"; not searched: {some(list(map(printable, unseen)))}" if unseen else ""
        if step is not None or yes or not sys.stdin.isatty():
            hint = f"look again once it can be searched: ugro checkpoints {job.id}" if unseen else error.hint
            raise InputError(error.message + missed, hint) from None
        click.echo(error.message + missed, err=True)
        if not confirm("Begin again, from the beginning?"):
            raise Declined from None
        return None


@contextlib.contextmanager
def _fresh_code(app: App, job: Job, spec: JobSpec, yes: bool, as_json: bool) -> Iterator[NewCode]:
    """The working directory as it is now; a person agrees to send much."""
    selection = choose_new_code(job, spec)
    if not as_json:
        tell_what_stays(selection)
    Consent(yes or as_json, False).to_send(selection)
    with fresh_code(app.store, job, spec, selection) as code:
        yield code


def _reopen(
    store: MetadataStore, found: Job, planned: NextAttempt, checkpoint: Checkpoint | None, code: NewCode | None
) -> None:
    with store.lock():
        if store.jobs.job(found.id).attempt != found.attempt:
            raise InputError(f"{found.id} was resumed meanwhile", f"see: ugro status {found.id}")
        again = adopt(store, planned.job, code) if code and code.differences else planned.job
        store.jobs.reopen(again, planned.spec, _said(checkpoint, code, planned.changes))
        store.decisions.withdraw(found.id)


def asked_with(app: App, job: Job, directory: str | None, resume_with: str | None) -> JobSpec:
    """What the job was asked for, with what is said now of its checkpoints."""
    spec = app.store.jobs.spec(job.id)
    said = {"dir": directory, "resume": resume_with}
    rules = spec.checkpoints.model_dump() | {key: value for key, value in said.items() if value is not None}
    return _checked(lambda: JobSpec.model_validate(spec.model_dump() | {"checkpoints": rules}))


def _checked(make: Callable[[], T]) -> T:
    try:
        return make()
    except ValidationError as error:
        raise JobSpecError(str(first_mistake(error))) from None


async def _listed(
    app: App, controller: Controller, pool: Pool, job: Job, spec: JobSpec
) -> tuple[Listing, dict[str, Checkpoint]]:
    store = CheckpointStore(app.store, app.cluster, pool)
    views = (await controller.observe([])).views
    return await store.find(job, spec, views), store.kept(job)


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.lstrip("-"):
        raise InputError(f"--set {printable(text)!r}: NAME=VALUE is expected", "for instance: --set batch_size=1")
    return name, value


def _smaller_batch(job: Job, spec: JobSpec, script: str, decided: bool) -> dict[str, str]:
    """After a CUDA OOM a smaller batch is offered to whoever is there to answer and has not said what to change."""
    cause = job.first_failure.cause if job.first_failure else None
    changes = smaller_batch(spec.args, script) if cause == "cuda_oom" else ()
    if not changes or decided or not sys.stdin.isatty():
        return {}
    for change in changes:
        click.echo(f"  {printable(change.text)}", err=True)
    if not confirm("Retry with smaller batch size?"):
        return {}
    return {change.name: change.after for change in changes}


def _said(checkpoint: Checkpoint | None, code: NewCode | None, changes: tuple[Change, ...]) -> str:
    """The event of the new attempt."""
    where = f"from {checkpoint.name} ({checkpoint.where})" if checkpoint else "from the beginning"
    other = code.differences if code else None
    new = [f"new code {(code.version.digest or '')[:DIGEST_SHOWN]} ({_counts(other)})"] if code and other else []
    return "; ".join([where, *new, *(change.text for change in changes)])


def _tell_where(checkpoint: Checkpoint | None) -> None:
    """Where the next attempt begins."""
    if not checkpoint:
        click.echo("From the beginning.", err=True)
        return
    age = duration(time.time() - checkpoint.saved_at)
    where = ", ".join(place.node for place in checkpoint.places) or "this machine"
    branch = f", of another branch (attempt {checkpoint.attempt})" if checkpoint.other_branch else ""
    facts = f"saved {age} ago, {size(checkpoint.bytes / 2**20)}, on {where}{branch}"
    at = checkpoint.where.removeprefix("step ")
    last = "Checkpoint" if checkpoint.other_branch else "Last checkpoint"
    click.echo(f"{last}: {at} ({printable(checkpoint.name)}, {facts})", err=True)


def _tell_changes(job: Job, changes: Sequence[Change], code: NewCode | None) -> None:
    """What is new in the next attempt."""
    for line in _code_in_words(job, code.differences) if code else []:
        click.echo(line, err=True)
    for change in changes:
        click.echo(f"  {printable(change.text)}", err=True)


def _code_in_words(job: Job, found: Differences) -> list[str]:
    """What is new in the code, by name as far as that can be read at a glance."""
    directory = printable(job.code.directory)
    if not found:
        return [f"The code is the same: nothing differs in {directory}."]
    named = [f"  {kind} {printable(name)}" for kind, names in dataclasses.asdict(found).items() for name in names]
    more = [f"  and {len(named) - MOST_NAMED} more"] if len(named) > MOST_NAMED else []
    return [f"New code from {directory}: {_counts(found)}", *named[:MOST_NAMED], *more]


def _counts(found: Differences) -> str:
    return ", ".join(f"{len(names)} {kind}" for kind, names in dataclasses.asdict(found).items() if names)


def _agree(yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputError("nobody is there to agree", "say --yes to resume without a question")
    if not confirm("Resume?", default=True):
        raise Declined


def _held(folder: Path, checkpoint: Checkpoint) -> Path:
    """Where a checkpoint is in the folder that holds the master's copy; the parts of many ranks are the folder."""
    return folder if checkpoint.of_each_rank else folder / checkpoint.own_name


def checkpoints_grid(found: Sequence[Checkpoint], kept: Mapping[str, Checkpoint]) -> Grid:
    """One row per checkpoint; `kept` are those with a copy on this machine, by label."""
    made = Grid(
        Column("STEP"),
        Column("SAVED", leaves=2),
        Column("SIZE", leaves=3),
        Column("KIND", leaves=4),
        Column("NAME", 16),
        Column("ON", 10, leaves=1),
        Column("", 16),
    )
    for one in found:
        here = one.label in kept and not one.problem  # what is torn has no copy, though another one may have its label
        places = [*(place.node for place in one.places), *(["this machine"] if here else [])]
        state = Text(printable(one.problem), "bold red") if one.problem else Text("whole", "green")
        if one.other_branch:
            state.append(f", of another branch (attempt {one.attempt})", "yellow")
        made.add(
            "-" if one.position is None else one.where.removeprefix("step "),
            f"{duration(time.time() - one.saved_at)} ago",
            size(one.bytes / 2**20),
            one.kind,
            printable(one.name),
            Names(places, " + " if one.split else ", "),
            state,
        )
    return made
