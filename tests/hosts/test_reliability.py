"""What a long life brings: several of us at once, another master, lost links, odd clocks, edited files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from counting import GPU1, GPU2, MASTER, Serve, Start, inventory, launched, let_go, recorded, started, state

from ugro.testing.commands import Ugro, document, until
from ugro.testing.testbed.bed import Testbed

# Several at once


@pytest.mark.long
def test_of_several_sweeps_at_once_one_starts_the_job(bed: Testbed, start: Start, ugro: Ugro) -> None:
    document(ugro("launch", "t.py", "--hold", "--json"))
    document(ugro("release", "job-001", "--json"))
    sweeps = [start("sweep") for _ in range(4)]
    said = [sweep.communicate(timeout=60) for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [0] * 4
    assert sum("job-001 starting" in out for out, _ in said) == 1
    for out, err in said:
        assert "job-001" in out or "nothing to do" in err or not (out or err)
    until(lambda: started(bed) == ["0", "1", "2"])
    kinds = [event["kind"] for event in document(ugro("events", "job-001", "--json"))]
    assert kinds.count("starting") == kinds.count("placed") == 1
    let_go(bed)
    assert ugro("wait", "job-001").returncode == 0
    assert started(bed) == ["0", "1", "2"]


def test_a_second_serve_says_who_is_there(bed: Testbed, ugro: Ugro, serve: Callable[..., Serve]) -> None:
    first = serve()
    second = ugro("serve")
    assert second.returncode == 4
    assert "`ugro serve` runs already" in second.stderr and "(pid " in second.stderr
    assert ugro("sweep").returncode == 0, "while others may still act"
    assert first.end() == 0
    assert serve().end() == 0


@pytest.mark.long
def test_ten_submissions_at_once_are_ten_jobs(bed: Testbed, start: Start, ugro: Ugro) -> None:
    ugro("nodes")
    submissions = [start("launch", "t.py", "--hold", "--json", "--name", f"n{number}") for number in range(10)]
    said = [submission.communicate(timeout=120) for submission in submissions]
    assert [submission.returncode for submission in submissions] == [0] * 10, [err for _, err in said]
    ids = sorted(json.loads(out)["id"] for out, _ in said)
    assert ids == [f"job-{number:03d}" for number in range(1, 11)]
    listed = document(ugro("status", "--json"))["jobs"]
    assert [job["id"] for job in listed] == ids and {job["state"] for job in listed} == {"held"}
    assert {job["name"] for job in listed} == {f"n{number}" for number in range(10)}


# Two masters


@pytest.mark.long
def test_a_second_master_is_refused_until_it_takes_over_and_then_the_first_one_waits(
    bed: Testbed, ugro: Ugro, ugro_of: Callable[[str], Ugro]
) -> None:
    second = ugro_of("other")
    let_go(bed)
    assert ugro("wait", launched(bed, ugro, "--nodes", "gpu1,gpu2")).returncode == 0
    document(ugro("launch", "t.py", "--nodes", "gpu1,gpu2", "--hold", "--json"))
    refused = second("launch", "t.py", "--nodes", "gpu1,gpu2")
    assert refused.returncode == 2
    assert "gpu1 is run by another master: testbed-owner@gpu-master" in refused.stderr
    assert "--takeover" in refused.stderr
    assert not document(second("status", "--json"))["jobs"]
    taken = second("launch", "t.py", "--nodes", "gpu1,gpu2", "--takeover", "--json")
    assert taken.returncode == 0, taken.stderr
    assert second("wait", "job-001").returncode == 0
    document(ugro("release", "job-002", "--json"))
    assert ugro("sweep").returncode == 0
    assert state(ugro, "job-002") == "queued"
    why = ugro("why", "job-002").stdout
    assert "gpu1 belongs to another master" in why and "testbed-owner@gpu-master" in why


# Links, sshd, power


def test_after_a_cut_the_job_runs_again_and_its_log_goes_on_at_the_right_byte(
    bed: Testbed, start: Start, ugro: Ugro
) -> None:
    launched(bed, ugro)
    until(lambda: "line 3" in ugro("logs", "job-001", "--rank", "2").stdout)
    bed.gpu2.cut()
    with start("logs", "job-001", "--rank", "2") as during:
        assert "job-001 unknown: gpu2" in ugro("sweep").stdout
        assert "gpu2" in during.communicate(timeout=60)[1], "what is missing is said"
    bed.gpu2.heal()
    until(lambda: "job-001 running: its nodes answer again" in ugro("sweep").stdout)
    assert state(ugro, "job-001") == "running"
    let_go(bed)
    assert ugro("wait", "job-001").returncode == 0
    for rank, host in enumerate(bed.hosts.values()):
        there = host.path(f".ugro/jobs/job-001/1/node-{rank}/rank-{rank}.log").read_bytes()
        assert bed.master.path(f".ugro/jobs/job-001/logs/1/rank-{rank}.log").read_bytes() == there
        said = ugro("logs", "job-001", "--rank", str(rank)).stdout.splitlines()
        count = int(said[-1].split()[-1])
        expected = [f"line {number}" for number in range(1, count + 1)] + [f"last line {count}"]
        assert said == [f"[rank {rank}] {line}" for line in expected]
    assert started(bed) == ["0", "1", "2"]


@pytest.mark.long
def test_a_job_and_serve_outlive_a_restart_of_sshd(bed: Testbed, ugro: Ugro, serve: Callable[..., Serve]) -> None:
    launched(bed, ugro)
    resident = serve()
    bed.gpu1.stop_sshd()
    bed.gpu1.end_sessions()
    resident.hear("job-001", "unknown", "gpu1")
    bed.gpu1.start_sshd()
    resident.hear("job-001", "running")
    let_go(bed)
    resident.hear("job-001", "succeeded")
    assert started(bed) == ["0", "1", "2"]
    assert resident.end() == 0


@pytest.mark.long
def test_a_reboot_is_told_with_its_job(bed: Testbed, ugro: Ugro, serve: Callable[..., Serve]) -> None:
    launched(bed, ugro)
    resident = serve()
    bed.gpu1.reboot()
    resident.hear("job-001 failed", seconds=60)
    resident.end()
    assert any("gpu1 rebooted" in line or ("gpu1" in line and "boot" in line) for line in resident.said)
    assert recorded(bed, "job-001")["first_failure"]["cause"] == "node_rebooted"  # type: ignore[index]
    assert not [p for host in bed.hosts.values() for p in host.processes() if "UGRO_RUN" in p.environ]


@pytest.mark.long
def test_a_node_whose_clock_jumps_changes_no_verdict(bed: Testbed, ugro: Ugro) -> None:
    bed.gpu1.install_program(
        "date",
        '#!/bin/sh\nexec /usr/bin/date -d "now $(cat /home/testbed-ob/skew 2>/dev/null || echo 0) seconds" "$@"\n',
    )
    began = time.time()
    bed.master.write("inventory.yaml", inventory(GPU1))
    launched(bed, ugro)
    for skew in (86400, -3600):
        bed.gpu1.write("skew", str(skew))
        assert ugro("sweep").returncode == 0
        assert recorded(bed, "job-001")["state"] == "running", skew
        assert document(ugro("status", "--json"))["jobs"][0]["state"] == "running", skew
    bed.gpu1.path("skew").unlink()
    let_go(bed)
    assert ugro("wait", "job-001").returncode == 0
    ended = recorded(bed, "job-001")["ended_at"]
    assert isinstance(ended, float) and began < ended < time.time() + 1


# An edited inventory


@pytest.mark.long
def test_serve_watches_a_node_that_left_the_inventory_and_tells_a_broken_edit(
    bed: Testbed, ugro: Ugro, serve: Callable[..., Serve]
) -> None:
    launched(bed, ugro, "--nodes", "gpu2")
    resident = serve()
    bed.master.write("inventory.yaml", inventory(MASTER, GPU1))
    resident.hear("gpu2 drained", "not in the inventory any more")
    document(ugro("launch", "t.py", "--nodes", "gpu1", "--hold", "--json"))
    bed.master.write("inventory.yaml", "nodes: [oh")
    resident.hear("inventory.yaml")
    let_go(bed)
    resident.hear("job-001 succeeded")
    assert not [line for line in resident.said if "unknown" in line], "the last good one is kept"
    bed.master.write("inventory.yaml", inventory(MASTER, GPU1, GPU2))
    resident.hear("gpu2 undrained")
    assert resident.end() == 0
