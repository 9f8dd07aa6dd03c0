"""A job failed between two ticks: every command that judges it says the same, and those that act on it find it so."""

from __future__ import annotations

import pytest
from counting import GPU1, GPU2, inventory, recorded, state

from ugro.testing.commands import Ugro, document, until
from ugro.testing.testbed.bed import Testbed

LEAVES = """\
import os, sys, time
print("rank", os.environ["RANK"], flush=True)
if os.environ["RANK"] == "1": sys.exit(3)
time.sleep(600)
"""

REASON = "rank 1 on gpu2 failed first: exit code 3"


def failed_unseen(bed: Testbed, ugro: Ugro) -> None:
    """A job that has failed on its nodes, and of which no record says so."""
    bed.master.write("inventory.yaml", inventory(GPU1, GPU2))
    bed.master.write("project/leaves.py", LEAVES)
    document(ugro("launch", "leaves.py", "--json"))
    until(lambda: state(ugro, "job-001") == "failed")
    assert recorded(bed, "job-001")["state"] == "running"


@pytest.mark.long
def test_all_who_judge_a_job_go_by_what_its_nodes_show(bed: Testbed, ugro: Ugro) -> None:
    failed_unseen(bed, ugro)
    assert document(ugro("explain", "job-001", "--json"))["state"] == "failed"
    for command in (("status",), ("status", "job-001"), ("why", "job-001"), ("explain", "job-001")):
        done = ugro(*command)
        said = " ".join(done.stdout.split())
        assert "exit code 3" in said and done.returncode == 0, (command, done.stdout)
        assert "job-001: seen just now; the next scheduling pass records it" in done.stderr, command
        assert done.stderr.strip().endswith("ugro sweep")
    for command in (("events", "job-001"), ("proposals",)):
        assert "job-001: seen just now" in ugro(*command).stderr, command
    assert recorded(bed, "job-001")["state"] == "running", "who only looks changes nothing"


@pytest.mark.long
def test_a_silent_node_beside_ranks_that_failed_is_told_with_them(bed: Testbed, ugro: Ugro) -> None:
    bed.master.write("inventory.yaml", inventory(GPU1, GPU2))
    bed.master.write("project/leaves.py", LEAVES)
    document(ugro("launch", "leaves.py", "--json"))
    bed["gpu1"].stop_sshd()
    until(lambda: state(ugro, "job-001") == "unknown")
    for command in (("status",), ("status", "job-001"), ("explain", "job-001"), ("why", "job-001")):
        done = ugro(*command)
        said = " ".join(done.stdout.split())
        assert "rank 1 on gpu2: exit code 3" in said and "gpu1" in said and done.returncode == 0, (command, done.stdout)
        assert "job-001: seen just now; the next scheduling pass records it" in done.stderr, command
    assert recorded(bed, "job-001")["state"] == "running", "who only looks changes nothing"
    assert ugro("sweep").returncode == 0
    record = recorded(bed, "job-001")
    assert record["state"] == "unknown" and "rank 1 on gpu2: exit code 3" in str(record["reason"])
    bed["gpu1"].start_sshd()
    assert ugro("sweep").returncode == 0
    assert REASON in str(recorded(bed, "job-001")["reason"])


@pytest.mark.long
def test_who_acts_on_a_job_finds_it_as_its_nodes_show_it(bed: Testbed, ugro: Ugro) -> None:
    failed_unseen(bed, ugro)
    done = ugro("resume", "job-001", "--from", "0", "--yes")
    assert done.returncode == 0, done.stderr
    record = recorded(bed, "job-001")
    assert record["attempt"] == 2
    [past] = record["past"]  # type: ignore[misc]
    assert past["state"] == "failed" and REASON in past["reason"]
    assert ugro("cancel", "job-001").returncode == 0


@pytest.mark.long
def test_a_proposal_is_made_when_somebody_asks_to_approve_it(bed: Testbed, ugro: Ugro) -> None:
    failed_unseen(bed, ugro)
    done = ugro("approve", "job-001")
    assert done.returncode == 2 and "nothing is proposed" in done.stderr, "a script that exits 3 would do so again"
    assert recorded(bed, "job-001")["state"] == "failed"
