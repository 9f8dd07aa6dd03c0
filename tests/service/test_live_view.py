"""The live view: what is shown of what a tick left, and how small it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import StateError, Unreachable
from ugro.common.models.drain import Drain
from ugro.common.models.gpu import Gpu
from ugro.common.models.job import Job, Summary
from ugro.common.models.job_state import JobState
from ugro.common.models.metrics import MeasuredLink
from ugro.common.models.node import NodeView
from ugro.service.board import difference
from ugro.service.live import Recorded, live_view
from ugro.service.schemas.live import LiveChanges, LiveProgress, LiveProposal, LiveView
from ugro.testing.builders import job, node_view

NODES = ("gpu-master", "gpu1", "gpu2")


def gpu_of(node: str, used: int) -> Gpu:
    return Gpu(
        index=0,
        uuid=f"GPU-2f3c9a50-9a3e-4a5f-8d55-0a8e5f5c{NODES.index(node):04d}",
        name="NVIDIA GeForce RTX 4090",
        memory_total_mib=24564,
        memory_used_mib=used,
        utilization_percent=used % 100,
        temperature_c=60 + used % 10,
        power_w=300.0 + used % 100,
    )


def seen(node: str, used: int = 1000) -> NodeView:
    return node_view(
        node,
        gpu_of(node, used),
        seen_at=1_790_000_000.0 + used,
        load_1m=used / 1000,
        memory_total_mib=128_000,
        memory_available_mib=100_000 - used,
        disk_free_mib=900_000 - used,
    )


def a_job(number: int) -> Job:
    """Of a hundred jobs, most have ended; their names and reasons are as long as people's."""
    state = [JobState.RUNNING, JobState.QUEUED, JobState.FAILED, JobState.SUCCEEDED, JobState.SUCCEEDED][number % 5]
    placed = state != JobState.QUEUED
    share = {"node": "gpu1", "node_rank": 0, "first_rank": 0, "nproc": 1, "gpus": [gpu_of("gpu1", 0).uuid]}
    return job(
        state,
        id=f"job-{number:03d}",
        name=f"llama-7b-wikitext-{number}",
        reason="rank 2 on gpu2: CUDA out of memory" if state == JobState.FAILED else "",
        submitted_at=1_790_000_000.123,
        started_at=1_790_000_060.5 if placed else None,
        ended_at=1_790_003_600.25 if state.ended else None,
        placement={"shares": [share]} if placed else None,
    )


def known(**fields: object) -> Recorded:
    nodes = {name: NodeConfig(name=name, address=f"192.168.1.{at}") for at, name in enumerate(NODES, 100)}
    jobs = [a_job(number) for number in range(1, 51)]
    basis = Recorded(
        at=1_790_000_000.0,
        inventory=Inventory(path=NODES_FILE, nodes=nodes),
        attended=True,
        views={name: seen(name) for name in NODES},
        remembered={name: seen(name) for name in NODES},
        drains={},
        live=[one for one in jobs if not one.state.ended],
        ended=[one for one in jobs if one.state.ended],
        reasons={one.id: "needs 1 GPU on gpu1, which job-005 holds" for one in jobs if one.state == JobState.QUEUED},
        turns=[one.id for one in jobs if one.state == JobState.QUEUED],
        progress={one.id: PROGRESS for one in jobs if one.state == JobState.RUNNING},
    )
    return replace(basis, **fields)


PROGRESS = LiveProgress(
    step=12_345, steps=50_000, epoch=1.25, epochs=3, steps_per_second=2.345678, ends_at=1_790_003_600.5
)
NODES_FILE = Path("/home/me/inventory.yaml")


def size(document: object) -> int:
    return len(json.dumps(document, separators=(",", ":")))


def test_a_snapshot_and_a_delta_are_small() -> None:
    before = live_view(known())
    assert len(before.nodes) == 3 and len(before.jobs) == 50
    assert size(before.as_json()) < 20_000
    views = {name: seen(name, 2345) for name in NODES}
    jobs = [one.changed(state=JobState.RUNNING) if one.id == "job-006" else one for one in known().live]
    turns = [one for one in known().turns if one != "job-006"]
    after = live_view(known(at=1_790_000_002.0, views=views, remembered=views, live=jobs, turns=turns))
    delta = difference(before.as_json(), after.as_json())
    assert set(delta) == {"at", "queue", "nodes", "jobs"}
    assert set(delta["nodes"]) == set(NODES) and set(delta["jobs"]) == {"job-006"}, "all gauges, and a job that started"
    assert size(delta) < 2_000


def test_a_client_that_applies_the_changes_has_the_view() -> None:
    before = live_view(known())
    fewer = known(live=[job(JobState.QUEUED, id="job-051")], ended=(), at=1_790_000_009.0, attended=False)
    after = live_view(fewer)
    plain = difference(before.as_json(), after.as_json())
    changes = LiveChanges.checked({"at": after.as_json()["at"], "attended": False} | plain)
    assert before.with_changes(changes) == after == LiveView.checked(after.as_json())


def test_shows_nodes_that_do_not_answer_are_drained_or_were_never_asked() -> None:
    silent = Unreachable("gpu1", "has not answered for 5 min", "see: ugro check gpu1")
    drain = Drain(node="gpu2", reason="new fans", since=5.0)
    view = live_view(known(views={"gpu1": silent, "gpu2": seen("gpu2")}, drains={"gpu2": drain}))
    here, gpu1, gpu2 = (view.nodes[name] for name in NODES)
    assert not gpu1.reachable and gpu1.error and gpu1.error.message == silent.message
    assert gpu1.last_seen == seen("gpu1").seen_at and gpu1.gpus, "as it was last seen"
    assert gpu2.reachable and gpu2.drained and gpu2.drained.reason == "new fans" and gpu2.last_seen is None
    assert not here.reachable and here.error and here.error.code == "not_observed"


def test_shows_who_holds_a_gpu_who_waits_and_why() -> None:
    view = live_view(known())
    assert view.nodes["gpu1"].gpus[0].job == "job-050" and view.nodes["gpu2"].gpus[0].job is None
    waiting = view.jobs["job-001"]
    assert (waiting.gpus, waiting.reason) == (0, "needs 1 GPU on gpu1, which job-005 holds")
    assert view.queue[:2] == ("job-001", "job-006") and "job-005" not in view.queue
    assert list(view.jobs) == sorted(view.jobs)


def test_shows_proposals_links_and_problems() -> None:
    link = MeasuredLink(
        source="gpu1", target="gpu2", backend="gloo", latency_ms=0.2, gbit_per_s=9.4, measured_at=1_790_000_000.0
    )
    proposal = LiveProposal(job="job-002", attempt=1, at=7.0, cause="cuda_oom", what="retry with smaller batch size")
    view = live_view(known(links=[link], proposals=[proposal], problems=[StateError("finished.jsonl is damaged")]))
    assert view.links["gpu1>gpu2 gloo"].gbit_per_s == 9.4 and view.proposals["job-002"] == proposal
    assert list(view.problems) == ["finished.jsonl is damaged"]


def test_counts_every_job_of_a_sweep_that_is_shown() -> None:
    def part(number: int, state: JobState, sweep: str = "sweep-001") -> Job:
        values = {"sweep": sweep, "name": "lr", "index": number, "of": 4, "values": {"lr": "1"}, "max_parallel": 2}
        return job(state, id=f"job-{number:03}", sweep=values)

    def summary(number: int, state: JobState, sweep: str = "sweep-001") -> Summary:
        times = {"submitted_at": 0.0, "started_at": 0.0, "ended_at": 1.0}
        return Summary(id=f"job-{number:03}", name="lr", state=state, run="", sweep_id=sweep, **times)

    live, ended = [part(4, JobState.RUNNING)], [part(3, JobState.FAILED)]
    left = [summary(1, JobState.SUCCEEDED), summary(3, JobState.FAILED), summary(9, JobState.FAILED, "sweep-009")]
    view = live_view(known(live=live, ended=ended, summaries=left, turns=[]))
    [sweep] = view.sweeps.values()
    assert (sweep.id, sweep.name, sweep.of, sweep.max_parallel) == ("sweep-001", "lr", 4, 2)
    assert sweep.states == {JobState.SUCCEEDED: 1, JobState.FAILED: 1, JobState.RUNNING: 1}
    assert {one.sweep for one in view.jobs.values()} == {"sweep-001"}
    changes = difference(live_view(known()).as_json(), view.as_json())
    assert changes["sweeps"]["sweep-001"]["states"] == {"succeeded": 1, "failed": 1, "running": 1}
    assert "sweep" not in next(iter(live_view(known()).as_json()["jobs"].values()))


def test_long_reasons_are_cut() -> None:
    view = live_view(known(live=[job(JobState.HELD, reason="x" * 5000, alert="y" * 5000)]))
    shown = view.jobs["job-001"]
    assert len(shown.reason) == 160 and shown.reason.endswith("…") and len(shown.alert or "") == 160
