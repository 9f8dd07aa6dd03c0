"""Slow, cut and filtered links on the testbed, and launchers that are killed there."""

from __future__ import annotations

import random
import re
import signal
import time
from typing import Any

import pytest
from cluster import ALONE, ranks_that_say
from counting import GPU1, GPU2, MASTER, WITH_TORCH, Start, inventory, launched, let_go, recorded, started, state

from ugro.control_plane.failure_handler.watchdog.rendezvous import PATIENCE
from ugro.testing.commands import Ugro, document, until
from ugro.testing.testbed.bed import Testbed
from ugro.testing.testbed.hosts import Host

MEBIBYTE = 2**20

# A python whose torchrun begins once it may.
LATE = WITH_TORCH.replace("\n", '\n[ "$1" != -m ] || while [ ! -e ~/go ]; do sleep 0.1; done\n', 1)


def code_of(bed: Testbed, mebibytes: int) -> None:
    """A project with a file that no link compresses."""
    bed.master.write("project/big.bin", "")
    bed.master.path("project/big.bin").write_bytes(random.randbytes(mebibytes * MEBIBYTE))


def sending(bed: Testbed, job: str) -> bool:
    """Whether the code of a job is on its way."""
    return recorded(bed, job)["state"] == "starting" and any(
        "receive_code" in " ".join(process.command) or process.command[:1] == ["rsync"]
        for process in bed.gpu1.processes()
    )


@pytest.mark.long
def test_a_transfer_over_a_slow_link_holds_up_no_cancel(bed: Testbed, start: Start, ugro: Ugro) -> None:
    other = launched(bed, ugro, "--nodes", "gpu2")
    code_of(bed, 20)
    bed.gpu1.limit_rate(1)
    launching = start("launch", "t.py", "--nodes", "gpu1", "--yes")
    until(lambda: bed.master.path(".ugro/jobs/job-002/job.json").exists() and sending(bed, "job-002"))
    for job in (other, "job-002"):
        begun = time.monotonic()
        done = ugro("cancel", job)
        assert done.returncode == 0 and f"{job} is cancelled" in done.stdout, done.stderr
        assert time.monotonic() - begun < 45, "the transfer would have taken minutes"
    launching.communicate(timeout=30)
    assert launching.returncode in (0, 1)
    assert [state(ugro, job) for job in (other, "job-002")] == ["cancelled"] * 2


@pytest.mark.long
def test_a_cable_that_is_out_while_code_is_sent_costs_no_job(bed: Testbed, start: Start, ugro: Ugro) -> None:
    code_of(bed, 10)
    bed.gpu1.limit_rate(4)
    launching = start("launch", "t.py", "--nodes", "gpu1", "--yes")
    until(lambda: bed.master.path(".ugro/jobs/job-001/job.json").exists() and sending(bed, "job-001"))
    bed.gpu1.cut()
    try:
        until(lambda: recorded(bed, "job-001")["state"] == "queued", 60)
    finally:
        bed.gpu1.heal()
        bed.gpu1.limit_rate(None)
    said, _ = launching.communicate(timeout=30)
    assert launching.returncode == 0 and "queued" in said, said  # by then gpu1 may answer again
    assert "before anything was started" in ugro("events", "job-001").stdout
    until(lambda: ugro("sweep").returncode == 0 and state(ugro, "job-001") == "running", 60)
    let_go(bed)
    assert ugro("wait", "job-001").returncode == 0
    assert started(bed) == ["0"]


@pytest.mark.long
def test_ranks_that_a_firewall_keeps_apart_are_told_of(bed: Testbed, ugro: Ugro) -> None:
    bed.master.write("inventory.yaml", inventory(MASTER, GPU1))
    for host in (bed.master, bed.gpu1):
        host.write("python", LATE, 0o755)
    document(ugro("launch", "t.py", "--json"))
    bed.master.drop_tcp(29500, 30499)  # before it, the launch itself would have been refused
    let_go(bed)
    begun = recorded(bed, "job-001")["started_at"]
    assert isinstance(begun, float)
    until(lambda: time.time() > begun + PATIENCE, 2 * PATIENCE)
    reason = until(lambda: ugro("sweep").returncode == 0 and recorded(bed, "job-001")["reason"], 120)
    found = re.fullmatch(
        r"no rank has begun since .+; gpu1 does not reach 10\.213\.7\.1:29\d+ \(no answer within 5 s\); "
        r"see: ugro check --network",
        str(reason),
    )
    assert found, reason
    for command in ("why", "status", "logs"):
        done = ugro(command, "job-001")
        assert "gpu1 does not reach" in " ".join((done.stdout + done.stderr).split()), command
    assert ugro("cancel", "job-001").returncode == 0


def process_of(host: Host, word: str) -> int:
    """The pid, as the host has it, of the process of a run whose command line has a word."""
    [found] = [
        process
        for process in host.processes()
        if "UGRO_RUN" in process.environ and any(part.endswith(word) for part in process.command[:4])
    ]
    return found.pid


@pytest.mark.long
@pytest.mark.parametrize(
    ("killed", "nodes", "rank", "exit_code", "words"),
    [
        ("torch.distributed.run", 1, None, 137, "torchrun was ended by SIGKILL (exit 137) while rank 0 still ran"),
        ("launch.sh", 2, None, None, "launch.sh vanished without an exit code while rank 1 still ran"),
        ("rank.py", 1, 0, None, "what started the rank (rank.py) is gone, and the script still ran"),
    ],
)
def test_a_launcher_that_is_killed_is_named(
    bed: Testbed, ugro: Ugro, killed: str, nodes: int, rank: int | None, exit_code: int | None, words: str
) -> None:
    bed.master.write("inventory.yaml", inventory(*(GPU1, GPU2)[-nodes:]))
    if killed != "launch.sh":  # torchrun has no part in that
        bed.gpu2.write("python", WITH_TORCH, 0o755)
    bed.master.write("project/quiet.py", ALONE + "print('ready', flush=True)\ntime.sleep(600)\n")
    document(ugro("launch", "quiet.py", "--json"))
    until(ranks_that_say(ugro, "job-001", "ready", ranks=nodes))
    bed.gpu2.kill(process_of(bed.gpu2, killed), signal.SIGKILL)
    assert ugro("wait", "job-001").returncode == 1
    failure: dict[str, Any] = document(ugro("status", "job-001", "--json"))["first_failure"]
    assert (failure["node"], failure["rank"], failure["exit_code"]) == ("gpu2", rank, exit_code), failure
    assert words in failure["message"]


TALKS = """
import os, time
for _ in range(40):
    print("\\n".join(os.urandom(64).hex() for _ in range(8000)))
print("the last but one\\nthe last", flush=True)
open(os.path.expanduser("~/talked"), "w").close()
time.sleep(600)
"""


@pytest.mark.long
def test_a_long_log_over_a_slow_link_holds_up_neither_its_last_lines_nor_a_cancel(bed: Testbed, ugro: Ugro) -> None:
    bed.master.write("project/talks.py", TALKS)
    document(ugro("launch", "talks.py", "--nodes", "gpu1", "--json"))
    until(bed.gpu1.path("talked").exists)
    bed.master.limit_rate(2)
    begun = time.monotonic()
    said = ugro("logs", "job-001", "--tail", "2").stdout.splitlines()
    assert said == ["[rank 0] the last but one", "[rank 0] the last"]
    assert time.monotonic() - begun < 6, "all of it would take minutes"
    begun = time.monotonic()
    assert ugro("cancel", "job-001").returncode == 0
    assert time.monotonic() - begun < 15
