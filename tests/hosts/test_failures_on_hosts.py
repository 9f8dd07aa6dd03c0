"""Failures that really happen on the testbed: each is made, diagnosed, and recovered from.

One of the jobs trains with torch. What the others need of it is done by `counting`'s quick torchrun.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from counting import GPU1, GPU2, MASTER, WITH_TORCH, Serve, inventory, state
from forked_ranks import codes, ranks, write_warm_python
from places import EXAMPLES

from tests.hosts.test_state_on_disk import small_disk
from ugro.testing.commands import Ugro, document, until
from ugro.testing.testbed.bed import Testbed
from ugro.testing.testbed.hosts import Host

EXAMPLE = EXAMPLES / "train_production.py"

# Rank 0 leaves a checkpoint of step 10; a resumed attempt says where it resumes from, and ends well.
SAVES = """\
import os, sys, time, zipfile
rank, path = os.environ["RANK"], os.environ.get("UGRO_RESUME_FROM")
if path:
    print("goes on from", os.path.basename(path), zipfile.is_zipfile(path), flush=True)
    sys.exit()
if rank == "0":
    with zipfile.ZipFile("checkpoint-10.pt", "w") as file:
        file.writestr("archive/data.pkl", "x" * 1000)
print("step 10 is saved", flush=True)
"""

STAYS = SAVES + "time.sleep(600)\n"

# Killed while it writes the next checkpoint, of which the disk has the first half by then.
SAVES_AGAIN = """\
if rank == "0":
    with open("checkpoint-10.pt", "rb") as whole, open("checkpoint-20.pt", "wb") as torn:
        torn.write(whole.read()[:600])
        torn.flush()
        print("step 20 is being saved", flush=True)
        time.sleep(600)
time.sleep(600)
"""

FILLS_THE_DISK = """\
with open(os.path.expanduser("~/out/result.bin"), "wb") as file:
    for _ in range(100):
        file.write(bytes(100_000))
"""

FILLS_UGROS_DISK = """\
import contextlib, os, sys
if os.environ["RANK"] == "1":
    with contextlib.suppress(OSError), open(os.path.expanduser("~/.ugro/fill"), "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    sys.exit(int(sys.argv[1]))
"""

EATS = """\
import os
eaten = [bytearray(2 ** 24) for _ in range(0 if os.path.exists("enough") else 2 ** 10)]
print("ate", len(eaten))
"""

# Two ranks that wait for each other at every step, as in a collective.
GANG = """\
import os, socket, time
if os.environ["RANK"] == "0":
    peer = socket.create_server(("10.213.7.2", 29411)).accept()[0]
else:
    while True:
        try:
            peer = socket.create_connection(("10.213.7.2", 29411))
            break
        except OSError:
            time.sleep(0.05)
step = 0
while not os.path.exists(os.path.expanduser("~/go")):
    try:
        peer.sendall(b"x")
        if not peer.recv(1):
            break
    except ConnectionError:  # the other one has ended
        break
    step += 1
    print("step", step, flush=True)
    time.sleep(0.1)
"""

BROKEN = {
    "raises.py": "def train(batch):\n    return batch[7]\nprint('epoch 1')\ntrain([])\n",
    "imports.py": "import no_such_module_of_ours\n",
    "asks.py": "import argparse\nargparse.ArgumentParser('asks.py').parse_args()\n",
    "listens.py": "import socket\nat = '127.0.0.1', 29412\none = socket.create_server(at)\nsocket.create_server(at)\n",
}


@pytest.fixture
def project(bed: Testbed) -> Callable[..., None]:
    """Puts scripts into the project on the master."""

    def write(**scripts: str) -> None:
        for name, text in scripts.items():
            bed.master.write(f"project/{name}.py", text)

    return write


def launched(ugro: Ugro, *words: str) -> str:
    return str(document(ugro("launch", "--json", *words))["id"])


def job_of(ugro: Ugro, job: str) -> dict[str, Any]:
    found: dict[str, Any] = document(ugro("status", job, "--json"))
    return found


def failed(ugro: Ugro, job: str) -> dict[str, Any]:
    """What is said of a job once it failed: the first failure of its record, and why."""
    assert ugro("wait", job).returncode == 1
    failure = job_of(ugro, job)["first_failure"]
    why: dict[str, Any] = document(ugro("explain", job, "--json"))
    assert [why[key] for key in ("cause", "rank", "node")] == [failure[key] for key in ("cause", "rank", "node")]
    return why


def until_said(ugro: Ugro, job: str, words: str, ranks: int = 1) -> None:
    """Wait until so many ranks have said it."""

    def said() -> bool:
        lines = document(ugro("logs", job, "--json"))
        return len({line["rank"] for line in lines if words in line["text"]}) >= ranks

    until(said)


def said_last(ugro: Ugro, job: str) -> set[str]:
    """The last line of each rank."""
    lines = document(ugro("logs", job, "--json"))
    return {
        next(line["text"] for line in reversed(lines) if line["rank"] == rank) for rank in {n["rank"] for n in lines}
    }


def pid_of(ugro: Ugro, job: str, rank: int) -> int:
    return int(until(lambda: job_of(ugro, job)["ranks"][rank]["pid"]))


# Memory


@contextlib.contextmanager
def memory_limit(host: Host, mib: int) -> Iterator[None]:
    """A memory cgroup of that size for all that runs on a host and is started there."""
    for root, limit in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        folder = Path("/sys/fs/cgroup", root, f"ugro-testbed-{secrets.token_hex(2)}")
        try:
            folder.mkdir()
            (folder / limit).write_text(f"{mib}M")
            break
        except OSError as error:
            with contextlib.suppress(OSError):
                folder.rmdir()
            reason = error
    else:
        pytest.skip(f"no memory cgroup can be made here: {reason}")
    try:
        move(host, folder)
        yield
    finally:
        move(host, folder.parent)
        until(lambda: not (folder / "cgroup.procs").read_text(), 10)
        folder.rmdir()


def move(host: Host, folder: Path) -> None:
    for pid, process in host.members():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if pid != 1:
                (folder / "cgroup.procs").write_text(str(process.pid))


@pytest.mark.long
def test_a_rank_that_the_kernel_kills_for_lack_of_memory(
    bed: Testbed, ugro: Ugro, project: Callable[..., None]
) -> None:
    project(eats=EATS, stays=STAYS)
    with memory_limit(bed.gpu1, 300):
        hungry = launched(ugro, "eats.py", "--nodes", "gpu1")
        why = failed(ugro, hungry)
        assert (why["cause"], why["rank"], why["node"], why["signal"]) == ("host_oom", 0, "gpu1", "KILL")
        assert "of 300 MiB" in why["message"] and why["evidence"] == [why["message"]]
        assert not why["retry_helps"] and not document(ugro("proposals", "--json"))
        # By hand, in the same cgroup: no kill for lack of memory came since it started.
        well = launched(ugro, "stays.py", "--nodes", "gpu1")
        until_said(ugro, well, "saved")
        bed.gpu1.kill(pid_of(ugro, well, 0))
        assert failed(ugro, well)["cause"] == "killed"
    bed.gpu1.write(f".ugro/jobs/{hungry}/code/enough", "")
    assert ugro("resume", hungry, "--from", "0", "--yes").returncode == 0
    assert ugro("wait", hungry).returncode == 0


# Nodes


@pytest.mark.long
def test_a_lost_node_is_given_up_and_the_rest_goes_on_from_the_copy_on_the_master(
    bed: Testbed, ugro: Ugro, project: Callable[..., None]
) -> None:
    project(stays=STAYS)
    job = launched(ugro, "stays.py", "--nodes", "gpu1,gpu2")
    until_said(ugro, job, "saved", 2)
    pulled = document(ugro("checkpoints", job, "--pull", "--json"))
    assert [(one["step"], one["places"][0]["node"], one["on_master"]) for one in pulled] == [(10, "gpu1", True)]
    bed.gpu1.cut()
    assert "unknown: gpu1" in ugro("sweep").stdout
    why = document(ugro("explain", job, "--json"))
    assert why["cause"] is None and why["message"].startswith("gpu1: ") and why["not_asked"] == ["gpu1"]
    given_up = ugro("cancel", job, "--abandon")
    assert given_up.returncode == 0 and f"to resume without it: ugro resume {job} --nodes gpu2" in given_up.stdout
    assert state(ugro, job) == "cancelled" and job_of(ugro, job)["abandoned"] == ["gpu1"]
    [copy] = document(ugro("checkpoints", job, "--json"))
    assert (copy["step"], copy["places"], copy["on_master"]) == (10, [], True)
    resumed = ugro("resume", job, "--nodes", "gpu2", "--yes")
    assert resumed.returncode == 0 and "on this machine" in resumed.stderr, resumed.stderr
    assert ugro("wait", job).returncode == 0
    assert said_last(ugro, job) == {"goes on from checkpoint-10.pt True"}
    bed.gpu1.heal()
    until(lambda: ugro("sweep") and not [p for p in bed.gpu1.processes() if "UGRO_RUN" in p.environ])


@pytest.mark.long
def test_a_reboot_is_told_and_the_job_goes_on_once_that_is_approved(
    bed: Testbed, ugro: Ugro, project: Callable[..., None]
) -> None:
    project(stays=STAYS)
    job = launched(ugro, "stays.py", "--nodes", "gpu1,gpu2")
    until_said(ugro, job, "saved", 2)
    bed.gpu1.stop_sshd()
    bed.gpu1.end_sessions()
    bed.gpu1.start_sshd()
    assert ugro("sweep").returncode == 0
    assert state(ugro, job) == "running", "sshd's restart is no failure"
    bed.gpu1.reboot()
    why = failed(ugro, job)
    assert (why["cause"], why["node"], why["retry_helps"]) == ("node_rebooted", "gpu1", True)
    assert why["last_checkpoint"]["step"] == 10
    [proposal] = document(ugro("proposals", "--json"))
    assert (proposal["job"], proposal["checkpoint"]["step"]) == (job, 10)
    assert ugro("approve", job).returncode == 0
    assert ugro("wait", job).returncode == 0
    assert said_last(ugro, job) == {"goes on from checkpoint-10.pt True"}


# Ranks


@pytest.mark.long
def test_a_stopped_rank_is_named_and_its_job_goes_on_once_that_is_approved(
    bed: Testbed, ugro: Ugro, serve: Callable[..., Serve], project: Callable[..., None]
) -> None:
    project(gang=GANG)
    bed.master.write("project/job.yaml", "script: gang.py\nnodes: [gpu1, gpu2]\nhang_after: {min: 3s, max: 20s}\n")
    job = launched(ugro, "job.yaml")
    until_said(ugro, job, "step 5", 2)
    resident = serve(every=1.0)
    pid = pid_of(ugro, job, 1)
    bed.gpu2.kill(pid, signal.SIGSTOP)
    resident.hear(job, "rank 1 on gpu2 is stopped by a signal", seconds=60)
    alert = job_of(ugro, job)["alert"]
    assert alert.startswith("hangs: rank 1 on gpu2 is stopped by a signal (state T)")
    why = document(ugro("explain", job, "--json"))
    assert (why["cause"], why["state"]) == ("hang", "running") and alert in why["evidence"]
    [proposal] = until(lambda: document(ugro("proposals", "--json")))
    assert (proposal["job"], proposal["ends"], proposal["what"]) == (job, True, "end it; begin again")
    assert job_of(ugro, job)["state"] == "running"
    assert ugro("approve", job).returncode == 0
    bed.gpu1.write("go", "")
    bed.gpu2.write("go", "")
    assert ugro("wait", job).returncode == 0
    ended = job_of(ugro, job)
    assert ended["attempt"] == 2 and [past["cause"] for past in ended["past"]] == ["hang"]
    assert pid not in {process.pid for process in bed.gpu2.processes()}
    assert resident.end() == 0


@pytest.mark.long
def test_a_checkpoint_that_a_kill_tore_is_never_offered(bed: Testbed, ugro: Ugro, project: Callable[..., None]) -> None:
    project(again=SAVES + SAVES_AGAIN)
    job = launched(ugro, "again.py", "--nodes", "gpu1,gpu2")
    until_said(ugro, job, "step 20 is being saved")
    bed.gpu1.kill(pid_of(ugro, job, 0))
    why = failed(ugro, job)
    assert (why["cause"], why["rank"], why["last_checkpoint"]["step"]) == ("killed", 0, 10)
    whole = {one["step"]: one["whole"] for one in document(ugro("checkpoints", job, "--json"))}
    assert whole == {10: True, 20: False}
    refused = ugro("resume", job, "--from", "20", "--yes")
    assert refused.returncode == 2 and "checkpoint-20.pt" in refused.stderr
    [proposal] = document(ugro("proposals", "--json"))
    assert proposal["checkpoint"]["step"] == 10
    assert ugro("approve", job).returncode == 0
    assert ugro("wait", job).returncode == 0
    assert said_last(ugro, job) == {"goes on from checkpoint-10.pt True"}


@pytest.mark.long
def test_a_full_disk_under_the_output(bed: Testbed, ugro: Ugro, project: Callable[..., None]) -> None:
    project(fills=SAVES + FILLS_THE_DISK)
    with small_disk(bed.gpu1, "out", 500):
        job = launched(ugro, "fills.py", "--nodes", "gpu1")
        why = failed(ugro, job)
        assert (why["cause"], why["retry_helps"], why["last_checkpoint"]["step"]) == ("disk_full", False, 10)
        assert any("No space left on device" in line for line in why["evidence"])
        assert "fills.py" in why["where"]
    assert ugro("resume", job, "--yes").returncode == 0
    assert ugro("wait", job).returncode == 0
    assert said_last(ugro, job) == {"goes on from checkpoint-10.pt True"}


@pytest.mark.long
@pytest.mark.parametrize("code", [3, 0])
def test_a_full_disk_under_the_runs_takes_no_exit_code(bed: Testbed, ugro: Ugro, code: int) -> None:
    bed.master.write("inventory.yaml", inventory(GPU1, GPU2))
    bed.master.write("project/ends.py", FILLS_UGROS_DISK)
    with small_disk(bed.gpu2, ".ugro", 500):
        job = launched(ugro, "ends.py", "--", str(code))
        assert ugro("wait", job).returncode == (1 if code else 0)
        ranks = document(ugro("status", job, "--json"))["ranks"]
        assert [rank["exit_code"] for rank in ranks if rank["node"] == "gpu2"] == [code]


@pytest.mark.long
def test_what_the_scripts_say_of_themselves(bed: Testbed, ugro: Ugro) -> None:
    for name, text in BROKEN.items():
        bed.master.write(f"project/{name}", text)
    bed.master.write("inventory.yaml", inventory(MASTER, GPU1, GPU2))
    raises = launched(ugro, "raises.py", "--nodes", "gpu1")
    imports = launched(ugro, "imports.py", "--nodes", "gpu2")
    asks = launched(ugro, "asks.py", "--nodes", "gpu-master", "--", "--epoch", "3")
    why = failed(ugro, raises)
    assert why["cause"] == "python_exception" and why["where"].endswith("raises.py:2")
    assert why["evidence"][-1] == "IndexError: list index out of range"
    listens = launched(ugro, "listens.py", "--nodes", "gpu1")
    why = failed(ugro, imports)
    assert why["cause"] == "import_error" and why["facts"]["module"] == "no_such_module_of_ours"
    why = failed(ugro, asks)
    assert why["cause"] == "bad_arguments" and any("--epoch 3" in line for line in why["evidence"])
    why = failed(ugro, listens)
    assert why["cause"] == "port_in_use" and why["retry_helps"]
    assert [one["job"] for one in document(ugro("proposals", "--json"))] == [listens], "only that may go well next time"


# Training

TRAINING = ["--steps-per-epoch=15", "--seq-len=32", "--checkpoint-every=10", "--log-every=5", "--keep-last=9"]

# The training, whose first attempt stands still once its log and the last checkpoint are behind it, until it is killed.
STANDS_STILL = """\
import os, time
import train
step_windows = train.step_windows
def until_step_23(corpus, args, world, step, sizes):
    if step == 23 and os.environ["UGRO_ATTEMPT"] == "1":
        print("waits", flush=True)
        time.sleep(600)
    return step_windows(corpus, args, world, step, sizes)
train.step_windows = until_step_23
print("resumes from", os.environ.get("UGRO_RESUME_FROM"))
train.main()
"""


def losses(log: str) -> dict[int, str]:
    """Loss by step, as text: runs that should agree must agree in every digit."""
    return {int(step): loss for step, loss in re.findall(r"step (\d+)/\d+ epoch \d+ loss (\S+) ", log)}


@pytest.mark.long
def test_a_training_that_was_interrupted_ends_with_the_loss_of_one_that_was_not(
    bed: Testbed, ugro: Ugro, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    for host in (bed.gpu1, bed.gpu2):
        host.write("python", WITH_TORCH, 0o755)
    bed.master.write("project/train.py", EXAMPLE.read_text())
    bed.master.write("project/stands_still.py", STANDS_STILL)
    python = write_warm_python(tmp_path / "python", "torch.nn.parallel")
    with ranks(python, [str(EXAMPLE), *TRAINING], tmp_path, tmp_path) as uninterrupted:
        job = launched(ugro, "stands_still.py", "--nodes", "gpu1,gpu2", "--", *TRAINING)
        until_said(ugro, job, "waits", 2)
        bed.gpu2.kill(pid_of(ugro, job, 1))
        why = failed(ugro, job)
        assert (why["cause"], why["rank"], why["node"]) == ("killed", 1, "gpu2")
        assert ugro("approve", job).returncode == 0
        assert ugro("wait", job).returncode == 0
        log = tmp_path / "log"
        assert codes(uninterrupted) == [0, 0], log.read_text()
    expected = losses(log.read_text())
    past = job_of(ugro, job)
    assert past["attempt"] == 2
    resumed = losses(ugro("logs", job, "--rank", "0").stdout)
    assert max(resumed) == max(expected) == 30
    assert min(resumed) == 25, "it went on from the checkpoint of step 20"
    assert resumed == {step: loss for step, loss in expected.items() if step in resumed}
