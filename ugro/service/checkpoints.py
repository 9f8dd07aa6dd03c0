"""Checkpoints of jobs: list them, copy the last one to the master, ask a running job to save one now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from ugro.common.config import Inventory
from ugro.common.errors import InputError, JobSpecError, NodeError
from ugro.common.job_spec import JobSpec
from ugro.common.mistakes import first_mistake
from ugro.common.models.checkpoint import Checkpoint
from ugro.common.models.event_kind import EventKind
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.common.paths import RunPaths, run_paths
from ugro.control_plane.metadata_store.checkpoint_store import CheckpointStore, newest_since, newest_whole
from ugro.control_plane.scheduler.accepted import accepts
from ugro.nodes.pool import Pool
from ugro.nodes.remote.checkpoints import save_request
from ugro.nodes.remote.checkpoints.save_request import AskedRank
from ugro.nodes.transport import Transport
from ugro.service.context import Context
from ugro.service.documents import error_document
from ugro.service.schemas.checkpoints import (
    AskedRankDocument,
    Checkpoints,
    CheckpointsAnswer,
    HeldCheckpoint,
    ListedCheckpoint,
    SaveAnswer,
    SaveCheckpoint,
    SaveDocument,
)
from ugro.service.schemas.codec import iso
from ugro.service.schemas.notices import AskedToSave
from ugro.service.words import saved_in_words, state_in_words, title

T = TypeVar("T")

POLL_SECONDS = 1.0


async def checkpoints(context: Context, request: Checkpoints) -> CheckpointsAnswer:
    """List the checkpoints of a job on whichever node has them; with `pull`, copy the last complete one to the master.

    Raises:
        InputError: there is no such job, or nothing to copy. StateError, NodeError: it cannot be copied.
    """
    job = context.store.jobs.find(request.job)
    spec = spec_with(context, job, request.directory)
    controller, pool = await context.reach()
    store = CheckpointStore(context.store, context.cluster, pool)
    listing = await store.find(job, spec, (await controller.observe([])).views)
    brought = None
    if request.pull:
        newest = newest_whole(listing.checkpoints)
        brought = _held(await store.bring(job, newest, context.tell_sent), newest)
    kept, folder = store.kept(job), context.store.jobs.files(job.id).checkpoints
    kept_at = {label: str(_held(folder / label, one)) for label, one in kept.items()}

    def listed(one: Checkpoint) -> ListedCheckpoint:
        here = one.label in kept and one.problem is None  # an incomplete one may share its label with a copy
        return ListedCheckpoint.of(one, on_master=here, kept_at=kept_at[one.label] if here else None)

    return CheckpointsAnswer(
        checkpoints=tuple(map(listed, listing.checkpoints)),
        brought=str(brought) if brought else None,
        silent=tuple(map(error_document, listing.silent.values())),
        passed=listing.passed,
    )


def spec_with(context: Context, job: Job, directory: str | None, resume_with: str | None = None) -> JobSpec:
    """Return the frozen spec of a job, with what a request says of its checkpoints.

    Raises:
        JobSpecError: that makes no sense.
    """
    spec = context.store.jobs.spec(job.id)
    said = {"dir": directory, "resume": resume_with}
    rules = spec.checkpoints.model_dump() | {key: value for key, value in said.items() if value is not None}
    return checked(lambda: JobSpec.model_validate(spec.model_dump() | {"checkpoints": rules}))


def checked(make: Callable[[], T]) -> T:
    """Return what is made of values that a request named.

    Raises:
        JobSpecError: one of them is not valid.
    """
    try:
        return make()
    except ValidationError as error:
        raise JobSpecError(str(first_mistake(error))) from None


def _held(folder: Path, checkpoint: Checkpoint) -> Path:
    """Return where a checkpoint is in the folder of the master's copy; the parts of many ranks are the folder."""
    return folder if checkpoint.of_each_rank else folder / checkpoint.own_name


# --- a checkpoint now ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Outcome:
    """What came of a request: `taken` if a script removed the file, `ended` if the job did."""

    asked_at: float
    seconds: float
    ranks: list[tuple[str, AskedRank]]
    errors: list[NodeError]
    checkpoint: Checkpoint | None
    taken: bool
    ended: JobState | None


async def save(context: Context, request: SaveCheckpoint) -> SaveAnswer:
    """Ask a running job to save a checkpoint now, and wait for it. The job continues in any case.

    Raises:
        InputError: there is no such job, or it does not run. NodeError: no node could be asked.
    """
    job = context.store.jobs.find(request.job)
    _require_running(job)
    spec = spec_with(context, job, request.directory)
    context.tell(AskedToSave(title=title(job), seconds=None, signalled=0))
    outcome = await _ask(context, job, spec, request.patience)
    made = HeldCheckpoint.of(outcome.checkpoint, on_master=False) if outcome.checkpoint else None
    seconds = round(outcome.seconds, 1)
    if made:
        node, words = made.places[0].node, saved_in_words(made, seconds)
        await context.store.write(lambda: context.store.timeline.note(node, EventKind.CHECKPOINT, words, job.id))
    answer = SaveDocument(
        id=job.id,
        asked_at=outcome.asked_at,
        seconds=seconds,
        checkpoint=made,
        ranks=tuple(
            AskedRankDocument(rank=rank.rank, node=node, pid=rank.pid, answer=rank.answer)
            for node, rank in outcome.ranks
        ),
        request_taken=outcome.taken,
        errors=tuple(map(error_document, outcome.errors)),
    )
    return SaveAnswer(answer=answer, job=context.document(job), ended=outcome.ended)


def _require_running(job: Job) -> None:
    if accepts("checkpoint", job):
        return
    hint = f"see: ugro status {job.id}"
    if job.state.ended:
        hint = f"what it saved: ugro checkpoints {job.id}"
    elif not job.state.on_nodes:
        hint = f"see why it waits: ugro why {job.id}"
    raise InputError(f"{state_in_words(job)}; only a running job can save", hint)


async def _ask(context: Context, job: Job, spec: JobSpec, patience: float) -> _Outcome:
    """Make the request and wait for its answer; withdraw it in any case, also when the wait is interrupted."""
    controller, pool = await context.reach()
    places = {name: paths for name in job.nodes if (paths := run_paths(context.cluster, job, name))}
    nodes = {**context.cluster.nodes, **job.node_configs}  # as the run was started with them
    own = context.cluster.model_copy(update={"nodes": {name: nodes[name] for name in places}})
    store = CheckpointStore(context.store, own, pool)
    seen = await controller.observe([job], job.nodes)
    now = await controller.live(job, seen)
    _require_running(now)
    before = await store.find(job, spec, seen.views, nodes=own.nodes)
    asked_at, began = time.time(), time.monotonic()
    request = _Request(pool, own, places, iso(asked_at) or "")
    made: Checkpoint | None = None
    try:
        ranks, errors = await request.make()
        since = request.made_at(seen.clock_offsets, asked_at)
        if len(errors) == len(places) > 0:
            raise errors[0]
        signalled = sum(rank.answer == "signalled" for _, rank in ranks)
        while True:
            now = await controller.live(job, await controller.observe([job], job.nodes))
            listing = await store.find(job, spec, seen.views, nodes=own.nodes)
            made = newest_since(since, before.checkpoints, listing.checkpoints, not before.silent)
            seconds = time.monotonic() - began
            if made or now.state.ended or seconds > patience:
                break
            context.tell(AskedToSave(title=title(job), seconds=seconds, signalled=signalled))
            await asyncio.sleep(min(POLL_SECONDS, max(0.0, patience - seconds)))
    finally:
        taken = await request.withdraw()
    return _Outcome(asked_at, seconds, ranks, errors, made, taken, now.state if now.state.ended else None)


class _Request:
    """One request for a checkpoint, on all nodes of a job."""

    def __init__(self, pool: Pool, nodes: Inventory, places: dict[str, RunPaths], when: str) -> None:
        self._pool = pool
        self._configs = nodes.nodes
        self._places = places
        self._when = when
        self._made: dict[str, float] = {}

    def made_at(self, clock_offsets: Mapping[str, float], asked_at: float) -> float:
        """Return when the first node was asked, on the scale of the checkpoints' times: the same clocks date those."""
        return min((at - clock_offsets.get(node, 0.0) for node, at in self._made.items()), default=asked_at)

    async def make(self) -> tuple[list[tuple[str, AskedRank]], list[NodeError]]:
        """Return each rank with its node, and the errors of the nodes that could not be asked."""

        async def one(transport: Transport) -> save_request.Asked:
            return await save_request.ask(transport, self._places[transport.name], self._when)

        said = await self._pool.each(self._places, one, configs=self._configs)
        asked = {name: answer for name, answer in said.items() if not isinstance(answer, NodeError)}
        self._made = {name: answer.at for name, answer in asked.items()}
        ranks = [(name, rank) for name, answer in asked.items() for rank in answer.ranks]
        return ranks, [answer for answer in said.values() if isinstance(answer, NodeError)]

    async def withdraw(self) -> bool:
        """Remove the request files that no script took. Return whether one was taken on any node."""

        async def one(transport: Transport) -> bool:
            return await save_request.withdraw(transport, self._places[transport.name], self._when)

        return True in (await self._pool.each(self._places, one, configs=self._configs)).values()
