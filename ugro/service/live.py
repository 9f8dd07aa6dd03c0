"""The live view: reads what the last tick left in the records, and puts together what is shown of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ugro.common.config import Inventory
from ugro.common.errors import NodeError, RecordUnreadable, UgroError
from ugro.common.models.drain import Drain
from ugro.common.models.gpu import Gpu
from ugro.common.models.job import Job, Summary
from ugro.common.models.job_state import JobState
from ugro.common.models.metrics import MeasuredLink
from ugro.common.models.node import NodeView
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.records import pass_over
from ugro.control_plane.resource_manager.governor import holders
from ugro.control_plane.resource_manager.observation import last_look
from ugro.control_plane.scheduler.queue import read_queue
from ugro.service.board import Board, State
from ugro.service.context import Context
from ugro.service.documents import error_document, job_document, known_progress, outputs_document, progress_document
from ugro.service.observed import short_reasons, with_prospects
from ugro.service.schemas.base import ErrorDocument
from ugro.service.schemas.codec import ways
from ugro.service.schemas.jobs import EventDocument
from ugro.service.schemas.live import (
    ENDED_SHOWN,
    TEXT_SHOWN,
    LiveGpu,
    LiveJob,
    LiveLink,
    LiveNode,
    LiveProgress,
    LiveProposal,
    LiveSweep,
    LiveUpdate,
    LiveView,
    Watch,
)
from ugro.service.schemas.nodes import DrainDocument

CLUSTER, JOB = "cluster", "job:"
"""The topic of the whole cluster, and what the topic of a job begins with, before its id."""

EVENTS_SHOWN = 50
"""Events in the view of one job: the last ones."""

NOT_SEEN = ErrorDocument(code="not_observed", message="it was not observed so far", hint="")
"""The error of a node that no tick has asked."""


async def watch(context: Context, request: Watch) -> AsyncIterator[LiveUpdate]:
    """Yield the cluster as it is, then what changes. Ticks unless another process does.

    Raises:
        InventoryError: the inventory does not exist, or has a mistake.
        StateError: the state directory cannot be read.
    """
    board, read = context.board or _board_of(context, request.every), ways(LiveUpdate).read
    async with contextlib.aclosing(board.watch(CLUSTER)) as updates:
        async for update in updates:
            yield read({"type": update.kind, "seq": update.seq, "data": update.data})


def _board_of(context: Context, every: float) -> Board:
    """Return a board for this process alone, which ticks for it."""

    async def read(topic: str) -> State:
        try:
            await context.tick_if_free()
        except UgroError as error:
            context.store.tell(error)
        attended = await asyncio.to_thread(context.attended)
        return await asyncio.to_thread(read_topic, context.store, context.cluster, attended, topic)

    return Board(read, _Every(every))


class _Every:
    """A pulse of so many seconds."""

    beat = 0

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def beats(self, _: int) -> None:
        await asyncio.sleep(self._seconds)


# --- what is read ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recorded:
    """What the view is made of: what a tick left in the records. `views` has a node's error while it is silent."""

    at: float
    inventory: Inventory
    attended: bool
    views: Mapping[str, NodeView | NodeError]
    remembered: Mapping[str, NodeView]
    drains: Mapping[str, Drain]
    live: Sequence[Job]
    ended: Sequence[Job]
    reasons: Mapping[str, str]
    turns: Sequence[str]
    summaries: Sequence[Summary] = ()
    """Every job that ended, where a sweep is shown: most of its jobs may have left the view."""
    proposals: Sequence[LiveProposal] = ()
    links: Sequence[MeasuredLink] = ()
    problems: Sequence[UgroError] = ()
    progress: Mapping[str, LiveProgress] = field(default_factory=dict)


def read_topic(store: MetadataStore, inventory: Inventory, attended: bool, topic: str) -> State:
    """Return the state of a topic as JSON. For threads: it reads files.

    Raises:
        StateError: the state directory cannot be read. InputError: there is no such job.
    """
    if topic.startswith(JOB):
        return store.secrets.masker.document(_job_state(store, inventory, topic.removeprefix(JOB)))
    return store.secrets.masker.document(live_view(read_recorded(store, inventory, attended))).as_json()


def read_recorded(store: MetadataStore, inventory: Inventory, attended: bool) -> Recorded:
    """Read what the last tick left in the records.

    Raises:
        StateError: the state directory cannot be read.
    """
    now, unreadable = store.clock.now(), list[RecordUnreadable]()
    live = store.jobs.live(unreadable.append)
    views = last_look(store, inventory, now)
    queue = read_queue(store, inventory, live, views, now, unreadable)
    ended = [*store.jobs.recent(ENDED_SHOWN, pass_over), *(job for job in live if job.state.ended)]
    return Recorded(
        at=now,
        inventory=inventory,
        attended=attended,
        views=views,
        remembered=store.config.remembered_nodes(),
        drains=store.config.drains(),
        live=[job for job in live if not job.state.ended],
        ended=ended,
        summaries=store.jobs.summaries() if any(job.sweep for job in (*live, *ended)) else (),
        reasons=short_reasons(queue),
        turns=list(queue.in_turn()),
        proposals=list(_proposals(store)),
        links=store.metrics.links.all(),
        problems=[*store.problems(), *unreadable],
        progress={job.id: found for job in live if (found := _progress(store, job))},
    )


def _proposals(store: MetadataStore) -> Iterable[LiveProposal]:
    waiting = list(store.decisions.unanswered().values())
    if not waiting:
        return
    from ugro.control_plane.failure_handler.handler import proposal_in_words  # here, since its import takes long

    for one in waiting:
        yield LiveProposal(job=one.job, attempt=one.attempt, at=one.at, cause=one.cause, what=proposal_in_words(one))


def _job_state(store: MetadataStore, inventory: Inventory, job_id: str) -> State:
    """Return one job: its document field by field, its last events by their number, and its progress."""
    job = store.jobs.find(job_id)
    if job.state == JobState.QUEUED:
        now = store.clock.now()
        views = last_look(store, inventory, now)
        job = with_prospects(job, read_queue(store, inventory, store.jobs.live(pass_over), views, now))
    try:
        spec = store.jobs.spec(job_id)
    except UgroError:  # that is no reason not to show the job
        spec = None
    events = store.timeline.of_job(job_id)
    first = max(0, len(events) - EVENTS_SHOWN)
    return {
        "job": job_document(job, spec, known_progress(store, job), outputs_document(store, job, spec)).as_json(),
        "events": {str(first + at): EventDocument.of(one).as_json() for at, one in enumerate(events[first:])},
        "progress": progress.as_json() if (progress := _progress(store, job)) else None,
    }


def _progress(store: MetadataStore, job: Job) -> LiveProgress | None:
    known = known_progress(store, job)
    found = progress_document(known) if known else None
    if found is None:
        return None
    return LiveProgress(
        step=found.step,
        steps=found.steps,
        epoch=found.epoch,
        epochs=found.epochs,
        steps_per_second=found.rate,
        ends_at=found.eta,
    )


# --- what is shown: pure ---------------------------------------------------------------------------------------------


def live_view(known: Recorded) -> LiveView:
    """Return the view of what is known."""
    held, queued = holders(known.live), {job.id for job in known.live if job.state == JobState.QUEUED}
    jobs = {job.id: job for job in (*known.ended, *known.live)}
    return LiveView(
        at=known.at,
        attended=known.attended,
        nodes={name: _node(known, name, held) for name in known.inventory.nodes},
        jobs={
            one: _job(jobs[one], known.reasons.get(one), known.progress.get(one))
            for one in sorted(jobs, key=lambda one: (len(one), one))
        },
        queue=tuple(one for one in known.turns if one in queued),
        proposals={one.job: one for one in known.proposals},
        sweeps=_sweeps(known),
        links={f"{one.source}>{one.target} {one.backend}": _link(one) for one in known.links},
        problems={error.message: error_document(error) for error in known.problems},
    )


def _node(known: Recorded, name: str, held: Mapping[str, tuple[str, ...]]) -> LiveNode:
    view, drain = known.views.get(name), known.drains.get(name)
    error = error_document(view) if isinstance(view, NodeError) else None if view else NOT_SEEN
    last = view if isinstance(view, NodeView) else known.remembered.get(name)
    own: dict[str, Any] = {field: getattr(last, field, None) for field in _OF_NODE}
    return LiveNode(
        name=name,
        address=known.inventory.nodes[name].address,
        reachable=error is None,
        error=error,
        last_seen=last.seen_at if last and error else None,
        drained=DrainDocument(reason=drain.reason, since=drain.since) if drain else None,
        departed=name in known.inventory.departed,
        gpus=tuple(_gpu(gpu, held.get(gpu.uuid, ())) for gpu in last.gpus) if last else (),
        **own,
    )


_OF_NODE = ("cpu_count", "load_1m", "memory_total_mib", "memory_available_mib", "disk_free_mib", "gpu_problem")


def _gpu(gpu: Gpu, jobs: tuple[str, ...]) -> LiveGpu:
    known = {each.name: getattr(gpu, each.name) for each in fields(LiveGpu) if each.name not in ("job", "jobs")}
    return LiveGpu(**known, job=next(iter(jobs), None), jobs=jobs if len(jobs) > 1 else None)


def _job(job: Job, waits: str | None, progress: LiveProgress | None) -> LiveJob:
    return LiveJob(
        id=job.id,
        name=job.name,
        state=job.state,
        attempt=job.attempt,
        reason=_short(waits or job.reason if job.state == JobState.QUEUED else job.reason),
        nodes=job.nodes,
        gpus=sum(len(share.gpus) for share in job.placement.shares) if job.placement else 0,
        priority=job.priority,
        submitted_at=job.submitted_at,
        started_at=job.started_at,
        ended_at=job.ended_at,
        progress=progress,
        stopping=job.stopping,
        alert=job.alert and _short(job.alert),
        user=None,
        sweep=job.sweep_id,
    )


def _sweeps(known: Recorded) -> dict[str, LiveSweep]:
    """Return the sweeps that a shown job is part of, the newest last; their counts are those of all their jobs."""
    shown = (*known.ended, *known.live)
    parts = {job.sweep.sweep: job.sweep for job in sorted(shown, key=lambda job: (len(job.id), job.id)) if job.sweep}
    states: dict[str, dict[str, JobState]] = {sweep: {} for sweep in parts}
    every: list[Job | Summary] = [*known.summaries, *shown]
    for job in every:
        if job.sweep_id in states:
            states[job.sweep_id][job.id] = job.state
    return {
        sweep: LiveSweep(
            id=sweep,
            name=part.name,
            of=part.of,
            max_parallel=part.max_parallel,
            states=dict(Counter(states[sweep].values())),
        )
        for sweep, part in parts.items()
    }


def _short(text: str) -> str:
    return text if len(text) <= TEXT_SHOWN else f"{text[: TEXT_SHOWN - 1]}…"


def _link(link: MeasuredLink) -> LiveLink:
    return LiveLink.checked(link.model_dump())
