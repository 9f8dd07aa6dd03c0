"""The setup of a job on two nodes: real SSH, and a project with its defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from ugro.testing.commands import Ugro, document

CLUSTER = ("gpu-master", "gpu1")

DEFAULTS = """\
nodes = 2
setup = "case $HOME in *gpu1) echo no such package >&2; exit 3 ;; esac; sleep 300"
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "train.py").write_text("print('trained')\n")
    (folder / "ugro.toml").write_text(DEFAULTS)
    return folder


@pytest.mark.long
def test_a_setup_that_fails_on_one_node_of_two_ends_on_the_other(ugro: Ugro, project: Path) -> None:
    launched = ugro("launch", "train.py", "--follow")
    assert launched.returncode == 1
    assert "defaults from ugro.toml: nodes, setup" in launched.stderr
    assert "[gpu1 setup] no such package" in ugro("logs", "job-001").stdout
    job = document(ugro("status", "job-001", "--json"))
    failure = job["first_failure"]
    assert (job["state"], failure["cause"], failure["node"]) == ("failed", "setup_failed", "gpu1")
    assert failure["message"].endswith("ended with exit code 3: no such package")
    assert sorted(job["gone_from"]) == ["gpu-master", "gpu1"], "no process of it remains"
    ready = ugro("launch", "train.py", "--setup", "echo ready", "--follow")
    assert ready.returncode == 0 and ready.stdout.count(" setup] ready") == 2
    again = ugro("launch", "train.py", "--setup", "echo ready", "--follow")
    assert again.returncode == 0 and "setup]" not in again.stdout and "[rank 1] trained" in again.stdout
