"""What tests of monitoring share: a snapshot with every metric, its text read back, and Prometheus's own programs."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import surroundings
from prometheus_client.parser import text_string_to_metric_families

from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import Unreachable
from ugro.common.models.job_state import JobState
from ugro.common.models.node import NodeView
from ugro.control_plane.counts import Counts
from ugro.service.exposition import text
from ugro.service.live import Recorded, live_view
from ugro.service.monitoring import Serve, Snapshot, TrainingNow
from ugro.service.schemas.live import LiveProposal, LiveView
from ugro.testing.builders import gpu, job, node_view
from ugro.testing.testbed.bed import install, missing_packages
from ugro.testing.testbed.errors import TestbedError

NOW = 1_790_000_000.0

PROGRAMS = {"prometheus": "prometheus", "promtool": "prometheus"}
"""What is needed of Prometheus, by Debian's package."""

HOSTILE = 'a"b\\c\nd\re\x00é{x="1"} 1\n# TYPE evil gauge\nevil 1 \ud800'
"""A name that tries what a name can."""

Sample = tuple[str, frozenset[tuple[str, str]]]


def known(name: str = "llama") -> Recorded:
    """Two nodes that answer, one that does not, a job that runs, one that waits, and two that ended."""
    card = gpu(memory_total_mib=1000, memory_used_mib=250, utilization_percent=40, temperature_c=70, power_w=300.5)
    card = replace(card, driver="550.1", name=name, throttled=("power_cap",))
    share = {"node": "gpu1", "node_rank": 0, "first_rank": 0, "nproc": 1, "gpus": ["GPU-0"]}
    runs = job(JobState.RUNNING, name=name, started_at=NOW - 60, placement={"shares": [share]})
    waits = job(JobState.QUEUED, id="job-002", submitted_at=NOW - 90)
    ended = [
        job(JobState.FAILED, id=f"job-00{at}", started_at=1.0, ended_at=NOW - ago) for at, ago in ((3, 60), (4, 601))
    ]
    nodes = {node: NodeConfig(name=node, address=node) for node in ("gpu1", "gpu2", "gpu3")}
    return Recorded(
        at=NOW,
        inventory=Inventory(nodes=nodes),
        attended=True,
        views={"gpu1": node_view("gpu1", card, seen_at=NOW - 1), "gpu2": Unreachable("gpu2", "no route")},
        remembered={"gpu2": node_view("gpu2", gpu(1, utilization_percent=9), seen_at=NOW - 500)},
        drains={},
        live=[runs, waits],
        ended=ended,
        reasons={},
        turns=["job-002"],
        proposals=[LiveProposal(job="job-003", attempt=1, at=NOW, cause="killed", what="resume")],
    )


def counts() -> Counts:
    """Something of everything that is counted."""
    found = Counts()
    for seconds in (0.004, 0.05, 0.3, 99.0):
        found.ticks.add(seconds)
    found.node_errors.add(("gpu2", "unreachable"))
    found.ended.add(("failed", "cuda_oom"), 2)
    found.alerts.add("node_down")
    return found


def snapshot(view: LiveView | None = None) -> Snapshot:
    """A snapshot that has every metric."""
    cards = (card for node in known().views.values() if isinstance(node, NodeView) for card in node.gpus)
    return Snapshot(
        view or live_view(known()),
        seen={"gpu1": NOW - 1, "gpu2": NOW - 500},
        waiting={"job-002": NOW - 90},
        gpus={card.uuid: card for card in cards},
        training={"job-001": TrainingNow(NOW - 5, 10, 100, 2.5, 0.75, 1e-4)},
        dcgm_names=True,
        serve=Serve(counts(), clients=3, lag=0.002),
        swept_at=NOW,
    )


def of_jobs(live: int) -> Snapshot:
    """A snapshot with so many jobs that have not ended."""
    jobs = [job(JobState.QUEUED, id=f"job-{number:03d}") for number in range(1, live + 1)]
    return replace(snapshot(), view=live_view(replace(known(), live=jobs)), serve=None)


def samples(exposed: bytes) -> dict[Sample, float]:
    """Samples by name and labels; no two have both in common."""
    found: dict[Sample, float] = {}
    for family in text_string_to_metric_families(exposed.decode()):
        for one in family.samples:
            key = one.name, frozenset(one.labels.items())
            assert key not in found, key
            found[key] = one.value
    return found


def told(one: Snapshot) -> dict[Sample, float]:
    """The samples of a snapshot."""
    return samples(text(one))


def names(found: dict[Sample, float]) -> set[str]:
    """The names of samples."""
    return {name for name, _ in found}


def as_told(name: str) -> str:
    """Return a name as it is exposed: characters that cannot be sent are replaced."""
    return name.replace("\x00", "\ufffd").replace("\ud800", "?")


def require_prometheus() -> None:
    """Install Prometheus where it is missing and this may be done; skip the test where it cannot be had."""
    if not missing_packages(PROGRAMS):
        return
    if os.geteuid():
        pytest.skip("Prometheus is not installed, and only root can: apt-get install prometheus")
    try:
        install(lambda: missing_packages(PROGRAMS), surroundings.GIVEN, "monitoring test")
    except TestbedError as error:
        pytest.skip(str(error))
