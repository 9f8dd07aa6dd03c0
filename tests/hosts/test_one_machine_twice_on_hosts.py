"""One host under two names of the inventory, and two hosts that look alike."""

from __future__ import annotations

import json

import pytest
from counting import GPU1, GPU2, MASTER, inventory, let_go, stand_in_for_torch, state

from tests.hosts.test_jobs_on_hosts import GPUS, NVIDIA_SMI
from ugro.testing.commands import Ugro, document
from ugro.testing.testbed.bed import Testbed

AGAIN = GPU1.replace("gpu1:", "gpu1b:")


def with_gpus(bed: Testbed, **uuids: str) -> None:
    for host in bed.hosts.values():
        host.install_program("nvidia-smi", NVIDIA_SMI % uuids.get(host.name, GPUS[host.name]))


@pytest.mark.long
@pytest.mark.parametrize("gpus", [True, False])
def test_a_machine_gets_no_job_by_its_second_name(bed: Testbed, ugro: Ugro, gpus: bool) -> None:
    stand_in_for_torch(bed)
    if gpus:
        with_gpus(bed)
    bed.master.write("inventory.yaml", inventory(MASTER, GPU1, AGAIN))
    words = f"gpu1b is gpu1 under another name ({'both have ' + GPUS['gpu1'] if gpus else 'one boot id, '}"
    for options in ((), ("--nodes", "gpu1,gpu1b"), ("--nodes", "gpu1,gpu1b", "--dry-run")):
        done = ugro("launch", "t.py", *options)
        assert done.returncode == 2 and words in done.stderr, done.stderr
        assert "remove one of the two from the inventory" in done.stderr
    made = document(ugro("launch", "t.py", "--nodes", "2", "--json"))
    shares = document(ugro("status", made["id"], "--json"))["placement"]["shares"]
    assert [share["node"] for share in shares] == ["gpu-master", "gpu1"]
    let_go(bed)
    assert ugro("wait", made["id"]).returncode == 0
    assert {node["name"]: node["same_as"] for node in document(ugro("nodes", "--json"))}["gpu1b"] == "gpu1"
    assert "under another name" in " ".join(ugro("nodes").stdout.split())
    findings = json.loads(ugro("check", "--json").stdout)["findings"]
    assert any(found["node"] == "gpu1b" and words in found["text"] for found in findings)


@pytest.mark.long
def test_hosts_that_share_a_boot_id_are_told_apart(bed: Testbed, ugro: Ugro) -> None:
    """As containers of one machine do: each has a process table of its own."""
    for host in (bed.gpu1, bed.gpu2):
        host.set_boot_id("5d0f1c1a-0000-4000-8000-000000000001")
    made = document(ugro("launch", "t.py", "--json"))
    assert made["state"] == "running"
    let_go(bed)
    assert ugro("wait", made["id"]).returncode == 0


@pytest.mark.long
def test_one_gpu_on_two_hosts_is_leased_once(bed: Testbed, ugro: Ugro) -> None:
    with_gpus(bed, gpu2=GPUS["gpu1"])
    bed.master.write("inventory.yaml", inventory(MASTER, GPU1, GPU2))
    first = document(ugro("launch", "t.py", "--nodes", "gpu1", "--json"))
    done = ugro("launch", "t.py", "--nodes", "gpu1,gpu2")
    assert done.returncode == 2 and "GPU 0 (NVIDIA GeForce RTX 4070): gpu1 has it too" in done.stderr
    alone = document(ugro("launch", "t.py", "--nodes", "gpu2", "--json"))
    assert (state(ugro, first["id"]), alone["state"]) == ("running", "queued") and "gpu1 has it too" in alone["reason"]
    let_go(bed)
    assert ugro("wait", first["id"]).returncode == 0
    assert ugro("cancel", alone["id"]).returncode == 0
