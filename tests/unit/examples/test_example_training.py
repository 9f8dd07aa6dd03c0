"""The example really trains: real processes, gloo over loopback, real torchrun where ranks are started as UGRO does.

Where a test is about what ranks do, they are forked without torchrun from one process that has imported torch.
"""

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from forked_ranks import codes, ranks, write_warm_python
from places import EXAMPLES, QUICK

from ugro.nodes.remote import bundle

torch = pytest.importorskip("torch")

SCRIPT = EXAMPLES / "train_production.py"
TWO_RANKS = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--local-addr=127.0.0.1",
    "--nproc-per-node=2",
]
SIZES = ["--epochs=2", "--steps-per-epoch=20", "--seq-len=32"]
SETTINGS = [*SIZES, "--log-every=5", "--checkpoint-every=10", "--keep-last=9"]
DEADLINE = 120.0  # seconds; a run takes about five


def environment(**extra: str) -> dict[str, str]:
    """Ours, without what would make the script resume or join another job; gloo stays on loopback."""
    others = ("RANK", "UGRO_RESUME_FROM", "UGRO_BATCH_SHARE")
    ours = {key: value for key, value in os.environ.items() if key not in others}
    ours |= {"GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(QUICK)}
    return ours | extra


@contextlib.contextmanager
def started(command: list[str], folder: Path, **extra: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command at work in its own folder, writing to `log` there; it is over when the block is left."""
    folder.mkdir(exist_ok=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment(**extra), stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()  # torchrun passes it on to its workers
        process.wait(DEADLINE)


def run(command: list[str], folder: Path, **extra: str) -> str:
    """Run to the end, successfully; returns the log."""
    with started(command, folder, **extra) as process:
        code = process.wait(DEADLINE)
    log = (folder / "log").read_text()
    assert code == 0, log
    return log


def await_line(folder: Path, pattern: str) -> re.Match[str]:
    """The first line of the log that matches, as soon as it is there."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        if match := re.search(rf"^{pattern}$", (folder / "log").read_text(), re.MULTILINE):
            return match
        time.sleep(0.05)
    raise AssertionError(f"no line {pattern!r} in:\n{(folder / 'log').read_text()}")


def losses(log: str) -> dict[int, str]:
    """Loss by step, as text: runs that should agree must agree in every digit."""
    return {int(step): loss for step, loss in re.findall(r"^step (\d+)/\d+ epoch \d+ loss (\S+) ", log, re.MULTILINE)}


def load(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = load(one)["model"], load(other)["model"]
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run of 40 steps on two ranks."""
    folder = tmp_path_factory.mktemp("whole")
    run([*TWO_RANKS, str(SCRIPT), *SETTINGS], folder)
    return folder


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_warm_python(tmp_path_factory.mktemp("warm") / "python", "torch.distributed", "torch.nn.parallel")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_production", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_two_ranks_learn(whole_run: Path) -> None:
    log = (whole_run / "log").read_text()
    starts = re.findall(r"^start rank (\d) of 2 host \S+ device cpu backend gloo pid \d+$", log, re.MULTILINE)
    assert sorted(starts) == ["0", "1"]
    loss = {step: float(text) for step, text in losses(log).items()}
    assert list(loss) == [5, 10, 15, 20, 25, 30, 35, 40]
    assert loss[40] < loss[5] - 0.5
    assert sorted(path.name for path in (whole_run / "checkpoints").iterdir()) == [
        f"checkpoint-{step}.pt" for step in (10, 20, 30, 40)
    ]


@pytest.mark.long
def test_a_resumed_run_repeats_the_uninterrupted_one(whole_run: Path, tmp_path: Path, warm: str) -> None:
    kept = tmp_path / "checkpoints"
    kept.mkdir()
    shutil.copy(whole_run / "checkpoints" / "checkpoint-20.pt", kept)
    torn = (whole_run / "checkpoints" / "checkpoint-30.pt").read_bytes()[:-100]
    (kept / "checkpoint-30.pt").write_bytes(torn)  # the newest, but its copy was cut short
    command = [str(SCRIPT), *SETTINGS, "--resume_from_checkpoint", str(kept)]
    with ranks(warm, command, tmp_path, tmp_path) as started_ranks:
        ended = codes(started_ranks)
    log = (tmp_path / "log").read_text()
    assert ended == [0, 0], log
    assert f"resuming from {kept / 'checkpoint-20.pt'} at step 20\n" in log
    expected = losses((whole_run / "log").read_text())
    assert losses(log) == {step: loss for step, loss in expected.items() if step > 20}
    assert_same_weights(kept / "checkpoint-40.pt", whole_run / "checkpoints" / "checkpoint-40.pt")


@pytest.mark.long
def test_shares_of_the_batch_do_not_change_what_is_learned(whole_run: Path, tmp_path: Path) -> None:
    """The launch is UGRO's: rank.py hands each rank its share. 16 windows a step, now 13 + 3 instead of 8 + 8."""
    folder = tmp_path / "run"
    folder.mkdir()
    rank = tmp_path / "rank.py"
    rank.write_text(bundle.load("run/rank.py"))
    run([*TWO_RANKS, str(rank), str(folder), str(SCRIPT), *SETTINGS], tmp_path, UGRO_BATCH_SHARES="0.8,0.2")
    equal, uneven = losses((whole_run / "log").read_text()), losses((folder / "rank-0.log").read_text())
    assert {step: float(loss) for step, loss in uneven.items()} == pytest.approx(
        {step: float(loss) for step, loss in equal.items()}, abs=2e-4
    )
    one, other = (load(path / "checkpoints" / "checkpoint-10.pt")["model"] for path in (whole_run, tmp_path))
    assert all(torch.allclose(one[name], other[name], rtol=1e-3, atol=1e-4) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one), "the batch was not split otherwise"


def test_shares_count_only_when_every_rank_has_one(tmp_path: Path, warm: str) -> None:
    program = (
        "import importlib.util, os, sys, argparse; import torch.distributed as dist\n"
        f"spec = importlib.util.spec_from_file_location('t', {str(SCRIPT)!r})\n"
        "t = importlib.util.module_from_spec(spec); spec.loader.exec_module(t)\n"
        "world, args = t.join_world(), argparse.Namespace(batch_size=8)\n"
        "os.environ['UGRO_BATCH_SHARE'] = ('0.8', '0.2')[world.rank]\n"
        "given = t.batch_sizes(args, world)\n"
        "if world.rank: del os.environ['UGRO_BATCH_SHARE']\n"
        "t.say(f'{given} {t.batch_sizes(args, world)}'); dist.destroy_process_group()\n"
    )
    (tmp_path / "sizes.py").write_text(program)
    with ranks(warm, [str(tmp_path / "sizes.py")], tmp_path, tmp_path) as started_ranks:
        ended = codes(started_ranks)
    log = (tmp_path / "log").read_text()
    assert ended == [0, 0], log
    assert log.count("[13, 3] [8, 8]\n") == 2, log


def test_only_the_first_node_needs_the_checkpoint(whole_run: Path, tmp_path: Path, warm: str) -> None:
    there = str(whole_run / "checkpoints" / "checkpoint-20.pt")
    nodes = (tmp_path / "node-0", tmp_path / "node-1")
    with ranks(warm, [str(SCRIPT), *SETTINGS], *nodes, UGRO_RESUME_FROM=there) as started_ranks:
        ended = codes(started_ranks)
    log = (tmp_path / "node-0" / "log").read_text()
    assert ended == [0, 0], log + (tmp_path / "node-1" / "log").read_text()
    expected = losses((whole_run / "log").read_text())
    assert losses(log) == {step: loss for step, loss in expected.items() if step > 20}
    assert not (tmp_path / "node-1" / "checkpoints").exists()


def test_sigusr2_saves_a_checkpoint_and_training_goes_on(tmp_path: Path, warm: str) -> None:
    endless = ["--steps-per-epoch=100000", "--checkpoint-every=100000", "--seq-len=16", "--log-every=1"]
    with ranks(warm, [str(SCRIPT), *endless], tmp_path, tmp_path):
        rank_0 = int(await_line(tmp_path, r"start rank 0 .* pid (\d+)")[1])
        await_line(tmp_path, r"step 1/.*")
        os.kill(rank_0, signal.SIGUSR2)
        saved = await_line(tmp_path, r"saved (checkpoints/checkpoint-(\d+)\.pt)")
        await_line(tmp_path, rf"step {int(saved[2]) + 5}/.*")
    assert load(tmp_path / saved[1])["step"] == int(saved[2])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"checkpoint-{saved[2]}.pt"]


def test_it_runs_without_torchrun(tmp_path: Path) -> None:
    log = run([sys.executable, str(SCRIPT), "--epochs=1", "--steps-per-epoch=5", "--gradient-accumulation=2"], tmp_path)
    assert "start rank 0 of 1 " in log
    assert (tmp_path / "checkpoints" / "checkpoint-5.pt").exists()


def test_an_unknown_model_fails_the_run_and_names_the_presets(tmp_path: Path, warm: str) -> None:
    with ranks(warm, [str(SCRIPT), "--model=llama-7b"], tmp_path) as started_ranks:
        assert codes(started_ranks) != [0]
    error = await_line(tmp_path, r"train_production.py: error: argument --model: (.*)")[1]
    assert all(preset in error for preset in ("llama-7b", "tiny", "small", "base"))


@pytest.mark.parametrize("arguments", [["--model", "llama-7b"], ["--dataset", "wikitext"], ["--epochs", "0"]])
def test_what_the_script_does_not_know_is_a_usage_error(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train_production.py", *arguments])
    with pytest.raises(SystemExit) as error:
        script.parse_args()
    assert error.value.code == 2
    assert f"argument {arguments[0]}: " in capsys.readouterr().err


def test_each_rank_and_step_reads_its_own_text_again_and_again(script: ModuleType) -> None:
    corpus = script.grammar_corpus(0)
    args = script.argparse.Namespace(seed=0, gradient_accumulation=2, batch_size=3, seq_len=8)

    def windows(rank: int, step: int, *sizes: int) -> Any:
        return script.step_windows(corpus, args, script.World(rank, 2, torch.device("cpu")), step, sizes or (3, 3))

    assert windows(0, 1).shape == (2, 3, 9)
    assert torch.equal(windows(0, 1), windows(0, 1))
    assert not torch.equal(windows(0, 1), windows(1, 1))
    assert not torch.equal(windows(0, 1), windows(0, 2))
    assert windows(0, 1, 5, 1).shape == (2, 5, 9) and windows(1, 1, 5, 1).shape == (2, 1, 9)
    whole, split = ([windows(0, 1, *sizes), windows(1, 1, *sizes)] for sizes in ((3, 3), (5, 1)))
    assert torch.equal(torch.cat(whole, dim=1), torch.cat(split, dim=1)), "together they read the same"


def test_old_checkpoints_go_but_none_of_a_later_step(script: ModuleType, tmp_path: Path) -> None:
    for step in (90, 10, 20, 30):  # 90 was there when the run was rewound
        script.write_checkpoint(tmp_path, {"step": step}, keep_last=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"checkpoint-{step}.pt" for step in (20, 30, 90)]


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(script: ModuleType, tmp_path: Path) -> None:
    script.write_checkpoint(tmp_path, {"step": 7, "epoch": 1}, keep_last=2)
    with pytest.raises(Exception, match="pickle"):
        script.write_checkpoint(tmp_path, {"step": 7, "epoch": lambda: 2}, keep_last=2)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-7.pt"]
    assert load(tmp_path / "checkpoint-7.pt")["epoch"] == 1
