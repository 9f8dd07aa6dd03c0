"""`ugro estimate` on the command line, with and without a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ugro.cli.commands.estimate import estimate
from ugro.common.errors import InputError
from ugro.common.models.gpu import Gpu
from ugro.control_plane.metadata_store.config_store import ConfigStore
from ugro.control_plane.metadata_store.history import run_key
from ugro.control_plane.metadata_store.job_registry import JobRegistry
from ugro.control_plane.resource_manager.predictor.fit import PastRun
from ugro.testing import builders


@pytest.fixture(autouse=True)
def folder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").touch()
    return tmp_path


def ask(*args: str) -> Result:
    return CliRunner().invoke(estimate, args)


def document(*args: str) -> dict[str, Any]:
    done = ask("--json", *args)
    assert done.exception is None, done.exception
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def card(node: str, memory: int | None, **more: Any) -> Gpu:
    return Gpu(index=0, uuid=f"GPU-{node}", name="RTX [red]4060[/]", memory_total_mib=memory, **more)


@pytest.fixture
def cluster(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes with a usable GPU and one without; a third that never said anything."""
    text = "nodes:\n" + "".join(f"  {name}: {{address: 10.0.0.1}}\n" for name in ("one", "two", "three"))
    (folder / "inventory.yaml").write_text(text.replace("1}", "1, reserve_memory: 1G}", 1))
    seen = {
        "one": (card("one", 8192),),
        "two": (card("two", 24576), card("lost", None, problem="lost"), card("mig", 81920, mig=True)),
    }

    views = {name: builders.node_view(name, *gpus) for name, gpus in seen.items()}
    monkeypatch.setattr(ConfigStore, "remembered_nodes", lambda _: views)


def remember(monkeypatch: pytest.MonkeyPatch, *runs: PastRun) -> None:
    rows = [SimpleNamespace(run=past.run, peak_mib=past.peak_mib, predicted_mib=past.predicted_mib) for past in runs]
    rows.append(SimpleNamespace(run="unwatched", peak_mib=None, predicted_mib=1))
    monkeypatch.setattr(JobRegistry, "summaries", lambda _: rows, raising=False)


def test_without_a_cluster_usual_sizes_are_shown() -> None:
    done = ask("--model", "llama-7b", "--batch", "1", "--seq", "512")
    assert done.exit_code == 0
    assert "weights                     25.1 GiB  4 × P" in done.stdout
    assert "assumed: precision fp32, optimizer AdamW\n" in done.stdout
    assert "a GPU of 80 GiB  80.0 GiB  does not fit  none" in done.stdout
    assert "What would fit into 8.0 GiB" in done.stdout and "QLoRA and gradient checkpointing: about" in done.stdout


def test_the_document() -> None:
    found = document("--model", "gpt2", "--batch", "4", "--seq", "512")
    said = found["estimate"]
    assert list(found) == ["schema_version", "estimate", "gpus", "alternatives"] and found["schema_version"] == 1
    assert said["source"] == "model" and said["low_mib"] < said["mib"] < said["high_mib"]
    assert said["terms"][0] == {"name": "weights", "mib": 475, "source": "4 × P; fp32 throughout"}
    assert said["assumed"] == ["precision fp32", "optimizer AdamW"]
    assert [gpu["memory_mib"] // 1024 for gpu in found["gpus"]] == [8, 12, 16, 24, 80]
    assert {gpu["fit"] for gpu in found["gpus"]} == {"fits"} and found["gpus"][0]["batch"] >= 4
    assert found["alternatives"] == []


@pytest.mark.usefixtures("cluster")
def test_the_cluster_s_gpus_as_they_were_seen_last() -> None:
    found = document("--model", "7b", "--method", "lora", "--gradient-checkpointing", "--batch", "2")
    assert [(gpu["node"], gpu["gpu"], gpu["memory_mib"], gpu["fit"]) for gpu in found["gpus"]] == [
        ("one", "GPU-one", 7168, "does_not"), ("two", "GPU-two", 24576, "fits"),
    ]  # fmt: skip
    assert "NCCL buffers" in {term["name"] for term in found["estimate"]["terms"]}  # for both GPUs
    assert all(change["mib"] <= 7168 for change in found["alternatives"])
    done = ask("--model", "7b")
    assert "RTX [red]4060[/]" in done.stdout and "for 2 GPUs; assumed" in done.stdout


def test_options_win_over_the_script_s_arguments() -> None:
    found = document("train.py", "--batch", "2", "--gpus", "1", "--", "--model", "gpt2", "--bf16", "--batch-size", "64")
    assert found["estimate"]["assumed"] == ["optimizer AdamW", "sequences of 1024 tokens"]
    assert (
        found["estimate"]["mib"] == document("--model", "gpt2", "--precision", "amp", "--batch", "2")["estimate"]["mib"]
    )


def test_estimates_by_the_vram_that_is_given() -> None:
    found = document("train.py", "--vram", "10G")
    assert found["estimate"]["mib"] == 10240 and found["estimate"]["source"] == "vram"
    assert [(gpu["fit"], gpu["batch"]) for gpu in found["gpus"]][:2] == [("does_not", None), ("fits", None)]
    assert "about 10.0 GiB on each GPU, as the job says" in ask("--vram", "10G").stdout


def test_a_job_file(folder: Path) -> None:
    (folder / "job.yaml").write_text("script: train.py\nargs: [--model, gpt2]\nvram: 6G\n")
    assert document("job.yaml")["estimate"]["mib"] == 6144
    assert document("job.yaml", "--vram", "7G")["estimate"]["mib"] == 7168


def test_a_job_file_of_a_script_that_is_not_there(folder: Path) -> None:
    (folder / "job.yaml").write_text("script: nosuch.py\nvram: 6G\n")
    done = ask("job.yaml")
    assert isinstance(done.exception, InputError) and "there is no script 'nosuch.py'" in done.exception.message


def test_equal_runs_were_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    remember(monkeypatch, PastRun(run_key("train.py", ("--lr", "1"), None), 3000))
    found = document("train.py", "--", "--lr", "1")
    assert found["estimate"]["source"] == "measured" and found["estimate"]["mib"] == 3000
    assert found["estimate"]["terms"] == [] and found["gpus"][0]["batch"] is None
    remember(monkeypatch, PastRun(run_key("-m", ("torch", "1"), None), 4000))
    assert document("-m", "torch", "--", "1")["estimate"]["mib"] == 4000


def test_other_runs_correct_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = document("--model", "gpt2")["estimate"]["mib"]
    remember(monkeypatch, *[PastRun("x", 500, 1000)] * 3)
    found = document("--model", "gpt2")["estimate"]
    assert found["mib"] == round(plain / 2) and found["terms"][-1]["name"] == "correction"
    assert "× 0.50, as 3 past runs on this cluster came out" in ask("--model", "gpt2").stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "the size of the model cannot be determined"),
        (("train.py", "--", "--epochs", "3"), "the size of the model cannot be determined"),
        (("--model", "foo"), "cannot be determined from 'foo'"),
        (("--vram", "10"), "no training fits into 10 MiB; did you mean 10G?"),
        (("--model", "7b", "--vram", "lots"), "--vram: found 'lots': a size like 512M or 10G is expected"),
        (("no.yaml",), "no.yaml: cannot be read"),
        (("--model", "-1b"), "cannot be determined from '-1b'"),
        (("--model=-1b", "train.py", "--", "--model", "gpt2"), "cannot be determined from '-1b'"),
        (("train.py", "--", "--model=-1b"), "the size of the model cannot be determined"),
        (("nosuch.py",), "there is no script 'nosuch.py' in /"),
        (("nosuch.py", "--vram", "1G"), "there is no script 'nosuch.py' in /"),
    ],
)
def test_mistakes(args: tuple[str, ...], said: str) -> None:
    done = ask(*args)
    assert isinstance(done.exception, InputError) and said in done.exception.message
