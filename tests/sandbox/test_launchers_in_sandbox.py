"""Other launchers than torchrun, and plain commands: whole jobs on the sandbox."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from cluster import exits

from ugro.sandbox.cluster import Sandbox
from ugro.testing.commands import Ugro, document, until

CLUSTER = ("gpu-master", "gpu1")

TELL = """\
ranks="rank=${RANK-none} local=${LOCAL_RANK-none} world=${WORLD_SIZE-none}"
echo "$ranks of=$UGRO_NODE_RANK/$UGRO_NNODES $UGRO_NODES $*"
[ "$1 $UGRO_ATTEMPT $UGRO_NODE_RANK" != "once 1 1" ] || exit 7
"""

TREE = """\
(sleep 600 & sleep 600) &
sleep 600 &
echo waiting
wait
"""

GANG = """\
# torchrun, and not its stand-in, is what accelerate runs.
import torch
from accelerate import Accelerator

accelerator = Accelerator()
total = accelerator.reduce(torch.ones(1) * (accelerator.process_index + 1))
print("sum", int(total), "of", accelerator.num_processes, accelerator.mixed_precision, flush=True)
accelerator.end_training()
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for name, text in (("tell.sh", TELL), ("tree.sh", TREE), ("gang.py", GANG)):
        (folder / name).write_text(text)
    return folder


def sleepers(sandbox: Sandbox) -> list[Path]:
    """Processes of the sandbox that sleep."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            mark = f"UGRO_SANDBOX={sandbox.root}".encode() in (folder / "environ").read_bytes().split(b"\0")
            if mark and (folder / "cmdline").read_bytes() == b"sleep\x00600\x00":
                found.append(folder)
    return found


def lines(ugro: Ugro, job: str) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for line in document(ugro("logs", job, "--json")):
        found.setdefault(line["rank"], []).append(line["text"])
    return found


def test_a_command_runs_once_and_knows_of_no_ranks(ugro: Ugro, sandbox: Sandbox) -> None:
    done = ugro("launch", "--name", "once", "--follow", "--", "bash", "tell.sh", "a b", "$(x)")
    assert "note: it runs once, on one node; for more: --nodes N" in done.stderr
    job = document(ugro("status", "once", "--json"))
    assert (job["launcher"], job["command"], job["state"]) == ("none", ["bash", "tell.sh", "a b", "$(x)"], "succeeded")
    assert exits(job) == [(0, "gpu-master", 0, None)]
    assert lines(ugro, "once") == {0: ["rank=none local=none world=none of=0/1 gpu-master a b $(x)"]}
    shown = ugro("status", "once").stdout
    assert "bash tell.sh 'a b'" in shown and "none: the command as it was typed" in shown


@pytest.mark.long
def test_a_command_on_each_node_fails_as_a_whole_and_is_resumed(ugro: Ugro) -> None:
    failed = ugro("launch", "--name", "each", "--nodes", "2", "--follow", "--", "bash", "tell.sh", "once")
    assert failed.returncode == 1 and "rank 1 on gpu1 failed first: exit code 7" in failed.stderr
    assert ugro("resume", "each", "--from", "0", "--yes").returncode == 0
    job = document(ugro("wait", "each", "--json"))
    assert exits(job) == [(0, "gpu-master", 0, None), (1, "gpu1", 0, None)]
    said = "rank=none local=none world=none of={}/2 gpu-master,gpu1 once"
    assert lines(ugro, "each") == {rank: [said.format(rank)] for rank in range(2)}


def test_cancel_proves_that_nothing_of_a_shells_children_remains(ugro: Ugro, sandbox: Sandbox) -> None:
    assert ugro("launch", "--name", "tree", "--nodes", "gpu1", "--", "bash", "tree.sh").returncode == 0
    until(lambda: lines(ugro, "tree").get(0) == ["waiting"])
    assert len(sleepers(sandbox)) == 3
    assert "no processes of it remain on gpu1" in ugro("cancel", "tree").stdout
    assert sleepers(sandbox) == [] and document(ugro("status", "tree", "--json"))["state"] == "cancelled"


@pytest.mark.long
def test_ranks_of_accelerate_meet_over_nodes(ugro: Ugro) -> None:
    launcher = ("--launcher", "accelerate", "--launcher-args", "--mixed_precision no")
    done = ugro("launch", "--name", "gang", *launcher, "--nodes", "2", "--gpus-per-node", "0", "--follow", "gang.py")
    assert done.returncode == 0, done.stderr
    job = document(ugro("status", "gang", "--json"))
    assert (job["launcher"], job["command"]) == ("accelerate", ["gang.py"])
    assert exits(job) == [(0, "gpu-master", 0, None), (1, "gpu1", 0, None)]
    assert all("sum 3 of 2 no" in said for said in lines(ugro, "gang").values())
