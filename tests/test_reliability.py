"""What a long life brings: several of us at once, another master, lost links, full disks, odd clocks, edited files."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from cluster import Ugro, document, until
from testbed.bed import Testbed
from testbed.hosts import Host
from testbed.machine import HostProcess

pytestmark = pytest.mark.testbed

PYTHON = """#!/bin/sh
# The node's python; as torchrun it starts one rank, in a session of its own as torchrun does.
[ "$1" = -m ] || exec {python} "$@"
for option in "$@"; do case $option in --node-rank=*) export RANK="${{option#*=}}" ;; esac; done
while [ "${{1%rank.py}}" = "$1" ]; do shift; done
setsid --wait {python} "$@"
"""

MASTER = "  gpu-master: {address: 10.213.7.1, local: true}\n"
GPU1 = "  gpu1: {address: 10.213.7.2, user: ob}\n"
GPU2 = "  gpu2: {address: 10.213.7.3, user: ollie}\n"


def inventory(*nodes: str, more: str = "") -> str:
    return f"defaults: {{python: ~/python, min_disk: 0{more}}}\nnodes:\n{''.join(nodes)}"


SCRIPTS = {
    # Says where it started, then counts until it is let go.
    "t.py": """\
import os, time
home = os.path.expanduser("~/")
open(home + "started", "a").write(os.environ["RANK"])
count = 0
while not os.path.exists(home + "go"):
    count += 1
    print("line", count, flush=True)
    time.sleep(0.02)
print("last line", count, flush=True)
""",
}


@pytest.fixture
def bed(testbed: Testbed) -> Iterator[Testbed]:
    testbed.reset()
    testbed.master.write("inventory.yaml", inventory(MASTER, GPU1, GPU2))
    for name, text in SCRIPTS.items():
        testbed.master.write(f"project/{name}", text)
    for host in testbed.hosts.values():
        host.write("python", PYTHON.format(python=sys.executable), 0o755)
    yield testbed
    testbed.reset()


def ugro_of(bed: Testbed, home: str = ".ugro") -> Ugro:
    def run(*args: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return bed.ugro(*args, cwd=f"{bed.master.home}/project", env=environment(bed, home), timeout=timeout)

    return run


@pytest.fixture
def ugro(bed: Testbed) -> Ugro:
    return ugro_of(bed)


def environment(bed: Testbed, home: str) -> dict[str, str]:
    return {"UGRO_INVENTORY": f"{bed.master.home}/inventory.yaml", "UGRO_HOME": f"{bed.master.home}/{home}"}


def start(bed: Testbed, *args: str, home: str = ".ugro") -> HostProcess:
    """A `ugro` that is not waited for."""
    env = environment(bed, home) | {"PYTHONUNBUFFERED": "1"}
    return bed.popen([sys.executable, "-m", "ugro", *args], cwd=f"{bed.master.home}/project", env=env)


class Serve:
    """A running `ugro serve`, and what it says."""

    def __init__(self, bed: Testbed, home: str = ".ugro") -> None:
        self.process = start(bed, "serve", "--every", "0.3", home=home)
        self.said: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._lines.put(line)

    def hear(self, *words: str, seconds: float = 30) -> str:
        """Wait for a line with all these words; returns it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(queue.Empty):
                self.said.append(self._lines.get(timeout=0.2))
                if all(word in self.said[-1] for word in words):
                    return self.said[-1]
            if self.process.poll() is not None and self._lines.empty():
                break
        raise AssertionError(f"{words} was not said (exit code {self.process.returncode}): {self.said}")

    def end(self, sig: int = signal.SIGTERM) -> int:
        """Have it end; returns its exit code, and again when asked again."""
        assert self.process.stdout and self.process.stderr
        if self.process.poll() is None:
            self.process.send_signal(sig)
        self.process.wait(timeout=30)
        self._reader.join()
        self.process.stdout.close()
        self.process.stderr.close()
        return self.process.returncode


@pytest.fixture
def serve(bed: Testbed) -> Iterator[Callable[..., Serve]]:
    made: list[Serve] = []

    def make(home: str = ".ugro") -> Serve:
        made.append(Serve(bed, home))
        made[-1].hear("watching")
        return made[-1]

    yield make
    for each in made:
        each.end(signal.SIGKILL)


def launched(bed: Testbed, ugro: Ugro, *options: str) -> str:
    """A job that runs, with all its ranks started."""
    job = document(ugro("launch", "t.py", "--json", *options))
    nodes = document(ugro("status", job["id"], "--json"))["placement"]["shares"]
    until(lambda: all(bed[share["node"]].path("started").exists() for share in nodes))
    return str(job["id"])


def let_go(bed: Testbed) -> None:
    for host in bed.hosts.values():
        host.write("go", "")


def state(ugro: Ugro, job: str) -> str:
    return str(document(ugro("status", job, "--json"))["state"])


def recorded(bed: Testbed, job: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(bed.master.path(f".ugro/jobs/{job}/job.json").read_text())
    return found


def started(bed: Testbed) -> list[str]:
    """The ranks that started, once for each time they did."""
    files = [host.path("started") for host in bed.hosts.values()]
    return sorted("".join(path.read_text() for path in files if path.exists()))


# Several at once


def test_of_several_sweeps_at_once_one_starts_the_job(bed: Testbed, ugro: Ugro) -> None:
    document(ugro("launch", "t.py", "--hold", "--json"))
    document(ugro("release", "job-001", "--json"))
    sweeps = [start(bed, "sweep") for _ in range(4)]
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
    assert "ugro serve --every 0.3" in second.stderr and "pid" in second.stderr
    assert ugro("sweep").returncode == 0, "while others may still act"
    assert first.end() == 0
    assert serve().end() == 0


def test_twenty_submissions_at_once_are_twenty_jobs(bed: Testbed, ugro: Ugro) -> None:
    ugro("nodes")
    submissions = [start(bed, "launch", "t.py", "--hold", "--json", "--name", f"n{number}") for number in range(20)]
    said = [submission.communicate(timeout=120) for submission in submissions]
    assert [submission.returncode for submission in submissions] == [0] * 20, [err for _, err in said]
    ids = sorted(json.loads(out)["id"] for out, _ in said)
    assert ids == [f"job-{number:03d}" for number in range(1, 21)]
    listed = document(ugro("status", "--json"))["jobs"]
    assert [job["id"] for job in listed] == ids and {job["state"] for job in listed} == {"held"}
    assert {job["name"] for job in listed} == {f"n{number}" for number in range(20)}


# Two masters


def test_a_second_master_is_refused_until_it_takes_over_and_then_the_first_one_waits(bed: Testbed, ugro: Ugro) -> None:
    second = ugro_of(bed, "other")
    let_go(bed)
    assert ugro("wait", launched(bed, ugro, "--nodes", "gpu1,gpu2")).returncode == 0
    document(ugro("launch", "t.py", "--nodes", "gpu1,gpu2", "--hold", "--json"))
    refused = second("launch", "t.py", "--nodes", "gpu1,gpu2")
    assert refused.returncode == 2
    assert "gpu1 is run by another master: owner@gpu-master" in refused.stderr and "--takeover" in refused.stderr
    assert not document(second("status", "--json"))["jobs"]
    taken = second("launch", "t.py", "--nodes", "gpu1,gpu2", "--takeover", "--json")
    assert taken.returncode == 0, taken.stderr
    assert second("wait", "job-001").returncode == 0
    document(ugro("release", "job-002", "--json"))
    assert ugro("sweep").returncode == 0
    assert state(ugro, "job-002") == "queued"
    why = ugro("why", "job-002").stdout
    assert "gpu1 belongs to another master" in why and "owner@gpu-master" in why


# Links, sshd, power


def test_after_a_cut_the_job_runs_again_and_its_log_goes_on_at_the_right_byte(bed: Testbed, ugro: Ugro) -> None:
    launched(bed, ugro)
    until(lambda: "line 3" in ugro("logs", "job-001", "--rank", "2").stdout)
    bed.gpu2.cut()
    assert "job-001 unknown: gpu2" in ugro("sweep").stdout
    during = ugro("logs", "job-001", "--rank", "2")
    assert "gpu2" in during.stderr, "what is missing is said"
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


def test_a_reboot_is_told_with_its_job(bed: Testbed, ugro: Ugro, serve: Callable[..., Serve]) -> None:
    launched(bed, ugro)
    resident = serve()
    bed.gpu1.reboot()
    resident.hear("job-001", "failed", "node_rebooted", seconds=60)
    resident.end()
    assert any("gpu1 rebooted" in line or ("gpu1" in line and "boot" in line) for line in resident.said)
    assert recorded(bed, "job-001")["first_failure"]["cause"] == "node_rebooted"  # type: ignore[index]
    assert not [p for host in bed.hosts.values() for p in host.processes() if "UGRO_RUN" in p.environ]


def test_a_node_whose_clock_jumps_changes_no_verdict(bed: Testbed, ugro: Ugro) -> None:
    bed.gpu1.install_program(
        "date",
        '#!/bin/sh\nexec /usr/bin/date -d "now $(cat /home/ob/skew 2>/dev/null || echo 0) seconds" "$@"\n',
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


# Full disks


@contextlib.contextmanager
def small_disk(host: Host, folder: str, kib: int) -> Iterator[None]:
    """A disk of that size in a folder of the host's home."""
    path = f"{host.home}/{folder}"
    host.run(["mkdir", "-p", path])
    options = f"size={kib}k,uid={host.uid},gid={host.uid},mode=700"
    done = host.run(["mount", "-t", "tmpfs", "-o", options, "small", path], user=False)
    assert done.returncode == 0, done.stderr
    try:
        yield
    finally:
        assert host.run(["umount", "--lazy", path], user=False).returncode == 0


def fill(host: Host, folder: str, leave_kib: int = 0) -> None:
    """Leave so little room there, and no more."""
    script = 'cat /dev/zero > "$0/ballast" 2>/dev/null; truncate -s "-$1" "$0/ballast"'
    assert host.run(["sh", "-c", script, f"{host.home}/{folder}", f"{leave_kib}K"]).returncode == 0


def digest_of(host: Host, folder: str, only: str = "") -> dict[str, str]:
    """A hash of every file in a folder as the host sees it, by its path."""
    script = 'cd "$0" 2>/dev/null || exit 0; find . -type d -o -type f -exec sha256sum {} +'
    found = host.run(["sh", "-c", script, f"{host.home}/{folder}"]).stdout.splitlines()
    dirs = host.run(["sh", "-c", 'cd "$0" 2>/dev/null && find . -type d', f"{host.home}/{folder}"]).stdout.splitlines()
    hashes = dict(reversed(line.split("  ", 1)) for line in found) | dict.fromkeys(dirs, "folder")
    return {path: value for path, value in hashes.items() if only in path}


@pytest.mark.parametrize("left", [0, 8])
def test_a_full_state_disk_is_named_and_everything_goes_on_once_there_is_space(bed: Testbed, left: int) -> None:
    ugro = ugro_of(bed, "full")
    bed.master.write("inventory.yaml", inventory(MASTER))
    with small_disk(bed.master, "full", 400):
        document(ugro("launch", "t.py", "--hold", "--json"))
        document(ugro("launch", "t.py", "--json"))
        until(lambda: started(bed) == ["0"])
        before = digest_of(bed.master, "full", "job.json")
        fill(bed.master, "full", left)
        submitted = ugro("launch", "t.py", "--hold")
        assert submitted.returncode == 4, submitted.stderr
        assert "/home/owner/full/" in submitted.stderr and "No space left on device" in submitted.stderr
        let_go(bed)
        until(lambda: not [p for p in bed.master.processes() if "UGRO_RUN" in p.environ])
        fill(bed.master, "full", left)
        swept = ugro("sweep")
        assert swept.returncode == 4 and "/home/owner/full/" in swept.stderr, swept.stderr
        after = digest_of(bed.master, "full", "job.json")
        assert after["./jobs/job-001/job.json"] == before["./jobs/job-001/job.json"]
        assert {job["id"] for job in document(ugro("status", "--json"))["jobs"]} == {"job-001", "job-002"}
        bed.master.run(["rm", f"{bed.master.home}/full/ballast"])
        assert ugro("wait", "job-002").returncode == 0
        assert document(ugro("launch", "t.py", "--hold", "--json"))["id"]
        document(ugro("release", "job-001", "--json"))
        assert ugro("wait", "job-001").returncode == 0


def test_serve_outlives_a_full_state_disk(bed: Testbed, serve: Callable[..., Serve]) -> None:
    ugro = ugro_of(bed, "full")
    bed.master.write("inventory.yaml", inventory(MASTER))
    with small_disk(bed.master, "full", 400):
        launched(bed, ugro)
        resident = serve("full")
        fill(bed.master, "full")
        let_go(bed)
        resident.hear("/home/owner/full/", "No space left on device")
        bed.master.run(["rm", f"{bed.master.home}/full/ballast"])
        resident.hear("job-001 succeeded")
        assert resident.end() == 0


def test_a_job_whose_records_cannot_be_written_does_not_keep_the_others_from_going_on(bed: Testbed, ugro: Ugro) -> None:
    launched(bed, ugro, "--nodes", "gpu-master")
    launched(bed, ugro, "--nodes", "gpu1")
    folder = bed.master.path(".ugro/jobs/job-001")
    folder.chmod(0o500)
    try:
        let_go(bed)
        until(lambda: not [p for host in bed.hosts.values() for p in host.processes() if "UGRO_RUN" in p.environ])
        swept = ugro("sweep")
        assert recorded(bed, "job-002")["state"] == "succeeded"
        assert swept.returncode == 4 and "jobs/job-001" in swept.stderr, swept.stderr
    finally:
        folder.chmod(0o700)
    assert ugro("wait", "job-001").returncode == 0


def test_a_full_disk_on_a_node_fails_the_job_and_says_so(bed: Testbed, ugro: Ugro) -> None:
    bed.master.write("inventory.yaml", inventory(MASTER, GPU1, more=", base_dir: ~/runs"))
    bed.master.write("project/data.bin", "x" * 200_000)
    with small_disk(bed.gpu1, "runs", 120):
        said: list[str] = []
        for left in (0, 16, 64):
            fill(bed.gpu1, "runs", left)
            done = ugro("launch", "t.py")
            assert done.returncode == 1, (left, done.stderr)
            said.append(done.stderr)
            assert not [p for host in bed.hosts.values() for p in host.processes() if "UGRO_RUN" in p.environ]
        assert started(bed) == []
        jobs = document(ugro("status", "--json"))["jobs"]
        assert {job["state"] for job in jobs} == {"failed"}
        assert {job["first_failure"]["cause"] for job in jobs} == {"launch_failed"}
        assert all("gpu1: " in words and "No space left on device" in words for words in said), said


# Looking changes nothing

LOOKS = (
    ("status",), ("status", "job-001"), ("nodes",), ("logs", "job-001"), ("why", "job-002"),
    ("events", "job-001"), ("estimate", "--model", "gpt2", "--gpus", "2"), ("footprint",),
)  # fmt: skip


def test_looking_at_an_unreachable_cluster_changes_no_byte(bed: Testbed, ugro: Ugro) -> None:
    bed.master.write("inventory.yaml", inventory(GPU1, GPU2))
    launched(bed, ugro)
    document(ugro("launch", "t.py", "--hold", "--json"))
    assert ugro("logs", "job-001").stdout  # which makes the folder of the copies
    for host in (bed.gpu1, bed.gpu2):
        host.cut()
    before = digest_of(bed.master, ".ugro")
    changed = {}
    for look in LOOKS:
        assert ugro(*look).returncode in (0, 3), look
        now = digest_of(bed.master, ".ugro")
        if differs := sorted(path for path, _ in before.items() ^ now.items()):
            changed[" ".join(look)] = differs
        before = now
    assert not changed


def test_looking_before_anything_was_launched_makes_no_state(bed: Testbed, ugro: Ugro) -> None:
    bed.master.write("inventory.yaml", inventory(GPU1))
    bed.gpu1.cut()
    made = {}
    for look in (("status",), ("nodes",), ("events",), ("estimate", "--model", "gpt2")):
        ugro(*look)
        if found := digest_of(bed.master, ".ugro"):
            made[" ".join(look)] = sorted(found)
            bed.master.run(["rm", "-r", f"{bed.master.home}/.ugro"])
    assert not made


# An edited inventory


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
