"""`ugro checkpoint`: ask a running job to save now, and see what comes of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from ugro.cli.app import App, command, duration_option, json_option
from ugro.cli.complete import complete_folder, complete_job
from ugro.cli.output import checkpoint_document, console, print_json, stamp, state_in_words, title
from ugro.cli.resume import asked_with
from ugro.common.config import Inventory
from ugro.common.errors import InputError, NodeError, NotSaved
from ugro.common.job_spec import JobSpec
from ugro.common.models.checkpoint import Checkpoint
from ugro.common.models.job import Job, JobState
from ugro.common.paths import RunPaths, run_paths
from ugro.common.text import count, duration, printable, size
from ugro.control_plane.controller.tick import Controller
from ugro.control_plane.metadata_store.checkpoint_store import CheckpointStore, newest_since
from ugro.control_plane.scheduler.accepted import accepts
from ugro.nodes.pool import Pool
from ugro.nodes.remote.checkpoints import save_request
from ugro.nodes.remote.checkpoints.save_request import AskedRank
from ugro.nodes.transport import Transport

POLL_SECONDS = 1.0

HOW_TO_ANSWER = """\
A script answers by one of these at the end of a step (where ranks save together, rank 0 decides and tells the others):
  signal.signal(signal.SIGUSR2, lambda *_: asked.append(1))                # once, with asked = []
  if asked: asked.clear(); save()
or
  request = pathlib.Path(os.environ.get("UGRO_CHECKPOINT_REQUEST", "/-"))  # once
  if request.exists(): request.unlink(missing_ok=True); save()"""


@dataclass(frozen=True)
class Outcome:
    """What came of a request: `taken` if a script removed the file, `ended` if the job did."""

    asked_at: float
    seconds: float
    ranks: list[tuple[str, AskedRank]]
    errors: list[NodeError]
    checkpoint: Checkpoint | None
    taken: bool
    ended: JobState | None = None


@command()
@click.argument("job", shell_complete=complete_job)
@click.option("--wait", "patience", default="120", show_default=True, metavar="TIME", callback=duration_option,
              help="How long to wait for it: 90, 10m.")  # fmt: skip
@click.option(
    "--checkpoints",
    "directory",
    metavar="DIR",
    shell_complete=complete_folder,
    help="Where the checkpoints are, if the job did not say.",
)
@json_option
def checkpoint(app: App, job: str, patience: float, directory: str | None, as_json: bool) -> None:
    """Ask the running JOB (id or name) to save a checkpoint now, and wait until there is a new one that is whole.

    Its ranks get SIGUSR2 if they catch it, and a file that UGRO_CHECKPOINT_REQUEST names. It goes on in any case.
    """
    found = app.store.jobs.find(job)
    _require_running(found)
    spec = asked_with(app, found, directory, None)
    with console(stderr=True).status(f"asking {title(found)} to save") as shown:
        outcome = app.run(lambda controller, pool: _ask(app, controller, pool, found, spec, patience, shown.update))
    made = outcome.checkpoint
    if as_json:
        print_json(_document(found, outcome))
    else:
        for error in outcome.errors:
            click.echo(f"{printable(error.message)}: it was not asked", err=True)
        if made:
            click.echo(f"{title(found)} saved {_in_words(made, outcome.seconds)}")
        else:
            click.echo("\n".join(silence_in_words(outcome)), err=True)
    if made is None:
        raise not_saved(found, outcome)
    with app.store.lock():
        app.store.timeline.note(made.places[0].node, "checkpoint", _in_words(made, outcome.seconds), found.id)


def _require_running(job: Job) -> None:
    if accepts("checkpoint", job):
        return
    hint = f"see: ugro status {job.id}"
    if job.state.ended:
        hint = f"what it saved: ugro checkpoints {job.id}"
    elif not job.state.on_nodes:
        hint = f"see why it waits: ugro why {job.id}"
    raise InputError(f"{state_in_words(job)}; only a running job can save", hint)


async def _ask(
    app: App,
    controller: Controller,
    pool: Pool,
    job: Job,
    spec: JobSpec,
    patience: float,
    tell: Callable[[str], None],
) -> Outcome:
    """Make the request and wait for its answer; it is withdrawn in any case, also when the wait is interrupted."""
    places = {name: paths for name in job.nodes if (paths := run_paths(app.cluster, job, name))}
    nodes = {**app.cluster.nodes, **job.node_configs}  # as the run was started with them
    own = app.cluster.model_copy(update={"nodes": {name: nodes[name] for name in places}})
    store = CheckpointStore(app.store, own, pool)
    seen = await controller.observe([job], job.nodes)
    now = await controller.live(job, seen)
    _require_running(now)
    before = await store.find(job, spec, seen.views, nodes=own.nodes)
    asked_at, began = time.time(), time.monotonic()
    request = _Request(pool, own, places, str(stamp(asked_at)))
    made: Checkpoint | None = None
    try:
        ranks, errors = await request.make()
        since = request.made_at(seen.clock_offsets, asked_at)
        if len(errors) == len(places) > 0:
            raise errors[0]
        heard = count(sum(rank.answer == "signalled" for _, rank in ranks), "rank")
        while True:
            now = await controller.live(job, await controller.observe([job], job.nodes))
            listing = await store.find(job, spec, seen.views, nodes=own.nodes)
            made = newest_since(since, before.checkpoints, listing.checkpoints, not before.silent)
            seconds = time.monotonic() - began
            if made or now.state.ended or seconds > patience:
                break
            tell(f"{title(job)} was asked to save {duration(seconds)} ago, {heard} got SIGUSR2; Ctrl-C ends the wait")
            await asyncio.sleep(min(POLL_SECONDS, max(0.0, patience - seconds)))
    finally:
        taken = await request.withdraw()
    return Outcome(asked_at, seconds, ranks, errors, made, taken, now.state if now.state.ended else None)


class _Request:
    """One request for a checkpoint, on all nodes of a job."""

    def __init__(self, pool: Pool, nodes: Inventory, places: dict[str, RunPaths], when: str) -> None:
        self._pool = pool
        self._configs = nodes.nodes
        self._places = places
        self._when = when
        self._made: dict[str, float] = {}

    def made_at(self, clock_offsets: Mapping[str, float], asked_at: float) -> float:
        """When the first node was asked, on the scale of the checkpoints' times: those are dated by the same clocks."""
        return min((at - clock_offsets.get(node, 0.0) for node, at in self._made.items()), default=asked_at)

    async def make(self) -> tuple[list[tuple[str, AskedRank]], list[NodeError]]:
        """Each rank with its node, and the nodes that could not be asked."""

        async def one(transport: Transport) -> save_request.Asked:
            return await save_request.ask(transport, self._places[transport.name], self._when)

        said = await self._pool.each(self._places, one, configs=self._configs)
        asked = {name: answer for name, answer in said.items() if not isinstance(answer, NodeError)}
        self._made = {name: answer.at for name, answer in asked.items()}
        ranks = [(name, rank) for name, answer in asked.items() for rank in answer.ranks]
        return ranks, [answer for answer in said.values() if isinstance(answer, NodeError)]

    async def withdraw(self) -> bool:
        """Remove what no script took. Returns whether one took it on any node."""

        async def one(transport: Transport) -> bool:
            return await save_request.withdraw(transport, self._places[transport.name], self._when)

        return True in (await self._pool.each(self._places, one, configs=self._configs)).values()


def _in_words(made: Checkpoint, seconds: float) -> str:
    step = "" if made.position is None else f"{made.where}: "
    nodes = ", ".join(place.node for place in made.places)
    facts = f"{size(made.bytes / 2**20)}, on {nodes}, {duration(seconds)} after it was asked for"
    return printable(f"{step}{made.name} ({facts})")


def silence_in_words(outcome: Outcome) -> list[str]:
    """What each rank made of a request that no checkpoint answered, and what a script has to do if none heard it."""
    said = {"signalled": "got SIGUSR2", "not caught": "SIGUSR2 is not caught, and was not sent", "gone": "has ended"}
    lines = [f"rank {rank.rank} on {node}: {said[rank.answer]}" for node, rank in outcome.ranks]
    lines.append(f"the request file (UGRO_CHECKPOINT_REQUEST) was {'' if outcome.taken else 'not '}taken")
    return lines if outcome.ended or _heard(outcome) else [*lines, HOW_TO_ANSWER]


def _heard(outcome: Outcome) -> bool:
    return outcome.taken or any(rank.answer == "signalled" for _, rank in outcome.ranks)


def not_saved(job: Job, outcome: Outcome) -> NotSaved:
    """The error that a request without an answer ends in."""
    if outcome.ended:
        ended = state_in_words(job.model_copy(update={"state": outcome.ended, "wish": None}))
        return NotSaved(f"{ended}, and left no new checkpoint", f"see: ugro status {job.id}")
    if _heard(outcome):
        hint = f"it may still save: ugro checkpoints {job.id}; or it saves elsewhere: --checkpoints DIR"
        return NotSaved(f"{title(job)} was asked {duration(outcome.seconds)} ago, and no new checkpoint is whole", hint)
    hint = "the script has to listen for one of the two (docs/recovery.md)"
    return NotSaved(f"{title(job)} does not answer: it goes on, and saves when it would have", hint)


def _document(job: Job, outcome: Outcome) -> dict[str, Any]:
    ranks: Sequence[dict[str, Any]] = [
        {"rank": rank.rank, "node": node, "pid": rank.pid, "answer": rank.answer} for node, rank in outcome.ranks
    ]
    return {
        "id": job.id,
        "asked_at": stamp(outcome.asked_at),
        "seconds": round(outcome.seconds, 1),
        "checkpoint": checkpoint_document(outcome.checkpoint, kept=False) if outcome.checkpoint else None,
        "ranks": ranks,
        "request_taken": outcome.taken,
        "errors": [error.as_dict() for error in outcome.errors],
    }
