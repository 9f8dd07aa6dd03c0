"""A job on the sandbox is placed by the links that were measured between its three nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ugro.common.models.metrics import MeasuredLink
from ugro.control_plane.metadata_store.links import Links
from ugro.sandbox.cluster import Sandbox
from ugro.testing.commands import Ugro, document


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "brief.py").touch()
    return folder


@pytest.mark.long
def test_a_job_gets_the_nodes_with_the_fastest_links_and_why_says_so(ugro: Ugro, sandbox: Sandbox) -> None:
    measured = document(ugro("check", "--network", "--on", "gpu-master,gpu1", "--json"))["network"]["links"]
    links = Links(sandbox.root / "state")
    assert len(measured) == 2, "one link, in both directions"
    assert [(link.source, link.target, link.gbit_per_s) for link in links.all()] == [
        (link["source"], link["target"], link["gbit_per_s"]) for link in measured
    ]
    pairs = {("gpu-master", "gpu1"): 0.095, ("gpu-master", "gpu2"): 0.94, ("gpu1", "gpu2"): 0.095}
    links.remember(
        MeasuredLink(source=a, target=b, backend="gloo", latency_ms=0.1, gbit_per_s=rate, measured_at=1.0)
        for pair, rate in pairs.items()
        for a, b in (pair, pair[::-1])
    )
    made = document(ugro("launch", "brief.py", "--nodes", "2", "--yes", "--json"))
    assert document(ugro("wait", made["id"], "--json"))["nodes"] == ["gpu-master", "gpu2"]
    reasons = document(ugro("why", made["id"], "--json"))["reasons"]
    assert "its links are the fastest: 940 Mbit/s against 95 Mbit/s" in reasons[0]
