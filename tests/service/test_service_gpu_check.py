"""The check of UGRO on GPUs: through both backends where there is none, and on a simulated GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from door import Door
from places import QUICK

from ugro.common.errors import InputError
from ugro.nodes.remote.checkup.checkup import PythonFacts
from ugro.nodes.remote.checkup.machine import MachineReport
from ugro.sandbox.files import Files, prepare
from ugro.sandbox.machines import MARK, NODE_MARK
from ugro.service import gpu_check
from ugro.service.gpu_bench import bench
from ugro.service.schemas.gpu_check import GpuCheck, GpuChecked, GpuCheckLine
from ugro.testing.cluster import write_forking_python
from ugro.testing.commands import Ugro


@pytest.fixture
def simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A simulated GPU on this machine, and a folder for temporary files that shows what remains."""
    write_forking_python(tmp_path / "python")
    files = Files(tmp_path / "sandbox")
    prepare(files)
    monkeypatch.setenv("PATH", f"{files.programs('gpu1')}:{os.environ['PATH']}")
    monkeypatch.setenv(MARK, str(files.root))
    monkeypatch.setenv(NODE_MARK, "gpu1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(QUICK))
    left = tmp_path / "left"
    left.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(left))
    return left


def test_says_that_no_gpu_is_here(door: Door) -> None:
    with pytest.raises(InputError, match="no NVIDIA GPU is on this machine") as refused:
        list(door.stream(GpuCheck()))
    assert "make demo" in refused.value.hint


def test_says_why_gpus_cannot_be_checked(door: Door, simulated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def smi(text: str) -> None:
        folder = simulated.parent / "broken"
        folder.mkdir(exist_ok=True)
        (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{text}\n")
        (folder / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    smi("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    with pytest.raises(InputError, match=r"cannot be asked: .*version mismatch"):
        list(door.stream(GpuCheck()))
    uuid = "GPU-5c1e0a7e-1111-2222-3333-444455556666"
    row = f"0, {uuid}, 24564, 1013, 23551, 37, 61, 580.95.05, NVIDIA GeForce RTX 4090"
    smi(
        f"""case $* in
*query-compute*) printf 'gpu_uuid, pid, used_gpu_memory [MiB], process_name\\n{uuid}, 77, 22786, /x/python\\n' ;;
*) echo 'index, uuid, memory.total [MiB], memory.used [MiB], memory.free [MiB], utilization.gpu [%], \
temperature.gpu, driver_version, name'; echo '{row}' ;; esac"""
    )
    with pytest.raises(InputError, match=r"a GPU of this machine is in use: pid 77 \(/x/python\)"):
        list(door.stream(GpuCheck()))
    assert list(simulated.iterdir()) == []


@pytest.mark.long
def test_checks_a_simulated_gpu_and_leaves_nothing(
    home: Path, simulated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ugro.service.context import Context
    from ugro.service.local import Local

    monkeypatch.setattr(gpu_check, "JOB_WITHIN", 150.0)
    monkeypatch.setattr(gpu_check, "IN_ALL", 170.0)
    monkeypatch.setattr(gpu_check, "LOOKS", 1)
    # The all-reduce starts a job as the one that is cancelled does, and takes as long.
    monkeypatch.setattr(gpu_check, "CHECKS", [each for each in gpu_check.CHECKS if each[0] != "all-reduce"])
    backend = Local(Context(home=home / "state"))
    items = list(backend.stream(GpuCheck(python=sys.executable, capture=True)))
    backend.close()
    found = {item.name: item for item in items if isinstance(item, GpuCheckLine)}
    states = {name: line.state for name, line in found.items()}
    states.pop("load")  # simulated GPUs show the use of the processes that happen to be seen on them
    assert states == {**dict.fromkeys(states, "skipped"), "probe": "passed", "cancel": "passed"}, found
    assert found["cancel"].figures["free_s"] >= found["cancel"].figures["ended_s"] > 0
    end = items[-1]
    assert isinstance(end, GpuChecked) and end.answer.gpus == ("NVIDIA GeForce RTX 4070",)
    assert "GPU-00000000-0000-0000-0000-000000000001" in end.captured["gpus"]
    assert end.captured["unknown-field"].endswith("exit 2\n")
    assert list(simulated.iterdir()) == [], "nothing remains"


STUB = """\
import argparse, json, os
parser = argparse.ArgumentParser()
for name in ("--mode", "--models", "--free-mib"):
    parser.add_argument(name, default="")
parser.add_argument("--batch-size", type=int, default=8)
args = parser.parse_args()
if args.mode == "fill" and args.batch_size > 4:
    raise RuntimeError(
        "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 7.99 GiB"
    )
results = {
    "fill": [{"batch": args.batch_size}],
    "all_reduce": [{"backend": "nccl", "ranks": 1, "right": True, "gbit_per_s": 0.0, "milliseconds": 0.4}],
    "models": [{"model": words.split(":")[0], "used_mib": {"distilgpt2": 3500}.get(words.split(":")[0], 4600)}
               for words in args.models.split(",")],
}
for result in results[args.mode]:
    print("gpu-check " + json.dumps(result), flush=True)
if args.mode == "models":
    assert f"{os.environ['CUDA_VISIBLE_DEVICES']}=8188" == args.free_mib
"""
"""Stands for the script of the jobs: it answers as on a GPU, and runs out of memory with the words of torch."""


@pytest.mark.long
async def test_runs_jobs_and_resumes_after_an_oom_with_half_the_batch(home: Path, simulated: Path) -> None:
    facts = {"python": "3.12.3", "executable": "/x", "torch": "2.13.0", "torch_error": None, "distributed": True}
    more = {"cuda": "13.0", "cuda_available": True, "cuda_error": None, "devices": 1, "nccl": "2.29.7", "archs": ()}
    python = PythonFacts.model_validate(facts | more)
    made_here = ("all-reduce", "oom", "estimate")
    async with bench(str(simulated.parent / "python")) as made:
        [script] = simulated.glob("*/work/gpu_job.py")
        script.write_text(STUB)
        trial = gpu_check.Trial(made, (await made.look()).gpus, python, MachineReport(user="ob"))
        found = {name: await act(trial) for name, _, act in gpu_check.CHECKS if name in made_here}
    assert found["all-reduce"].text == "all-reduce of 64 MiB over 1 rank with nccl: 0.4 ms"
    assert found["oom"].text == "CUDA OOM with --batch-size 8 was diagnosed; resumed with 4, which fits"
    assert found["estimate"].state == "passed", found["estimate"]
    assert found["estimate"].text.endswith("gpt2-medium too large for this GPU: in the estimated band")
    assert list(simulated.iterdir()) == []


def test_the_command_ends_with_2_without_a_gpu(forked: Ugro, home: Path) -> None:
    def ugro(*words: str) -> subprocess.CompletedProcess[str]:
        return forked("check", *words, env=dict(os.environ))

    refused = ugro("--gpu", "--json")
    assert refused.returncode == 2 and "make demo" in json.loads(refused.stderr)["error"]["hint"]
    for words in (("--gpu", "--network"), ("--capture", "x")):
        wrong = ugro(*words)
        assert wrong.returncode == 2 and "--gpu" in wrong.stderr, words
