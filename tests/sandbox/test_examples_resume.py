"""Scripts of Hugging Face's Trainer and of Lightning lose a rank and resume through UGRO, which they do not know.

Losses are compared in every digit: on CPUs, with one thread and the same ranks, a run that was cut off computes the
same numbers in the same order as one that was not.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from forked_ranks import codes, ranks, write_warm_python
from places import EXAMPLES

from ugro.sandbox.cluster import Sandbox
from ugro.testing.commands import Ugro, document, until

CLUSTER = ("gpu-master", "gpu1")

MISSING = [name for name in ("transformers", "accelerate", "lightning") if not find_spec(name)]  # imports take seconds

pytestmark = [pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}"), pytest.mark.timeout(400)]
PATIENCE = 200.0
"""Seconds until the first checkpoint is there: most are the imports of the libraries, by every rank."""

SCRIPTS = ("train_transformers.py", "train_lightning.py")
TRAINER = ["--output_dir=out", "--max_steps=30", "--save_steps=10", "--logging_steps=5", "--learning_rate=3e-3"]
LIGHTNING = ["--steps=180", "--checkpoint-every=30", "--log-every=30"]
LIBRARIES = ("lightning.pytorch", "transformers.trainer", "transformers.models.gpt2.modeling_gpt2")
ARGUMENTS = dict(zip(SCRIPTS, (TRAINER, LIGHTNING), strict=True))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for script in SCRIPTS:
        shutil.copy(EXAMPLES / script, folder)
    return folder


@pytest.fixture(scope="module")
def rank_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python whose scripts are forked from one process: the imports, most of the work, are done once."""
    return write_warm_python(tmp_path_factory.mktemp("forking") / "python", *LIBRARIES)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, rank_python: str) -> dict[str, Path]:
    """The folders of runs of two ranks each that nothing cut off, with what they printed in `log`."""
    folders = {script: tmp_path_factory.mktemp("uninterrupted") for script in SCRIPTS}
    with ExitStack() as stack:
        runs = [
            stack.enter_context(ranks(rank_python, [str(EXAMPLES / script), *ARGUMENTS[script]], folder, folder))
            for script, folder in folders.items()
        ]
        ended = [codes(run) for run in runs]
    assert ended == [[0, 0]] * 2, "\n".join((folder / "log").read_text() for folder in folders.values())
    return folders


def launch(ugro: Ugro, sandbox: Sandbox, script: str) -> tuple[str, Path]:
    """Start it on two nodes; returns the job and where the code of rank 0 is."""
    made = document(ugro("launch", script, "--nodes", "gpu-master,gpu1", "--json", "--", *ARGUMENTS[script]))
    return made["id"], sandbox.root / "home" / "gpu-master" / ".ugro" / "jobs" / made["id"] / "code"


def kill(ugro: Ugro, job: str, rank: int, moment: Path) -> None:
    """Kill a rank once a file is there. The job then fails, and that rank is to blame."""
    pid = until(lambda: document(ugro("status", job, "--json"))["ranks"][rank]["pid"])
    until(moment.exists, PATIENCE)
    os.kill(pid, signal.SIGKILL)
    assert ugro("wait", job).returncode == 1
    failure = document(ugro("status", job, "--json"))["first_failure"]
    assert (failure["rank"], failure["signal"], failure["cause"]) == (rank, "KILL", "killed")


def checkpoints(ugro: Ugro, job: str) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in document(ugro("checkpoints", job, "--json"))}


def resumed(ugro: Ugro, job: str) -> int:
    """Resume to the end; returns the step that it resumed from."""
    document(ugro("resume", job, "--yes", "--json"))
    done = ugro("wait", job)
    assert done.returncode == 0, done.stderr + ugro("logs", job).stdout
    ended = document(ugro("status", job, "--json"))
    assert (ended["state"], ended["attempt"]) == ("succeeded", 2)
    return int(ended["resume_from"]["step"])


def trainer_losses(folder: Path) -> dict[int, float]:
    history = json.loads((folder / "out/checkpoint-30/trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry["loss"] for entry in history if "loss" in entry}


def lightning_losses(printed: str) -> dict[int, str]:
    return {int(step): loss for step, loss in re.findall(r"^step (\d+)/\d+ loss (\S+)$", printed, re.MULTILINE)}


@pytest.mark.long
def test_the_trainer_is_killed_while_it_saves(ugro: Ugro, sandbox: Sandbox, uninterrupted: dict[str, Path]) -> None:
    job, code = launch(ugro, sandbox, SCRIPTS[0])
    torn = code / "out/checkpoint-20"
    torn.mkdir(parents=True)
    os.mkfifo(torn / "optimizer.pt")  # without a reader, so the save goes so far and no further
    kill(ugro, job, rank=0, moment=torn / "model.safetensors")
    (torn / "optimizer.pt").unlink()
    seen = checkpoints(ugro, job)
    assert {name: (one["step"], one["kind"], one["whole"]) for name, one in seen.items()} == {
        "out/checkpoint-10": (10, "transformers", True),
        "out/checkpoint-20": (20, "transformers", False),
    }
    # Each rank's random state, for its dropout, is on its own node: the checkpoint is both nodes' folders together.
    assert seen["out/checkpoint-10"]["split"]
    assert [place["node"] for place in seen["out/checkpoint-10"]["places"]] == ["gpu-master", "gpu1"]
    refused = ugro("resume", job, "--from", "20", "--yes")
    assert refused.returncode != 0 and "out/checkpoint-20 trainer_state.json is not there" in refused.stderr
    assert resumed(ugro, job) == 10
    losses = trainer_losses(code)
    assert list(losses) == [5, 10, 15, 20, 25, 30] and losses == trainer_losses(uninterrupted[SCRIPTS[0]])
    assert checkpoints(ugro, job)["out/checkpoint-20"]["whole"]


@pytest.mark.long
def test_lightning_loses_the_rank_that_saves_nothing(
    ugro: Ugro, sandbox: Sandbox, uninterrupted: dict[str, Path]
) -> None:
    job, code = launch(ugro, sandbox, SCRIPTS[1])
    kill(ugro, job, rank=1, moment=code / "checkpoints/epoch=0-step=30.ckpt")
    seen = checkpoints(ugro, job)
    steps = [one["step"] for one in seen.values()]
    assert steps and steps == list(range(30, steps[-1] + 1, 30)) and steps[-1] < 180
    assert all(one["whole"] and one["kind"] == "lightning" for one in seen.values())
    assert resumed(ugro, job) == steps[-1]
    losses = lightning_losses("\n".join(line["text"] for line in document(ugro("logs", job, "--json"))))
    assert list(losses) == list(range(steps[-1] + 30, 181, 30)), "only what was not done yet"
    assert losses.items() <= lightning_losses((uninterrupted[SCRIPTS[1]] / "log").read_text()).items()
