"""Watching the cluster through either backend."""

from __future__ import annotations

import contextlib

from door import Door

from ugro.common.models.job_state import JobState
from ugro.service.schemas.live import LiveDelta, LiveSnapshot, Watch


def test_watches_the_cluster(door: Door) -> None:
    with contextlib.closing(door.stream(Watch(every=0.2))) as updates:
        first = next(updates)
        assert isinstance(first, LiveSnapshot)
        view, seq = first.data, first.seq
        assert view.nodes["here"].reachable and view.jobs == {}
        door.submit("raise SystemExit(3)\n", name="first")
        seen = []
        for update in updates:
            assert isinstance(update, LiveDelta) and update.seq > seq
            view, seq = view.with_changes(update.data), update.seq
            if (job := view.jobs.get("job-001")) and job.state not in seen:
                seen.append(job.state)
            if job and job.state.ended:
                break
    assert seen[-1] == JobState.FAILED and view.jobs["job-001"].name == "first"
