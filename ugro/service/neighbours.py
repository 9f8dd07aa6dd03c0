"""What the jobs on a shared GPU had to do with one of them that ran out of its memory."""

from __future__ import annotations

from ugro.common.errors import UgroError
from ugro.common.models.event import Event, EventKind
from ugro.common.models.job import Job
from ugro.common.text import printable, size
from ugro.control_plane.metadata_store import MetadataStore


def neighbours(store: MetadataStore, job: Job) -> str:
    """Return who took more than declared of the GPU that a job shared; nothing if the job had its GPUs alone."""
    if job.placement is None or job.placement.part is None:
        return ""
    begun, ended = job.launched_at or job.submitted_at, job.ended_at
    told = [
        event
        for event in store.timeline.of_cluster()
        if event.kind == EventKind.OVER_SHARE and (ended is None or event.at <= ended + 1)
    ]
    if any(event.job == job.id and event.at >= begun for event in told):
        return f"it took more of the GPU that it shares than the {size(job.placement.part.memory_mib)} it declared"
    guilty = [event for event in told if event.job != job.id and _is_beside(store, event, job, begun)]
    if not guilty:
        return (
            f"it shared its GPU, of which it declared {size(job.placement.part.memory_mib)}, and no other job was seen "
            "to use more than declared: declare more, or run it without --share"
        )
    return f"{guilty[-1].job} shared its GPU with it: {printable(guilty[-1].message)}; see ugro status {guilty[-1].job}"


def _is_beside(store: MetadataStore, event: Event, job: Job, begun: float) -> bool:
    """Whether the job of an event was on the GPU of another while that ran."""
    try:
        other = store.jobs.job(event.job)
    except UgroError:
        return False
    attempts = [other.latest, *other.past]
    on = [one for one in attempts if (one.launched_at or 0.0) <= event.at and (one.ended_at or event.at) >= event.at]
    gpus = {uuid for one in on if one.placement for share in one.placement.shares for uuid in share.gpus}
    over = any(one.ended_at is not None and one.ended_at < begun for one in on)
    mine = {uuid for share in job.placement.shares for uuid in share.gpus} if job.placement else set()
    return not over and not gpus.isdisjoint(mine)
