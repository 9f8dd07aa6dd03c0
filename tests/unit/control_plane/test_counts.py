"""What a process counts."""

from __future__ import annotations

from pathlib import Path

from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import Unreachable
from ugro.common.models.event_kind import EventKind
from ugro.common.models.first_failure import FirstFailure
from ugro.common.models.job_state import JobState
from ugro.control_plane.controller.node_watch import remember
from ugro.control_plane.counts import SECONDS, Durations
from ugro.control_plane.metadata_store import MetadataStore
from ugro.engines.base import Observation
from ugro.testing.builders import job, node_view


def test_durations_fall_in_the_bucket_of_their_bound() -> None:
    found = Durations()
    for seconds in (0.0, SECONDS[0], SECONDS[0] * 1.01, SECONDS[-1], SECONDS[-1] * 2):
        found.add(seconds)
    assert found.up_to() == [2, *([3] * (len(SECONDS) - 2)), 4, 5]


def test_an_end_counts_once_with_its_cause(home: Path) -> None:
    store = MetadataStore(home)
    store.jobs.files("job-001").folder.mkdir(parents=True)
    failure = FirstFailure(rank=0, node="gpu1", cause="cuda_oom")
    failed = job(JobState.FAILED, started_at=1.0, ended_at=2.0, first_failure=failure)
    store.jobs.save(failed, EventKind.FAILED, "rank 0 ended with 1")
    store.jobs.save(failed, EventKind.RECOVERY, "it is not tried again")
    store.jobs.save(failed.changed(state=JobState.CANCELLED), EventKind.CANCELLED, "")
    assert store.counts.ended.all() == {("failed", "cuda_oom"): 1, ("cancelled", ""): 1}


def test_each_look_without_an_answer_counts(home: Path) -> None:
    store, nodes = MetadataStore(home), {name: NodeConfig(name=name, address=name) for name in ("gpu1", "gpu2")}
    now = store.clock.now()
    views = {"gpu1": node_view("gpu1", seen_at=now), "gpu2": Unreachable("gpu2", "no route")}
    for _ in range(3):
        remember(store, Inventory(nodes=nodes), Observation(views, {}, now), [])
    assert store.counts.node_errors.all() == {("gpu2", "unreachable"): 3}
