"""Reads the state of the cluster and of its jobs. Changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
from collections.abc import Iterable, Iterator, Mapping

from ugro.common.config import Inventory
from ugro.common.errors import InputError, RecordUnreadable
from ugro.common.models.job import Job, Summary
from ugro.common.models.job_state import JobState
from ugro.common.models.metrics import GpuLook
from ugro.common.models.node import NodeView
from ugro.common.paths import run_paths
from ugro.common.text import printable
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.records import OnUnreadable, pass_over
from ugro.control_plane.resource_manager.governor import holders
from ugro.control_plane.resource_manager.observation import fresh_or_remembered
from ugro.control_plane.resource_manager.twins import REMEDY, twins
from ugro.control_plane.scheduler.backfill import Queue
from ugro.control_plane.scheduler.queue import read_queue
from ugro.service.context import Context
from ugro.service.documents import error_document, node_documents, unreadable_document
from ugro.service.observed import OBSERVE_WITHIN, observe, observed, short_reasons, with_reason
from ugro.service.schemas.history import GpuHistoryDocument, GpuSampleDocument, History, HistoryAnswer
from ugro.service.schemas.jobs import EventDocument
from ugro.service.schemas.queries import (
    LAST_EVENTS,
    RECENT,
    Attended,
    AttendedDocument,
    ClusterStatus,
    Events,
    EventsAnswer,
    JobStatus,
    ListedJob,
    Nodes,
    NodesAnswer,
    Proposed,
    ShowJob,
    Status,
    StatusDocument,
)
from ugro.service.web_door import NotServed


async def attended(context: Context, _: Attended) -> AttendedDocument:
    """Return whether a scheduler runs."""
    return AttendedDocument(attended=context.attended())


async def status(context: Context, request: Status) -> ClusterStatus:
    """Return the cluster and its jobs as the nodes show them.

    Raises:
        InventoryError: the inventory does not exist, or has a mistake.
        StateError: the state directory cannot be read.
    """
    store, unreadable = context.store, list[RecordUnreadable]()
    records = store.jobs.live(unreadable.append)
    jobs = _wanted(request, store, records, unreadable.append)
    seen, live = await observe(context, records)
    queue = read_queue(store, context.cluster, live, seen.views, seen.at, unreadable)
    turns, now = _turns(queue, live), {job.id: job for job in live}
    said = short_reasons(queue)
    jobs = [with_reason(now.get(job.id, job), said.get(job.id)) for job in jobs]
    views, errors = fresh_or_remembered(store, seen)
    answer = StatusDocument(
        nodes=node_documents(context.cluster, views, errors, store.config.drains(), holders(live)),
        jobs=tuple(_listed(context, job, turns.get(job.id)) for job in jobs),
        unreadable=tuple(map(unreadable_document, unreadable)),
        attended=context.attended(),
        problems=tuple(map(error_document, store.problems())),
    )
    return ClusterStatus(
        answer=answer,
        recorded={job.id: job.state for job in records},
        proposed=proposed(store, {job.id for job in jobs}),
        twins=_twins(context.cluster, views),
        ever=bool(jobs) or store.jobs.next_id() != "job-001",
        older=0 if _is_chosen(request) else _older(store, {job.id for job in jobs}),
        no_dashboard=context.web.why if isinstance(context.web, NotServed) and context.web.missed else "",
    )


def _is_chosen(request: Status) -> bool:
    """Whether certain jobs are asked for, and not the usual ones."""
    return bool(request.everything or request.since is not None or request.states or request.pattern or request.ids)


def _older(store: MetadataStore, listed: set[str]) -> int:
    """Return how many jobs ended and are not listed; with few listed there are none."""
    return len(store.jobs.ended_ids() - listed) if len(listed) >= RECENT else 0


def _wanted(request: Status, store: MetadataStore, live: Iterable[Job], on_unreadable: OnUnreadable) -> list[Job]:
    """The jobs that are asked for, in the order of their ids; of the ended ones only those are read."""

    def fits(job: Job | Summary) -> bool:
        return (
            (request.since is None or job.submitted_at >= request.since)
            and (not request.states or job.state in request.states)
            and (request.pattern is None or fnmatch.fnmatchcase(job.name, request.pattern))
            and (not request.ids or job.id in request.ids)
        )

    live = [job for job in live if fits(job)]
    if _is_chosen(request):
        ended = store.jobs.all((row.id for row in store.jobs.summaries() if fits(row)), on_unreadable)
    else:
        ended = _last_ended(store, on_unreadable)
    return sorted({job.id: job for job in (*ended, *live)}.values(), key=lambda job: (len(job.id), job.id))


def _last_ended(store: MetadataStore, on_unreadable: OnUnreadable) -> list[Job]:
    """Return the jobs that ended last, of which a sweep counts as one."""
    last = store.jobs.recent(RECENT, on_unreadable)
    if all(job.sweep is None for job in last):
        return last
    shown: dict[str, list[str]] = {}
    for row in reversed(store.jobs.summaries()):
        if len(shown) < RECENT or (row.sweep_id or row.id) in shown:
            shown.setdefault(row.sweep_id or row.id, []).append(row.id)
    return store.jobs.all([job_id for ids in shown.values() for job_id in ids], on_unreadable)


def _turns(queue: Queue, live: Iterable[Job]) -> dict[str, int]:
    """Which queued job is how far from its turn, from 1; a held one has none."""
    queued = {job.id for job in live if job.state == JobState.QUEUED}
    return {job_id: turn for turn, job_id in enumerate((one for one in queue.in_turn() if one in queued), 1)}


def _listed(context: Context, job: Job, position: int | None) -> ListedJob:
    return ListedJob(**vars(context.document(job)), position=position)


def proposed(store: MetadataStore, jobs: set[str]) -> tuple[Proposed, ...]:
    """Return what is proposed about these jobs and waits for an answer."""
    waiting = [one for one in store.decisions.unanswered().values() if one.job in jobs]
    if not waiting:
        return ()
    from ugro.control_plane.failure_handler.handler import proposal_in_words  # here, since its import takes long

    return tuple(Proposed(job=one.job, what=proposal_in_words(one)) for one in waiting)


def _twins(cluster: Inventory, views: Mapping[str, NodeView | None]) -> dict[str, str]:
    return {name: f"{twin.text(name)}: {REMEDY}" for name, twin in twins(cluster.nodes, views).items()}


async def job(context: Context, request: ShowJob) -> JobStatus:
    """Return one job as its nodes show it now.

    Raises:
        InputError: there is no such job.
    """
    record = context.store.jobs.find(request.job)
    found = await observed(context, record)
    return JobStatus(
        answer=context.document(found),
        recorded=record.state,
        folders=_folders(context, found),
        proposed=proposed(context.store, {found.id}),
    )


def _folders(context: Context, job: Job) -> dict[str, str]:
    return {node: paths.run_dir for node in job.nodes if (paths := run_paths(context.inventory, job, node))}


async def nodes(context: Context, _: Nodes) -> NodesAnswer:
    """Return the nodes and their GPUs.

    Raises:
        InventoryError: the inventory does not exist, or has a mistake.
    """
    seen = await (await context.reach()).controller.observe([], within=OBSERVE_WITHIN)
    views, errors = fresh_or_remembered(context.store, seen)
    held = holders(context.store.jobs.live(pass_over))
    documents = node_documents(context.cluster, views, errors, context.store.config.drains(), held)
    return NodesAnswer(answer=documents, twins=_twins(context.cluster, views))


async def events(context: Context, request: Events) -> EventsAnswer:
    """Return the timeline of a job, or of the cluster.

    Raises:
        InputError: there is no such job, or nothing is known of such a node.
    """
    store = context.store
    if request.node is not None:
        _require_known(context, request.node)
    record = store.jobs.find(request.job) if request.job else None
    found = store.timeline.of_job(record.id) if record else store.timeline.of_cluster()
    since, node = request.since or 0.0, request.node
    found = [event for event in found if event.at >= since and (node is None or event.node == node)]
    if not (record or request.everything or request.since):
        found = found[-LAST_EVENTS:]
    seen = await observed(context, record) if record and record.state.on_nodes else None
    return EventsAnswer(
        answer=tuple(map(EventDocument.of, found)),
        job=context.document(seen) if seen else None,
        recorded={record.id: record.state} if record else {},
    )


def _require_known(context: Context, node: str) -> None:
    """Check that a node is in the inventory, or was when something was written down of it.

    Raises:
        InputError: it is neither.
    """
    store = context.store
    known = dict.fromkeys([*store.config.remembered_configs(), *(event.node for event in store.timeline.of_cluster())])
    with contextlib.suppress(InputError):  # the timeline can be read without an inventory
        known = {**dict.fromkeys(context.inventory.nodes), **known}
    if node not in known:
        names = ", ".join(printable(name) for name in known if name)
        hint = f"the nodes known are: {names}" if names else "no node has been observed"
        raise InputError(f"no node is called {printable(node)!r}", hint)


async def history(context: Context, request: History) -> HistoryAnswer:
    """Return what each GPU did since a time.

    Raises:
        InputError: nothing is known of such a node.
    """
    return HistoryAnswer(answer=tuple(await asyncio.to_thread(lambda: tuple(_history(context, request)))))


def _history(context: Context, request: History) -> Iterator[GpuHistoryDocument]:
    kept = context.store.metrics.history
    recorded, cluster = kept.nodes(), context.cluster
    asked = [name if name in recorded else cluster.node(name).name for name in request.nodes]
    views, known = context.store.config.remembered_nodes(), context.store.config.known_gpus()
    for node in dict.fromkeys(asked or [*cluster.nodes, *recorded]):
        indexes = {gpu.uuid: gpu.index for gpu in views[node].gpus} if node in views else {}
        by_gpu: dict[str, list[GpuLook]] = {}
        for look in kept.read(node, request.since, request.every):
            by_gpu.setdefault(look.uuid, []).append(look)
        for uuid in sorted(by_gpu, key=lambda uuid: (uuid not in indexes, indexes.get(uuid) or 0)):
            samples = tuple(GpuSampleDocument.checked(look.model_dump(exclude={"uuid"})) for look in by_gpu[uuid])
            name = known.get(node, {}).get(uuid, "")
            yield GpuHistoryDocument(node=node, uuid=uuid, index=indexes.get(uuid), name=name, samples=samples)
