"""Makes documents of records."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from ugro.common.config import Inventory
from ugro.common.errors import NodeError, RecordUnreadable, UgroError
from ugro.common.job_spec import JobSpec
from ugro.common.models.drain import Drain
from ugro.common.models.job import Attempt, Job
from ugro.common.models.job_state import JobState
from ugro.common.models.metrics import RunProgress
from ugro.common.models.node import NodeView
from ugro.common.models.outputs_state import OutputsState
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.resource_manager.twins import twins
from ugro.control_plane.scheduler.attempts import attempts
from ugro.service.schemas.base import ErrorDocument
from ugro.service.schemas.jobs import (
    AttemptSummary,
    CheckpointDocument,
    JobDocument,
    OutputsDocument,
    ProgressDocument,
    UnreadableDocument,
)
from ugro.service.schemas.nodes import DrainDocument, NodeDocument

_WITH_COPY = (OutputsState.HERE, OutputsState.PARTIAL)

WITHOUT_CONFIGS: dict[str, Any] = {"placement": {"shares": {"__all__": {"config"}}}}
"""The nodes as a run was started with them stay in its record: their `env` may be private."""

KEPT_BACK: dict[str, Any] = dict.fromkeys(("schema_version", "uid", "wish", "taken_back", "last_event"), True)
IN_SHORT = frozenset(field.name for field in fields(AttemptSummary)) - {"nodes"}


def job_document(
    job: Job,
    asked: JobSpec | None,
    progress: RunProgress | None = None,
    outputs: OutputsDocument | None = None,
) -> JobDocument:
    """Return the document of a job; `asked` is its frozen spec, None where that is lost; `progress` how far it is."""
    made = {"past", "resume_from"}
    record = job.model_dump(exclude=KEPT_BACK | WITHOUT_CONFIGS | dict.fromkeys(made, True))
    record["past"] = tuple(past.model_dump(exclude=WITHOUT_CONFIGS) for past in job.past)
    record["resume_from"] = CheckpointDocument.of(job.resume_from) if job.resume_from else None
    record["attempts"] = tuple(map(_in_short, attempts(job)))
    record["progress"] = progress_document(progress) if progress else None
    record["outputs"] = outputs
    record |= {"stopping": job.stopping, "nodes": job.nodes, "cancel_requested": job.wish is not None}
    for name in ("time_limit", "time_warning", "grace", "vram", "gpus", "share", "not_before"):
        record[name] = getattr(asked, name, None)
    record["python"] = asked.python if asked else None
    record["setup"] = asked.setup.run if asked and asked.setup else None
    return JobDocument.checked(record | {"after": tuple(asked.after) if asked else ()})


def outputs_document(store: MetadataStore, job: Job, asked: JobSpec | None) -> OutputsDocument | None:
    """Return what became of a job's outputs; None where it declares none."""
    if asked is None or not asked.outputs:
        return None
    record = store.outputs.record(job.id) if job.state == JobState.SUCCEEDED else None
    folder = store.jobs.files(job.id).outputs
    return OutputsDocument(
        globs=asked.outputs,
        state=record.state if record else None,
        folder=str(folder) if record and record.state in _WITH_COPY else None,
        files=record.files if record else 0,
        bytes=record.bytes if record else 0,
        problem=record.problem if record else "",
    )


def known_progress(store: MetadataStore, job: Job) -> RunProgress | None:
    """Return how far a job is that runs; None where that is not known, which is no reason not to show the job."""
    if not job.state.on_nodes:
        return None
    try:
        return store.metrics.series(job.id).index().progress
    except UgroError:
        return None


def progress_document(progress: RunProgress) -> ProgressDocument | None:
    """Return the document of how far a run is; None where nothing is known of it."""
    from ugro.control_plane.training_metrics.pace import seconds_left  # here, since few documents have a use for it

    step, steps = progress.step, progress.steps
    if step is None and progress.epoch is None:
        return None
    percent = 100 * min(1.0, step / steps) if step is not None and steps else None
    left = seconds_left(progress, progress.at)
    return ProgressDocument(
        at=progress.at,
        step=step,
        steps=steps,
        percent=percent,
        epoch=progress.epoch,
        epochs=progress.epochs,
        rate=progress.rate,
        left=left,
        eta=None if left is None else progress.at + left,
    )


def _in_short(attempt: Attempt) -> AttemptSummary:
    return AttemptSummary.checked(attempt.model_dump(include=set(IN_SHORT)) | {"nodes": attempt.nodes})


def error_document(error: UgroError) -> ErrorDocument:
    """Return the document of an error."""
    return ErrorDocument(**error.as_dict())


def unreadable_document(error: RecordUnreadable) -> UnreadableDocument:
    """Return the document of a job whose record cannot be read."""
    return UnreadableDocument(id=error.path.parent.name, file=str(error.path), error=error_document(error))


def node_documents(
    inventory: Inventory,
    views: Mapping[str, NodeView | None],
    errors: Mapping[str, NodeError | None],
    drains: Mapping[str, Drain],
    held: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> tuple[NodeDocument, ...]:
    """Return the documents of all nodes, in the inventory's order. `held` has the jobs that hold each GPU."""
    same = twins(inventory.nodes, views)
    return tuple(
        _node_document(
            name,
            inventory,
            views[name],
            errors[name],
            drains.get(name),
            same[name].node if name in same else None,
            held,
        )
        for name in inventory.nodes
    )


def _node_document(
    name: str,
    inventory: Inventory,
    view: NodeView | None,
    error: NodeError | None,
    drain: Drain | None,
    same_as: str | None,
    held: Mapping[str, tuple[str, ...]],
) -> NodeDocument:
    known = view.model_dump(exclude={"node", "seen_at", "pid_namespace", "folder"}) if view else {}
    if view:
        known["gpus"] = tuple(vars(gpu) | {"jobs": held.get(gpu.uuid, ())} for gpu in view.gpus)
    return NodeDocument.checked(
        {
            "name": name,
            "address": inventory.nodes[name].address,
            "reachable": error is None,
            "error": error_document(error) if error else None,
            "seen_at": view.seen_at if view else None,
            "age_seconds": round(max(0.0, time.time() - view.seen_at), 1) if view else None,
            "drained": DrainDocument(reason=drain.reason, since=drain.since) if drain else None,
            "departed": name in inventory.departed,
            "same_as": same_as,
        }
        | known
    )
