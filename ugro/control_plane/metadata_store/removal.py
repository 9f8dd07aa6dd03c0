"""Files of ended jobs on the master and on nodes: their size, what of them can go, and their removal.

Whatever looks like a checkpoint goes only with consent, with the code that reads it: also one that cannot be shown to
be complete, which may still be all that is left of days of work. Where a node is unreachable, so that its checkpoints
are unknown, it counts as having some.

Nothing here holds the store's lock over work on nodes (docs/adr/0001). Each job's removal may be cut short at any point
and repeated: node folders keep their mark to the end, and what is still owed by unreachable nodes is noted first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import InputError, NodeError, RecordUnreadable, StateError, UgroError
from ugro.common.models.checkpoint import Checkpoint
from ugro.common.models.event_kind import EventKind
from ugro.common.models.job import Job, Summary
from ugro.common.models.outputs_state import OutputsState
from ugro.common.models.owed import Owed
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.checkpoint_store import CheckpointStore, ran_at
from ugro.control_plane.metadata_store.records import pass_over
from ugro.control_plane.metadata_store.retention import (
    bytes_below,
    logs_of,
    prune,
    prune_snapshots,
    snapshots_of,
)
from ugro.nodes.code_sync import freed_bytes
from ugro.nodes.pool import Pool
from ugro.nodes.remote.footprint.footprint import Footprint, JobFootprint, Removal, footprint, remove_jobs
from ugro.nodes.transport import Transport

SEARCHES = 4
"""Jobs whose checkpoints are searched at the same time: each search reads whole folders on nodes."""

NOT_HERE = (OutputsState.OWED, OutputsState.PARTIAL, OutputsState.TOO_LARGE)
"""States of outputs of which some are on nodes alone."""

SEARCH_WITHIN = 120.0
"""Seconds that a node has to list the checkpoints of one job."""


class KeptBecause(StrEnum):
    """Reason why something of a job stays."""

    CHECKPOINTS = "it has checkpoints"
    UNSEEN = "it is not known whether it has checkpoints"
    SILENT = "a node that it ran on is unreachable"
    OUTPUTS = "not all of its outputs are on this machine"
    UNDECIDED = "it is still to be decided whether it is tried again"
    OWED = "a node has not confirmed that none of its processes run there"
    RUNNING = "processes of it are running"
    LINKED = "a folder of it on a node is a link, which is not followed"
    CHANGED = "it was resumed, or another command is removing it"


@dataclass(frozen=True)
class NodeFolder:
    """The folder of a job on one node. Nodes that share a home have one."""

    node: NodeConfig
    found: JobFootprint


@dataclass(frozen=True)
class DiskUse:
    """Disk use of a job. Bytes are those of files; of snapshots (`has_code`), what no other job's shares.

    `outputs` are the copies of what it declares, which `record` has, too; `outputs_due`: not all of them came.
    `checkpoints` are all of them, complete or not, wherever they are. `unseen` has what was not searched; `silent` are
    the nodes it ran on that could not be asked, `copies` the labels of checkpoints that the master has.
    """

    job: Job
    logs: int = 0
    has_code: bool = False
    snapshots: int = 0
    record: int = 0
    outputs: int = 0
    outputs_due: bool = False
    parts: tuple[NodeFolder, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    unseen: tuple[str, ...] = ()
    silent: tuple[NodeConfig, ...] = ()
    copies: frozenset[str] = frozenset()

    @property
    def resumable(self) -> KeptBecause | None:
        """The reason why the job may still be resumed; None: it cannot be."""
        if self.checkpoints:
            return KeptBecause.CHECKPOINTS
        return KeptBecause.UNSEEN if self.unseen else None

    @property
    def running(self) -> bool:
        """Whether something of it runs on a node, whatever its record says."""
        return any(part.found.running for part in self.parts)


@dataclass(frozen=True)
class Survey:
    """Disk use of jobs, and the nodes of the inventory that could not be asked."""

    uses: tuple[DiskUse, ...]
    silent: Mapping[str, NodeError] = field(default_factory=dict)


@dataclass(frozen=True)
class Going:
    """The parts of a job that `ugro gc` removes; `kept` says why its code and node folders stay."""

    use: DiskUse
    logs: bool
    code: bool
    kept: KeptBecause | None = None


def chosen(rows: Sequence[Summary], before: float, keep: int) -> list[str]:
    """The ids of jobs that ended before a moment, but for the `keep` that ended last of all."""
    ordered = sorted(rows, key=lambda row: row.ended_at)
    old = ordered[: len(ordered) - keep] if keep else ordered
    return [row.id for row in old if row.ended_at < before]


def decide(use: DiskUse, undecided: Collection[str], owing: Collection[str], with_checkpoints: bool) -> Going:
    """Decide which parts of an ended job go. Its logs are not needed to resume it."""
    kept: KeptBecause | None = None
    if use.job.id in undecided:
        return Going(use, False, False, KeptBecause.UNDECIDED)
    if use.job.id in owing:
        kept = KeptBecause.OWED
    elif use.running:
        kept = KeptBecause.RUNNING
    elif any(part.found.links for part in use.parts):  # what they lead to would be forgotten
        kept = KeptBecause.LINKED
    elif use.silent:  # its folder there would be forgotten
        kept = KeptBecause.SILENT
    elif not with_checkpoints:
        kept = use.resumable or (KeptBecause.OUTPUTS if use.outputs_due else None)
    there = bool(use.has_code or use.parts)
    return Going(use, use.logs > 0, there and kept is None, kept if there else None)


def decide_all(store: MetadataStore, found: Survey, with_checkpoints: bool) -> list[Going]:
    """Decide which parts of each job go; jobs without any, and without a reason to keep one, are left out."""
    open_, owed = undecided(store), owing(store)
    going = [decide(use, open_, owed, with_checkpoints) for use in found.uses]
    return [one for one in going if one.logs or one.code or one.kept]


def undecided(store: MetadataStore) -> set[str]:
    """The jobs that may be tried again once the user says so."""
    return {*store.decisions.undecided(), *store.decisions.proposals()}


def owing(store: MetadataStore) -> set[str]:
    """The jobs of which something may still run on nodes that did not answer when they were ended."""
    return {job_id for job_id, _ in store.cleanup.leftovers()}


def require_removable(store: MetadataStore, job: Job) -> None:
    """See that nothing needs an ended job any more.

    Raises:
        InputError: it has not ended, it is to be decided about, or another job waits for it.
    """
    if not job.state.ended:
        raise InputError(f"{job.id} has not ended: it is {job.state.value}", f"end it first: ugro cancel {job.id}")
    if job.id in undecided(store):
        raise InputError(f"{job.id}: {KeptBecause.UNDECIDED.value}", f"ugro approve {job.id}, or ugro deny {job.id}")
    if job.id in owing(store):
        raise InputError(f"{job.id}: {KeptBecause.OWED.value}", "it is asked at each pass: ugro sweep")
    for other in store.jobs.live(pass_over):
        try:
            waits = {dependency.partition(":")[0] for dependency in store.jobs.spec(other.id).after}
        except UgroError:
            continue
        if job.id in waits:
            raise InputError(f"{other.id} waits for {job.id}", f"ugro cancel {other.id}, or wait until it has started")


# --- looking ----------------------------------------------------------------------------------------------------------


def places(inventory: Inventory, job: Job) -> list[NodeConfig]:
    """Return the nodes of all attempts of a job, as the inventory describes them now if that is the same place."""
    found: dict[tuple[str, str, str | None, str], NodeConfig] = {}
    for placement in (job.placement, *(past.placement for past in job.past)):
        for share in placement.shares if placement else ():
            now = inventory.nodes.get(share.node)
            was = share.config or now
            if was is None:
                continue
            same = now and (now.address, now.user, now.base_dir) == (was.address, was.user, was.base_dir)
            config = now if now and same else was
            found[config.name, config.address, config.user, config.base_dir] = config
    return [*found.values()]


def master_use(store: MetadataStore, job: Job) -> DiskUse:
    """Return the disk use of a job on the master."""
    logs, snapshots = logs_of(store, job.id), snapshots_of(store, job.id)
    taken = logs.bytes if logs else 0
    own = freed_bytes(snapshots)
    rest = bytes_below(store.jobs.files(job.id).folder) - taken - sum(map(bytes_below, snapshots))
    outputs = bytes_below(store.jobs.files(job.id).outputs)
    came = store.outputs.record(job.id)
    return DiskUse(job, taken, bool(snapshots), own, rest, outputs, came is not None and came.state in NOT_HERE)


async def survey(store: MetadataStore, inventory: Inventory, pool: Pool, jobs: Sequence[Job]) -> Survey:
    """Look at what ended jobs take up, and at their checkpoints. Changes nothing."""
    where = {job.id: places(inventory, job) for job in jobs}
    configs = {_key(config): config for found in where.values() for config in found}
    answers = await pool.each(configs, footprint, configs=configs)
    silent = {
        configs[key].name: answer
        for key, answer in answers.items()
        if isinstance(answer, NodeError) and configs[key].name in inventory.nodes
    }
    searches = asyncio.Semaphore(SEARCHES)

    async def one(job: Job) -> DiskUse:
        async with searches:
            use = await asyncio.to_thread(master_use, store, job)
            said = {key: answers[key] for key in map(_key, where[job.id])}
            parts = _parts(job, [(configs[key], found) for key, found in said.items() if isinstance(found, Footprint)])
            mute = tuple(configs[key] for key, found in said.items() if isinstance(found, NodeError))
            dumb = {(config.name, config.address, config.user) for config in mute}
            nodes = {
                name: config
                for name, config in ran_at(inventory, job).items()
                if (config.name, config.address, config.user) not in dumb
            }
            found, unseen, copies = await _checkpoints(store, inventory, pool, job, nodes)
            unseen += tuple(f"{config.name} is unreachable" for config in mute)
            return replace(use, parts=parts, checkpoints=found, unseen=unseen, silent=mute, copies=copies)

    return Survey(tuple(await asyncio.gather(*map(one, jobs))), silent)


def _key(config: NodeConfig) -> str:
    return f"{config.name} {config.address} {config.user} {config.base_dir}"


def _parts(job: Job, said: Sequence[tuple[NodeConfig, Footprint]]) -> tuple[NodeFolder, ...]:
    """The folders that carry the job's uid, each once where nodes share a home."""
    found: dict[str, NodeFolder] = {}
    for config, seen in said:
        for one in seen.jobs:
            if one.id == job.id and one.uid == job.uid:
                key = seen.storage_id or _key(config)
                if key not in found or one.running:  # whatever runs is seen on its own node alone
                    found[key] = NodeFolder(config, one)
    return tuple(found.values())


async def _checkpoints(
    store: MetadataStore, inventory: Inventory, pool: Pool, job: Job, nodes: Mapping[str, NodeConfig]
) -> tuple[tuple[Checkpoint, ...], tuple[str, ...], frozenset[str]]:
    """The checkpoints of a job on these nodes and on the master, what was not searched, and which copies the master
    has.
    """
    if not nodes and not store.jobs.files(job.id).checkpoints.exists():
        return (), (), frozenset()
    try:
        spec = store.jobs.spec(job.id)
    except UgroError as error:
        return (), (error.message,), frozenset()
    checkpoints = CheckpointStore(store, inventory, pool)
    listing = await checkpoints.find(job, spec, {}, SEARCH_WITHIN, nodes)
    return tuple(listing.checkpoints), tuple(listing.unseen(job)), frozenset(checkpoints.kept(job))


# --- doing ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """The parts of one job that went, and the nodes that broke off."""

    going: Going
    failed: Mapping[str, NodeError] = field(default_factory=dict)


async def collect(store: MetadataStore, pool: Pool, going: Going) -> Done:
    """Remove what was decided to go of one job.

    The code on the master goes last: as long as it is there, the job's folders on nodes are looked for again.
    """
    with store.jobs.removing(going.use.job) as free:
        if not free:
            return Done(Going(going.use, False, False, KeptBecause.CHANGED))
        if going.logs and (logs := logs_of(store, going.use.job.id)):
            await asyncio.to_thread(prune, store, logs)
        if going.code:
            said = await _remove_parts(pool, going.use.job, [part.node for part in going.use.parts])
            failed = {part.node.name: said[_key(part.node)] for part in going.use.parts}
            broken = {node: answer for node, answer in failed.items() if isinstance(answer, NodeError)}
            if broken or Removal.RUNNING in failed.values():
                return Done(
                    Going(going.use, going.logs, False, KeptBecause.SILENT if broken else KeptBecause.RUNNING), broken
                )
            if snapshots_of(store, going.use.job.id):
                await asyncio.to_thread(prune_snapshots, store, going.use.job.id)
    return Done(going)


async def remove(store: MetadataStore, pool: Pool, use: DiskUse) -> dict[str, Removal | NodeError]:
    """Remove an ended job: its folders on nodes, then its record. Return the answer of each node.

    The removal is noted first. For an unreachable node the note stays, and a later tick completes it.

    Raises:
        InputError: the job changed meanwhile, or something of it runs.
        StateError: the state directory cannot be written.
    """
    job = use.job
    nodes = [*(part.node for part in use.parts), *use.silent]
    owed = {_key(config): Owed(job=job.id, uid=job.uid, config=config) for config in nodes}
    with store.jobs.removing(job) as free:
        if not free:
            raise InputError(f"{job.id}: {KeptBecause.CHANGED.value}", f"see: ugro status {job.id}")
        store.cleanup.remember_removals(owed.values())
        answers = await _remove_parts(pool, job, nodes)
        store.cleanup.forget_removals([one for key, one in owed.items() if isinstance(answers[key], Removal)])
        if any(answer == Removal.RUNNING for answer in answers.values()):
            store.cleanup.forget_removals(owed.values())
            raise InputError(f"{job.id}: {KeptBecause.RUNNING.value}; its record stays", "see which: ugro footprint")
        await asyncio.to_thread(store.jobs.forget, job)
        # Where the master is a node, its record of the job was what stayed there.
        rest = [owed[key].config for key, answer in answers.items() if answer == Removal.REST]
        again = await _remove_parts(pool, job, rest)
        answers |= {key: Removal.GONE for key, answer in again.items() if answer == Removal.ABSENT}
    return {owed[key].config.name: answer for key, answer in answers.items()}


async def remove_owed(store: MetadataStore, pool: Pool, owed: Sequence[Owed]) -> None:
    """Remove from one node what it owes. Unsettled removals stay noted, as do all of an unreachable node."""
    node = owed[0].config
    try:
        told = await remove_jobs(pool.transport(node), [(one.job, one.uid) for one in owed])
    except NodeError:  # a later tick asks again; a node that left and is gone must not fail what others ask for
        return
    done = [one for one in owed if told[one.job] != Removal.RUNNING]

    def record() -> None:
        store.cleanup.forget_removals(done)
        for one in done:
            kept = " except what cannot be removed" if told[one.job] == Removal.LEFT else ""
            store.timeline.note(node.name, EventKind.CLEARED, f"what {one.job} left on {node.name} was removed{kept}")

    await store.write(record)


async def _remove_parts(pool: Pool, job: Job, nodes: Sequence[NodeConfig]) -> dict[str, Removal | NodeError]:
    configs = {_key(config): config for config in nodes}

    async def one(transport: Transport) -> Removal:
        return (await remove_jobs(transport, [(job.id, job.uid)]))[job.id]

    return await pool.each(configs, one, configs=configs)


def has_more(store: MetadataStore, job_id: str) -> bool:
    """Whether anything of a job can go. Its code here goes last, so without it nothing is on nodes."""
    return bool(logs_of(store, job_id) or snapshots_of(store, job_id))


def freed_by(store: MetadataStore, going: Sequence[Going]) -> int:
    """The bytes of code that are free on the master once all of these went."""
    return freed_bytes([path for one in going if one.code for path in snapshots_of(store, one.use.job.id)])


def ended(store: MetadataStore, ids: Sequence[str]) -> list[Job]:
    """The records of jobs that ended, as far as they can be read."""

    def ignore(error: RecordUnreadable) -> None:
        store.tell(StateError(error.message, error.hint))

    return [job for job in store.jobs.all(ids, ignore) if job.state.ended]
