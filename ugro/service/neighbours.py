"""What the jobs on a shared GPU had to do with one of them that ran out of its memory."""

from __future__ import annotations

from ugro.common.errors import UgroError
from ugro.common.models.event import Event
from ugro.common.models.event_kind import EventKind
from ugro.common.models.job import Job
from ugro.common.text import printable, size
from ugro.control_plane.metadata_store import MetadataStore


def neighbours(store: MetadataStore, job: Job) -> tuple[str, bool]:
    """Return who took more than declared of the GPU that a job shared, and whether that was another job.

    Nothing is said of a job that had its GPUs alone.
    """
    if job.placement is None or job.placement.part is None:
        return "", False
    declared = size(job.placement.part.memory_mib)
    begun, ended = job.launched_at or job.submitted_at, job.ended_at
    told = [
        event
        for event in store.timeline.of_cluster()
        if event.kind == EventKind.OVER_SHARE and (ended is None or event.at <= ended + 1)
    ]
    if any(event.job == job.id and event.at >= begun for event in told):
        return f"it took more of its shared GPU than the {declared} it declared: declare more", False
    guilty = [event for event in told if event.job != job.id and _is_beside(store, event, job, begun)]
    if not guilty:
        seen = "no other job there was seen to use more than it declared"
        return f"it declared {declared} of a shared GPU, and {seen}: declare more, or run it without --share", False
    other = guilty[-1]
    return f"{other.job} was on the same GPU and {printable(other.message.removeprefix('it '))}", True


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
