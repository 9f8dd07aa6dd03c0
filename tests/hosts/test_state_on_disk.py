"""The files of the state folder: full disks, records that cannot be written, and looks that change nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import pytest
from counting import GPU1, GPU2, MASTER, Serve, Start, inventory, launched, let_go, recorded, started

from ugro.testing.commands import Ugro, document, until
from ugro.testing.testbed.bed import Testbed
from ugro.testing.testbed.hosts import Host

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
def test_a_full_state_disk_is_named_and_everything_goes_on_once_there_is_space(
    bed: Testbed, ugro_of: Callable[[str], Ugro], left: int
) -> None:
    ugro = ugro_of("full")
    bed.master.write("inventory.yaml", inventory(MASTER))
    with small_disk(bed.master, "full", 400):
        document(ugro("launch", "t.py", "--hold", "--json"))
        document(ugro("launch", "t.py", "--json"))
        until(lambda: started(bed) == ["0"])
        before = digest_of(bed.master, "full", "job.json")
        fill(bed.master, "full", left)
        submitted = ugro("launch", "t.py", "--hold")
        assert submitted.returncode == 4, submitted.stderr
        assert "/home/testbed-owner/full/" in submitted.stderr and "No space left on device" in submitted.stderr
        let_go(bed)
        until(lambda: not [p for p in bed.master.processes() if "UGRO_RUN" in p.environ])
        fill(bed.master, "full", left)
        swept = ugro("sweep")
        assert swept.returncode == 4 and "/home/testbed-owner/full/" in swept.stderr, swept.stderr
        after = digest_of(bed.master, "full", "job.json")
        assert after["./jobs/job-001/job.json"] == before["./jobs/job-001/job.json"]
        assert {job["id"] for job in document(ugro("status", "--json"))["jobs"]} == {"job-001", "job-002"}
        bed.master.run(["rm", f"{bed.master.home}/full/ballast"])
        assert ugro("wait", "job-002").returncode == 0
        assert document(ugro("launch", "t.py", "--hold", "--json"))["id"]
        document(ugro("release", "job-001", "--json"))
        assert ugro("wait", "job-001").returncode == 0


@pytest.mark.long
def test_a_full_state_disk_keeps_nobody_from_looking_nor_from_making_room(
    bed: Testbed, ugro_of: Callable[[str], Ugro]
) -> None:
    ugro = ugro_of("full")
    bed.master.write("inventory.yaml", inventory(MASTER))
    with small_disk(bed.master, "full", 600):
        launched(bed, ugro)
        until(lambda: "line 20" in ugro("logs", "job-001").stdout)
        let_go(bed)
        assert ugro("wait", "job-001").returncode == 0
        bed.master.path("go").unlink()
        bed.master.path("started").unlink()
        launched(bed, ugro)
        fill(bed.master, "full")
        swept = ugro("sweep")
        assert swept.returncode == 0, swept.stderr
        assert swept.stderr.count("No space left on device") == 1 and "UGRO_HOME" in swept.stderr
        ranks = [str(p.pid) for p in bed.master.processes() if "UGRO_RUN" in p.environ]
        assert bed.master.run(["kill", "-9", *ranks]).returncode == 0
        until(lambda: not [p for p in bed.master.processes() if "UGRO_RUN" in p.environ])
        fill(bed.master, "full")
        shown = ugro("status", "--json")
        assert {job["id"]: job["state"] for job in document(shown)["jobs"]} == {
            "job-001": "succeeded", "job-002": "failed",
        }  # fmt: skip
        assert shown.stderr.count("No space left on device") == 1, shown.stderr
        for words in (("nodes",), ("logs", "job-001"), ("logs", "job-002")):
            assert ugro(*words).returncode == 0
        refused = ugro("launch", "t.py")
        assert refused.returncode == 4 and "/home/testbed-owner/full/" in refused.stderr
        assert "ugro gc" in refused.stderr and "UGRO_HOME" in refused.stderr
        freed = ugro("gc", "--older-than", "0.1s", "--delete")
        assert freed.returncode == 0 and " removed" in freed.stdout, freed.stderr
        bed.master.run(["rm", f"{bed.master.home}/full/ballast"])
        assert ugro("wait", "job-002").returncode == 1


def test_serve_outlives_a_full_state_disk(
    bed: Testbed, ugro_of: Callable[[str], Ugro], serve: Callable[..., Serve]
) -> None:
    ugro = ugro_of("full")
    bed.master.write("inventory.yaml", inventory(MASTER))
    with small_disk(bed.master, "full", 400):
        launched(bed, ugro)
        resident = serve("full")
        fill(bed.master, "full")
        let_go(bed)
        resident.hear("/home/testbed-owner/full/", "No space left on device")
        bed.master.run(["rm", f"{bed.master.home}/full/ballast"])
        resident.hear("job-001 succeeded")
        assert resident.end() == 0


@pytest.mark.long
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


@pytest.mark.long
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


def exit_codes(start: Start, looks: Sequence[Sequence[str]]) -> list[int]:
    """Looks at once, since each may wait for nodes that do not answer."""
    looking = [start(*look) for look in looks]
    for process in looking:
        process.communicate(timeout=60)
    return [process.returncode for process in looking]


@pytest.mark.long
def test_looking_at_an_unreachable_cluster_changes_no_byte(bed: Testbed, start: Start, ugro: Ugro) -> None:
    bed.master.write("inventory.yaml", inventory(GPU1, GPU2))
    launched(bed, ugro)
    document(ugro("launch", "t.py", "--hold", "--json"))
    assert ugro("logs", "job-001").stdout  # which makes the folder of the copies
    for host in (bed.gpu1, bed.gpu2):
        host.cut()
    log = dict.fromkeys(("./log", "./log/ugro.log"), "says what was unreachable")
    before = digest_of(bed.master, ".ugro") | log
    assert set(exit_codes(start, LOOKS)) <= {0, 3}
    assert digest_of(bed.master, ".ugro") | log == before


def test_looking_before_anything_was_launched_makes_no_state(bed: Testbed, start: Start) -> None:
    bed.master.write("inventory.yaml", inventory(GPU1))
    bed.gpu1.cut()
    exit_codes(start, (("status",), ("nodes",), ("events",), ("estimate", "--model", "gpt2")))
    assert not digest_of(bed.master, ".ugro")
