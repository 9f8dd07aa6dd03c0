"""Removes ended jobs, and what old jobs left, from this machine and from nodes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ugro.common.config import Inventory
from ugro.common.errors import EXIT_OK, InventoryError, NodeError, UgroError
from ugro.common.models.job import Job
from ugro.common.text import printable
from ugro.control_plane.metadata_store import old_environments, removal
from ugro.control_plane.metadata_store.old_environments import idle_seconds
from ugro.control_plane.metadata_store.records import pass_over
from ugro.control_plane.metadata_store.retention import STRAY_AFTER, remove_stray, strays
from ugro.nodes.pool import Pool
from ugro.nodes.remote.footprint.footprint import Removal
from ugro.service.context import Context
from ugro.service.documents import error_document
from ugro.service.footprint import readable
from ugro.service.plan import Fingerprint, Question, consented
from ugro.service.schemas.base import ErrorDocument
from ugro.service.schemas.checkpoints import HeldCheckpoint
from ugro.service.schemas.removal import (
    BytesOnNode,
    Collect,
    Collected,
    CollectedDocument,
    CollectedEnvironment,
    CollectedJob,
    CollectPlan,
    JobInWords,
    NodeFolderDocument,
    PlanCollect,
    PlanRemove,
    RefusedDocument,
    Remove,
    RemovedDocument,
    RemovedFromNode,
    RemovedJob,
    RemovePlan,
    UnreachableNode,
    UseDocument,
)
from ugro.service.words import title

# --- whole jobs ------------------------------------------------------------------------------------------------------


async def plan_remove(context: Context, request: PlanRemove) -> RemovePlan:
    """Plan to remove ended jobs entirely. Of several, one that cannot be removed stops no other.

    Raises:
        UgroError: there is one only, and it cannot be removed.
    """
    found, refused = await _removable(context, request.jobs)
    uses = await _uses(context, found)
    failed = tuple(RefusedDocument(name=name, error=error_document(error)) for name, error in refused.items())
    return RemovePlan(
        jobs=tuple(map(_use_document, uses)),
        refused=failed,
        exit_code=max([EXIT_OK, *(error.exit_code for error in refused.values())]),
        questions=_questions(uses, request.with_checkpoints),
        fingerprint=Fingerprint.of(_parts(uses)),
    )


async def _removable(context: Context, names: Sequence[str]) -> tuple[list[Job], dict[str, UgroError]]:
    """Return the jobs that may go, and by name why others may not."""
    found: dict[str, Job] = {}
    refused: dict[str, UgroError] = {}
    for name in dict.fromkeys(names):
        try:
            job = await context.settled(context.store.jobs.find(name))
            removal.require_removable(context.store, job)
            found[job.id] = job
        except UgroError as error:
            if len(names) == 1:
                raise
            refused[name] = error
    return list(found.values()), refused


async def _uses(context: Context, jobs: Sequence[Job]) -> tuple[removal.DiskUse, ...]:
    if not jobs:
        return ()
    pool = (await context.reach()).pool
    return (await removal.survey(context.store, context.cluster, pool, jobs)).uses


def _parts(uses: Iterable[removal.DiskUse], with_checkpoints: bool = True) -> dict[str, object]:
    """Return what a plan depends on: these runs, and their checkpoints if those are removed, too."""
    found = dict[str, object]()
    for use in uses:
        job = use.job
        found[f"the record of {job.id}"] = [job.uid, job.attempt, job.state.value]
        if with_checkpoints:
            saved = sorted((one.label, sorted(place.node for place in one.places)) for one in use.checkpoints)
            found[f"the checkpoints of {job.id}"] = [use.resumable.name if use.resumable else None, saved]
    return found


def _questions(uses: Sequence[removal.DiskUse], with_checkpoints: bool) -> tuple[Question, ...]:
    """Ask for what goes, and once more for what a job could be resumed from."""
    if not uses:
        return ()
    jobs = " ".join(use.job.id for use in uses)
    everything = Question(
        id="remove",
        text="Remove all of it?",
        refusal="confirmation needed, but stdin is not a terminal",
        hint=f"use --yes: ugro rm {jobs} --yes",
        untouched="nothing was removed",
    )
    reasons = {use.job.id: use.resumable for use in uses if use.resumable and not with_checkpoints}
    resumable = (
        Question(
            id=f"resumable {job_id}",
            text=f"{job_id}: {reason.value}. It cannot be resumed afterwards. Remove it?",
            refusal=f"{job_id}: {reason.value}; nothing was removed",
            hint=f"to remove it: ugro rm {jobs} --yes --with-checkpoints",
            untouched="nothing was removed",
        )
        for job_id, reason in reasons.items()
    )
    return (everything, *resumable)


def _use_document(use: removal.DiskUse) -> UseDocument:
    parts = (
        NodeFolderDocument(node=part.node.name, files=part.found.files, bytes=part.found.bytes) for part in use.parts
    )
    return UseDocument(
        id=use.job.id,
        title=title(use.job),
        state=use.job.state,
        bytes=use.logs + use.snapshots + use.record,
        outputs=use.outputs,
        parts=tuple(parts),
        silent=tuple(node.name for node in use.silent),
        checkpoints=_checkpoints(use),
        unseen=tuple(map(readable, use.unseen)),
    )


def _checkpoints(use: removal.DiskUse) -> tuple[HeldCheckpoint, ...]:
    """Return the checkpoints of a job; of an incomplete one the master has no copy."""
    return tuple(
        HeldCheckpoint.of(found, on_master=found.label in use.copies and found.problem is None)
        for found in use.checkpoints
    )


async def remove(context: Context, request: Remove) -> RemovedDocument:
    """Remove the jobs of a plan. What is on unreachable nodes goes once they answer.

    Raises:
        PlanChanged: a job is another run by now, or has other checkpoints.
        InputError: an answer is missing, or a job is needed by now. Declined: the answer is no.
    """
    plan = request.plan
    consented(plan.questions, request.answers)
    jobs = [context.store.jobs.find(job.id) for job in plan.jobs]
    for job in jobs:
        removal.require_removable(context.store, job)
    uses = await _uses(context, jobs)
    plan.fingerprint.require(_parts(uses))
    removed = []
    for use in uses:
        told = await removal.remove(context.store, (await context.reach()).pool, use)
        removed.append(_removed(use, told))
    return RemovedDocument(removed=tuple(removed), failed=plan.refused)


def _removed(use: removal.DiskUse, told: Mapping[str, Removal | NodeError]) -> RemovedJob:
    nodes = (
        RemovedFromNode(node=node, state=answer.value, error=None)
        if isinstance(answer, Removal)
        else RemovedFromNode(node=node, state="unreachable", error=error_document(answer))
        for node, answer in told.items()
    )
    return RemovedJob(
        id=use.job.id,
        name=use.job.name,
        bytes=use.logs + use.snapshots + use.record,
        node_bytes=sum(part.found.bytes for part in use.parts),
        nodes=tuple(nodes),
        checkpoints=_checkpoints(use),
    )


# --- what old jobs left ----------------------------------------------------------------------------------------------


async def plan_collect(context: Context, request: PlanCollect) -> CollectPlan:
    """Plan to remove what old jobs left: logs, code, folders on nodes, and what killed commands left half written."""
    store, now = context.store, time.time()
    rows = store.jobs.summaries()
    ids = removal.chosen(rows, now - request.older_than, request.keep)
    idle = idle_seconds(store.jobs.live(pass_over), rows, {*ids}, request.older_than, now)
    jobs = removal.ended(store, [job_id for job_id in ids if removal.has_more(store, job_id)])
    temporary = strays(store, now - STRAY_AFTER)
    inventory, pool = await _way(context, jobs)
    found = await removal.survey(store, inventory, pool, jobs)
    going = removal.decide_all(store, found, request.with_checkpoints)
    environments, unsearched = await _environments(context, idle)
    going_too = _Rest(tuple(temporary), environments, unsearched)
    return CollectPlan(
        found=_collected(going, removal.freed_by(store, going), _errors(found.silent), going_too, False),
        with_checkpoints=request.with_checkpoints,
        idle=idle,
        fingerprint=Fingerprint.of(_parts((one.use for one in going), request.with_checkpoints)),
    )


async def collect(context: Context, request: Collect) -> Collected:
    """Remove what a plan says of old jobs. What cannot be removed by now stays, and the answer says why.

    Raises:
        PlanChanged: a job is another run by now, or has other checkpoints.
    """
    store, plan = context.store, request.plan
    planned = plan.found.answer
    temporary = [path for path in strays(store, time.time() - STRAY_AFTER) if readable(str(path)) in planned.temporary]
    for path in temporary:
        remove_stray(path)
    jobs = [store.jobs.job(job.id) for job in planned.jobs]
    inventory, pool = await _way(context, jobs)
    found = await removal.survey(store, inventory, pool, jobs)
    plan.fingerprint.require(_parts(found.uses, plan.with_checkpoints))
    kept = {job.id: removal.KeptBecause[job.kept.upper()] for job in planned.jobs if job.kept}
    going = [
        replace(one, code=False, kept=one.kept or kept[one.use.job.id]) if one.use.job.id in kept else one
        for one in removal.decide_all(store, found, plan.with_checkpoints)
    ]
    freed = removal.freed_by(store, going)
    done = [await removal.collect(store, pool, one) for one in going]
    failed = {node: error for one in done for node, error in one.failed.items()}
    silent = {one.node: one.error for one in planned.unreachable} | _errors({**found.silent, **failed})
    environments = await _remove_environments(context, planned.environments, plan.idle)
    rest = _Rest(tuple(temporary), environments, planned.unsearched)
    return _collected([one.going for one in done], freed, silent, rest, True)


@dataclass(frozen=True)
class _Rest:
    """What goes beside that of jobs, and the nodes that could not be asked for environments."""

    temporary: tuple[Path, ...]
    environments: tuple[CollectedEnvironment, ...]
    unsearched: tuple[UnreachableNode, ...]


async def _environments(
    context: Context, idle: int
) -> tuple[tuple[CollectedEnvironment, ...], tuple[UnreachableNode, ...]]:
    """Return the environments that nothing used for so long; without an inventory the rest is collected still."""
    try:
        inventory = context.inventory
    except InventoryError as error:
        context.store.tell(error)
        return (), ()
    found = await old_environments.find((await context.reach()).pool, [*inventory.nodes], idle)
    environments = tuple(
        CollectedEnvironment(
            node=one.node, name=one.found.name, bytes=one.found.bytes, used_at=one.found.used_at, kept=None
        )
        for one in found.environments
    )
    return environments, tuple(UnreachableNode(node=node, error=error) for node, error in _errors(found.silent).items())


async def _remove_environments(
    context: Context, planned: Sequence[CollectedEnvironment], idle: int
) -> tuple[CollectedEnvironment, ...]:
    """Remove environments that are still as unused as planned."""
    if not planned:
        return ()
    pool = (await context.reach()).pool
    became = await old_environments.remove(pool, [(one.node, one.name) for one in planned], idle)
    return tuple(replace(one, kept=_kept(became[one.node, one.name])) for one in planned)


def _kept(became: Removal | NodeError) -> str | None:
    if isinstance(became, NodeError):
        return "unreachable"
    return None if became in (Removal.GONE, Removal.ABSENT) else became.value


def _errors(silent: Mapping[str, NodeError]) -> dict[str, ErrorDocument]:
    return {node: error_document(error) for node, error in silent.items()}


async def _way(context: Context, jobs: Sequence[Job]) -> tuple[Inventory, Pool]:
    """Return the cluster of the inventory, which is not needed where none of the jobs ever ran."""
    if any(job.placement or job.past for job in jobs):
        return context.cluster, (await context.reach()).pool
    nowhere = Inventory.model_construct(nodes={})
    return nowhere, Pool(nowhere)


def _collected(
    going: Sequence[removal.Going],
    code_bytes: int,
    silent: Mapping[str, ErrorDocument],
    rest: _Rest,
    deleted: bool,
) -> Collected:
    jobs, on_nodes = tuple(map(_collected_job, going)), dict[str, int]()
    for job in jobs:
        for part in job.nodes:
            on_nodes[part.node] = on_nodes.get(part.node, 0) + part.bytes
    answer = CollectedDocument(
        deleted=deleted,
        bytes=sum(job.bytes for job in jobs),
        code_bytes=code_bytes,
        nodes=tuple(BytesOnNode(node=node, bytes=taken) for node, taken in on_nodes.items()),
        jobs=jobs,
        environments=rest.environments,
        temporary=tuple(readable(str(path)) for path in rest.temporary),
        unreachable=tuple(UnreachableNode(node=node, error=error) for node, error in silent.items()),
        unsearched=rest.unsearched,
    )
    return Collected(answer=answer, jobs=tuple(map(_in_words, going)))


def _collected_job(one: removal.Going) -> CollectedJob:
    use = one.use
    parts = use.parts if one.code else ()
    return CollectedJob(
        id=use.job.id,
        bytes=use.logs if one.logs else 0,
        code_bytes=use.snapshots if one.code else 0,
        nodes=tuple(BytesOnNode(node=part.node.name, bytes=part.found.bytes) for part in parts),
        kept=one.kept.name.lower() if one.kept else None,
        checkpoints=_checkpoints(use),
        unseen=tuple(map(printable, use.unseen)),
    )


def _in_words(one: removal.Going) -> JobInWords:
    return JobInWords(
        code=one.code and one.use.has_code,
        kept=one.kept.value if one.kept else None,
        resumable=one.kept in (removal.KeptBecause.CHECKPOINTS, removal.KeptBecause.UNSEEN),
    )
