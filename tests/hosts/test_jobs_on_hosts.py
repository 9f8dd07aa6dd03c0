"""Whole jobs on the testbed: three hosts, a real sshd on each, the owner's cluster in small.

One of them trains with torch. What the others need of it is done by `counting`'s quick torchrun.
"""

from __future__ import annotations

import json
import time
from typing import Any, NamedTuple

import pytest
from cluster import SCRIPTS, exits, ranks_that_say
from counting import GPU1, GPU2, MASTER, WITH_TORCH, Start, inventory, made_up, on_master

from ugro.testing.commands import Ugro, document, until
from ugro.testing.testbed.bed import Testbed

NODES = ("gpu-master", "gpu1", "gpu2")
GPUS = {name: f"GPU-0000000{number}-1111-2222-3333-444455556666" for number, name in enumerate(NODES)}
NVIDIA_SMI = """#!/bin/sh
# An nvidia-smi of the real one's form, for a card of this host.
case $* in
*query-gpu*) echo "index, uuid, name, memory.total [MiB], memory.used [MiB], memory.free [MiB], utilization.gpu [%%], \
temperature.gpu, driver_version, power.draw [W], mig.mode.current"
    echo "0, %s, NVIDIA GeForce RTX 4070, 8188, 310, 7878, 0, 41, 570.86.10, 11.20, [N/A]" ;;
*query-compute-apps*) echo "gpu_uuid, pid, process_name, used_gpu_memory [MiB]" ;;
esac
"""


@pytest.fixture
def bed(bed: Testbed) -> Testbed:
    return with_gpus_and_scripts(bed)


def with_gpus_and_scripts(bed: Testbed) -> Testbed:
    """`counting`'s bed with more."""
    for host in bed.hosts.values():
        host.install_program("nvidia-smi", NVIDIA_SMI % GPUS[host.name])
    for name, text in SCRIPTS.items():
        bed.master.write(f"project/{name}", text)
    return bed


def members(bed: Testbed, job_id: str) -> dict[str, list[str]]:
    """What carries the job in its environment, or descends from it, on each host."""
    return {
        name: [" ".join(process.command) for process in host.processes() if process.environ.get("UGRO_JOB") == job_id]
        for name, host in bed.hosts.items()
    }


def nothing_left(bed: Testbed, job_id: str) -> bool:
    sleeping = [p for host in bed.hosts.values() for p in host.processes() if p.command[:1] == ["sleep"]]
    return not any(members(bed, job_id).values()) and not sleeping


COUNTS = "import torch\nprint('torch counts', int(torch.ones(3).sum()))\n"


class Ddp(NamedTuple):
    """What was seen of a training with torch on all hosts, with the master written as its own loopback."""

    said: str
    job: dict[str, Any]
    launch: str
    """What gpu1 ran."""
    nothing_left: bool
    network: dict[str, Any]
    """What was measured between them afterwards."""


@pytest.fixture(scope="module")
def ddp(testbed: Testbed, forked: Ugro) -> Ddp:
    bed = with_gpus_and_scripts(made_up(testbed))
    ugro = on_master(bed, forked)
    for host in bed.hosts.values():
        host.write("python", WITH_TORCH, 0o755)
    bed.master.write(
        "project/fine.py", f"import torch\nprint('torch counts', int(torch.ones(3).sum()))\n{SCRIPTS['fine.py']}"
    )
    bed.master.write("inventory.yaml", inventory(MASTER.replace("10.213.7.1", "127.0.0.1"), GPU1, GPU2))
    done = ugro("launch", "fine.py", "--name", "first", "--follow", "--", "a b", "$(touch pwned)")
    assert done.returncode == 0, done.stderr
    job = document(ugro("status", "first", "--json"))
    launch = bed.gpu1.path(".ugro/jobs/job-001/1/node-1/launch.sh").read_text()
    left = nothing_left(bed, "job-001")
    for host in bed.hosts.values():
        host.install_program("nvidia-smi", "#!/bin/sh\nexit 9\n")  # with GPUs it would be measured by NCCL
    report = json.loads(ugro("check", "--network", "--on", "gpu-master,gpu1", "--json").stdout)
    return Ddp(done.stdout, job, launch, left, report["network"])


@pytest.mark.long
def test_torch_is_importable_on_every_host(ddp: Ddp) -> None:
    for rank in range(3):
        assert f"[rank {rank}] torch counts 3\n" in ddp.said


@pytest.mark.long
def test_a_ddp_job_on_three_hosts(ddp: Ddp) -> None:
    for rank in range(3):
        assert f"[rank {rank}] rank {rank} of 3 ['a b', '$(touch pwned)']" in ddp.said
        assert f"[rank {rank}] café {rank}" in ddp.said
    assert ddp.job["state"] == "succeeded" and ddp.job["placement"]["master_addr"] == "10.213.7.1"
    assert exits(ddp.job) == [(rank, node, 0, None) for rank, node in enumerate(NODES)]
    assert [rank["gpu"] for rank in ddp.job["ranks"]] == list(GPUS.values())
    assert "GLOO_SOCKET_IFNAME=train0" in ddp.launch and "NCCL_SOCKET_IFNAME==train0" in ddp.launch
    assert ddp.nothing_left


@pytest.mark.long
def test_ddp_with_a_master_that_is_written_as_loopback(ddp: Ddp) -> None:
    assert exits(ddp.job) == [(0, "gpu-master", 0, None), (1, "gpu1", 0, None), (2, "gpu2", 0, None)]
    assert ddp.network["meets_at"].startswith("10.213.7.1:")
    assert ddp.network["interfaces"] == dict.fromkeys(("gpu-master", "gpu1"), "train0")
    assert len(ddp.network["links"]) == 2, "each link in both directions"


def test_a_script_that_exits_3_and_a_rank_that_is_killed(bed: Testbed, ugro: Ugro) -> None:
    done = ugro("launch", "leaves3.py", "--follow")
    assert done.returncode == 1 and "rank 1 on gpu1 failed first" in done.stderr
    job = document(ugro("status", "job-001", "--json"))
    assert exits(job)[1] == (1, "gpu1", 3, None)
    assert job["first_failure"]["rank"] == 1 and job["first_failure"]["exit_code"] == 3
    document(ugro("launch", "quiet.py", "--json"))
    until(ranks_that_say(ugro, "job-002", "ready"))
    pid = document(ugro("status", "job-002", "--json"))["ranks"][2]["pid"]
    bed.gpu2.kill(pid)
    assert ugro("wait", "job-002").returncode == 1
    job = document(ugro("status", "job-002", "--json"))
    assert exits(job)[2] == (2, "gpu2", None, "KILL")
    assert (job["first_failure"]["rank"], job["first_failure"]["signal"]) == (2, "KILL")
    assert nothing_left(bed, "job-002")


@pytest.mark.long
def test_cancel_ends_what_resists(bed: Testbed, ugro: Ugro) -> None:
    document(ugro("launch", "stubborn.py", "--json"))
    until(ranks_that_say(ugro, "job-001", "ready"))
    assert all(any("sleep 7771" in line for line in lines) for lines in members(bed, "job-001").values())
    assert ugro("cancel", "job-001").returncode == 0
    job = document(ugro("status", "job-001", "--json"))
    assert job["state"] == "cancelled" and [rank["signal"] for rank in job["ranks"]] == ["KILL"] * 3
    assert nothing_left(bed, "job-001")


def test_a_node_whose_launch_fails_stops_the_others(bed: Testbed, ugro: Ugro) -> None:
    without_python = GPU2.replace("user: testbed-ollie", "user: testbed-ollie, python: /no/such/python")
    bed.master.write("inventory.yaml", inventory(MASTER, GPU1, without_python))
    done = ugro("launch", "quiet.py")
    assert done.returncode == 1 and "gpu2: python /no/such/python cannot be run there" in done.stderr
    job = document(ugro("status", "job-001", "--json"))
    assert job["state"] == "failed" and job["first_failure"]["cause"] == "launch_failed"
    assert job["first_failure"]["node"] == "gpu2" and job["first_failure"]["rank"] is None
    assert nothing_left(bed, "job-001")


@pytest.mark.long
def test_a_launch_that_fails_at_the_last_step_stops_those_that_started(bed: Testbed, ugro: Ugro) -> None:
    """gpu2 answers everything until a start is requested; the two others have begun by then."""
    bed.gpu2.install_program("setsid", "#!/bin/sh\nexit 1\n")
    try:
        done = ugro("launch", "quiet.py")
    finally:
        bed.gpu2.install_program("setsid", '#!/bin/sh\nexec /usr/bin/setsid "$@"\n')
    assert done.returncode == 1 and "gpu2: the launch failed" in done.stderr
    assert document(ugro("status", "job-001", "--json"))["first_failure"]["cause"] == "launch_failed"
    assert nothing_left(bed, "job-001")


@pytest.mark.long
def test_an_unreachable_node_costs_two_seconds_and_no_verdict(bed: Testbed, start: Start, ugro: Ugro) -> None:
    document(ugro("launch", "late.py", "--json"))
    until(ranks_that_say(ugro, "job-001", "line 1"))
    assert ugro("sweep").returncode == 0
    bed.gpu2.cut()
    began = time.monotonic()
    nodes = {node["name"]: node for node in document(ugro("nodes", "--json"))}
    assert time.monotonic() - began < 5
    assert nodes["gpu1"]["reachable"] and not nodes["gpu2"]["reachable"]
    assert nodes["gpu2"]["gpus"] and nodes["gpu2"]["age_seconds"] > 0, "as it was last seen, with its age"
    assert document(ugro("status", "job-001", "--json"))["state"] == "running", "looking decides nothing"
    with start("launch", "quiet.py", "--nodes", "gpu2") as launch:
        assert "job-001 unknown: gpu2:" in ugro("sweep").stdout
        said, _ = launch.communicate(timeout=60)
    assert launch.returncode == 0 and "Job queued (ID: job-002): gpu2 is unreachable (since " in said
    assert ugro("cancel", "job-002").returncode == 0
    unknown = document(ugro("status", "job-001", "--json"))
    assert unknown["state"] == "unknown" and unknown["unknown_since"]
    for host in bed.hosts.values():
        host.write("go", "")
    bed.gpu2.heal()
    done = ugro("logs", "-f", "job-001")
    assert done.returncode == 0, done.stderr
    for rank in range(3):
        assert [line for line in done.stdout.splitlines() if line.startswith(f"[rank {rank}] {rank} line")] == [
            f"[rank {rank}] {rank} line 1",
            f"[rank {rank}] {rank} line 2",
        ]
    assert document(ugro("status", "job-001", "--json"))["state"] == "succeeded"


@pytest.mark.long
def test_following_survives_a_dropped_connection(bed: Testbed, start: Start, ugro: Ugro) -> None:
    follower = start("launch", "late.py", "--follow")
    assert follower.stdout
    heard: list[str] = []
    for line in follower.stdout:
        heard.append(line)
        if sum("line 1" in line for line in heard) == 3:
            break
    for host in (bed.gpu1, bed.gpu2):
        host.end_sessions()
    for host in bed.hosts.values():
        host.write("go", "")
    rest, errors = follower.communicate(timeout=90)
    assert follower.returncode == 0, errors
    for rank in range(3):
        lines = [line for line in "".join([*heard, rest]).splitlines() if line.startswith(f"[rank {rank}] {rank} line")]
        assert lines == [f"[rank {rank}] {rank} line 1", f"[rank {rank}] {rank} line 2"]


@pytest.mark.long
def test_a_node_that_was_rebooted(bed: Testbed, ugro: Ugro) -> None:
    document(ugro("launch", "quiet.py", "--json"))
    until(ranks_that_say(ugro, "job-001", "ready"))
    bed.gpu1.reboot()
    assert ugro("wait", "job-001").returncode == 1
    failure = document(ugro("status", "job-001", "--json"))["first_failure"]
    assert (failure["rank"], failure["node"], failure["cause"]) == (1, "gpu1", "node_rebooted")
    assert nothing_left(bed, "job-001")


@pytest.mark.long
def test_host_keys_are_strict_and_trust_is_given_by_hand(bed: Testbed, ugro: Ugro) -> None:
    bed.gpu1.new_host_key()
    made = document(ugro("launch", "quiet.py", "--json"))
    assert (made["state"], made["never_starts"]) == ("queued", True), "no waiting mends that"
    assert "gpu1: THE HOST KEY HAS CHANGED: offered SHA256:" in made["reason"]
    assert "ugro trust gpu1 --replace" in made["reason"]
    done = ugro("launch", "quiet.py", "--dry-run", "--json")
    assert (done.returncode, json.loads(done.stderr)["error"]["code"]) == (3, "host_key_changed")
    assert ugro("trust", "gpu1").returncode == 3
    asked = ugro("trust", "gpu1", "--replace")
    assert (
        asked.returncode == 2
        and "confirmation needed, but stdin is not a terminal" in asked.stderr
        and "SHA256:" in asked.stdout
    )
    wrong = ugro("trust", "gpu1", "--replace", "--fingerprint", "SHA256:nonsense")
    assert wrong.returncode == 3 and "nothing was recorded" in wrong.stderr
    shown = next(word for word in asked.stdout.split() if word.startswith("SHA256:"))
    given = ugro("trust", "gpu1", "--replace", "--fingerprint", shown)
    assert given.returncode == 0, given.stderr
    assert "trusted already" in ugro("trust", "gpu1").stdout
    ugro("sweep")
    assert document(ugro("status", made["id"], "--json"))["state"] == "running"
    assert ugro("cancel", made["id"]).returncode == 0
    bed.master.path(".ssh/known_hosts").unlink()
    unknown = ugro("nodes", "--json")
    assert {node["error"]["code"] for node in json.loads(unknown.stdout)[1:]} == {"host_key_unknown"}


@pytest.mark.long
def test_two_jobs_never_share_code_and_unchanged_files_stay(bed: Testbed, ugro: Ugro) -> None:
    bed.master.write("project/data.bin", "x" * 100_000)
    bed.master.write("project/write.py", "open('data.bin', 'a').write('changed')\n")
    first = document(ugro("launch", "write.py", "--nodes", "gpu1", "--json"))
    assert ugro("wait", first["id"]).returncode == 0
    second = document(ugro("launch", "write.py", "--nodes", "gpu1", "--json"))
    assert ugro("wait", second["id"]).returncode == 0
    for job in (first, second):
        assert bed.gpu1.path(f".ugro/jobs/{job['id']}/code/data.bin").stat().st_size == 100_007
    assert bed.master.path("project/data.bin").stat().st_size == 100_000
