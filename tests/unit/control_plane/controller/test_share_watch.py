"""Jobs that use more of a shared GPU than they declared: reported once, and named where a neighbour runs out of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ugro.common.job_spec import JobSpec
from ugro.common.models.event_kind import EventKind
from ugro.common.models.gpu import GpuProcess
from ugro.common.models.job import GpuPart, Job, NodeShare, Placement, Rank
from ugro.common.models.job_state import JobState
from ugro.common.models.node import NodeView
from ugro.common.models.run import RankFiles, RunFiles
from ugro.control_plane.controller.share_watch import report_excess
from ugro.control_plane.failure_handler.watchdog.watch import sights
from ugro.control_plane.metadata_store import MetadataStore
from ugro.engines.base import Observation
from ugro.service.neighbours import neighbours
from ugro.testing import builders


@pytest.fixture
def store(tmp_path: Path) -> MetadataStore:
    return MetadataStore(tmp_path)


def sharer(store: MetadataStore, number: int, gpu: str = "GPU-0", **fields: Any) -> Job:
    """A running job that declared 1000 MiB of a GPU, with a rank whose pid is its number."""
    part = GpuPart(memory_mib=1000, fraction=0.1)
    share = NodeShare(node="gpu1", node_rank=0, first_rank=0, nproc=1, gpus=(gpu,), part=part)
    rank = Rank(rank=0, local_rank=0, node="gpu1", gpu=gpu, pid=number)
    spec = JobSpec(script="t.py", share="vram", vram=1000)
    job = store.jobs.submit(store.jobs.reserve(), spec, builders.CODE, store.clock.now())
    known = {"state": JobState.RUNNING, "placement": Placement(shares=(share,)), "ranks": (rank,)}
    return builders.change(store, job.id, EventKind.RUNNING, **known | {"launched_at": store.clock.now()} | fields)


def seen(*used: tuple[int, int], gpu: int = 0) -> Observation:
    """What gpu1 shows: processes by pid with their MiB."""
    processes = tuple(GpuProcess(pid=pid, name="python", memory_mib=mib) for pid, mib in used)
    view = builders.node_view("gpu1", builders.gpu(gpu, memory_total_mib=8000, processes=processes))
    return Observation({"gpu1": view}, {}, 1.0)


def told(store: MetadataStore) -> list[tuple[str, str]]:
    return [(one.job, one.message) for one in store.timeline.of_cluster() if one.kind == EventKind.OVER_SHARE]


def test_reports_once_an_attempt_who_uses_more_than_declared(store: MetadataStore) -> None:
    jobs = [sharer(store, 1), sharer(store, 2)]
    report_excess(store, seen((1, 900), (2, 1000)), jobs)
    assert told(store) == []
    for _ in range(2):
        report_excess(store, seen((1, 900), (2, 2048)), jobs)
    words = "it uses 2.0 GiB of GPU 0 on gpu1, more than the 1000 MiB it declared; it shares that GPU with job-001"
    assert told(store) == [("job-002", words)]
    assert store.jobs.job("job-002").state == JobState.RUNNING, "nothing is ended"


def test_names_the_neighbour_of_a_job_that_ran_out_of_memory(store: MetadataStore) -> None:
    victim, greedy = sharer(store, 1), sharer(store, 2)
    assert neighbours(store, victim) == (
        "it declared 1000 MiB of a shared GPU, and no other job there was seen to use more than it declared: "
        "declare more, or run it without --share",
        False,
    )
    report_excess(store, seen((2, 2048)), [victim, greedy])
    words, others_fault = neighbours(store, victim)
    assert words.startswith("job-002 was on the same GPU and uses 2.0 GiB of GPU 0 on gpu1, more than") and others_fault
    elsewhere = sharer(store, 3, "GPU-1")
    assert neighbours(store, elsewhere)[1] is False
    report_excess(store, seen((1, 4096)), [victim, greedy])
    assert neighbours(store, victim) == (
        "it took more of its shared GPU than the 1000 MiB it declared: declare more",
        False,
    )


def test_the_watchdog_counts_the_use_of_a_gpu_only_while_the_job_is_alone_on_it(store: MetadataStore) -> None:
    job = sharer(store, 1)
    runs = {job.id: {"gpu1": RunFiles(node_time=1.0, claimed=True, ranks=(RankFiles(rank=0, pid=1, alive=True),))}}

    def use(*processes: tuple[int, int]) -> int | None:
        view = seen(*processes).views["gpu1"]
        assert isinstance(view, NodeView)
        gpu = replace(view.gpus[0], utilization_percent=50)
        found = Observation({"gpu1": view.model_copy(update={"gpus": (gpu,)})}, runs, 1.0)
        (sight,) = sights(job, found)
        assert sight.has_gpu
        return sight.utilization_percent

    assert use((1, 900)) == 50 and use((1, 900), (2, 900)) is None


def test_says_nothing_of_neighbours_of_a_job_that_had_its_gpus_alone(store: MetadataStore) -> None:
    assert neighbours(store, builders.job(JobState.FAILED, placement=builders.placement("gpu1"))) == ("", False)
    assert neighbours(store, builders.job()) == ("", False)
