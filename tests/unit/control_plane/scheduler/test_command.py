"""What a job runs: a script, a module or a program, in the words that torchrun has for them."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ugro.cli.main import cli
from ugro.common.errors import InputError, JobSpecError
from ugro.common.job_spec import JobSpec, job_spec, load_job_spec
from ugro.control_plane.metadata_store.history import run_of
from ugro.control_plane.scheduler.command import require_source, source_text
from ugro.control_plane.scheduler.launch_line import Foreign, translated
from ugro.control_plane.scheduler.submission import choose_code
from ugro.nodes.remote.bundle import load


@pytest.fixture
def project(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(work)
    (work / "pkg").mkdir()
    (work / "pkg/train.py").write_text("print('trains')\n")
    (work / "pkg/__main__.py").write_text("")
    (work / "train.py").write_text("")
    for name, mode in (("run.sh", 0o755), ("plain.sh", 0o644), ("tool", 0o755)):
        (work / name).write_text("#!/bin/sh\necho runs $1\n")
        (work / name).chmod(mode)
    (work / "binary").write_bytes(b"\x7fELF\0\0")
    (work / "binary").chmod(0o755)
    return work


def test_equal_runs_are_those_of_one_command() -> None:
    """A script's key is the one that records of before have."""
    script, module = job_spec(script="train.py", args=("1",)), job_spec(script="pkg.train", module=True, args=("1",))
    program = job_spec(script="./run.sh", no_python=True)
    assert module.command == ("-m", "pkg.train", "1") and program.command == ("--no-python", "./run.sh")
    assert run_of(script) == "490426c4d9c6dc1f" and run_of(job_spec(script="pkg.train", args=("1",))) != run_of(module)
    for spec in (script, module, program):
        assert JobSpec.model_validate_json(spec.model_dump_json()) == spec


def test_a_file_names_a_module_or_a_program(project: Path) -> None:
    def read(text: str) -> JobSpec:
        (project / "job.yaml").write_text(text)
        return load_job_spec(project / "job.yaml")

    assert read("module: pkg.train\nargs: [--lr, 1]\n").command == ("-m", "pkg.train", "--lr", "1")
    assert read("script: pkg.train\nmodule: true\n").command == ("-m", "pkg.train")
    assert read("script: /usr/bin/env\nno_python: true\nargs: [ls]\n").command[:2] == ("--no-python", "/usr/bin/env")
    for text, said in (
        ("module: pkg.train\nscript: a.py\n", "either a 'script' or a 'module' is expected"),
        ("module: pkg.train\nno_python: true\n", "no_python: found .true.: Python runs a module"),
        ("module: pkg/train.py\n", "the name of a module is expected, as in pkg.train"),
        ("module: train.py\n", "the name of a module is expected"),
        ("script: ../run.sh\nno_python: true\n", "a path inside the working directory is expected"),
        ("script: /bin/true\n", "a path inside the working directory is expected"),
    ):
        with pytest.raises(JobSpecError, match=said):
            read(text)


@pytest.mark.parametrize(
    ("spec", "source"),
    [
        ({"script": "train.py"}, "train.py"),
        ({"script": "pkg.train", "module": True}, "pkg/train.py"),
        ({"script": "pkg", "module": True}, "pkg/__main__.py"),
        ({"script": "torch.utils.collect_env", "module": True}, None),
        ({"script": "./run.sh", "no_python": True}, "run.sh"),
        ({"script": "bash", "no_python": True}, None),
        ({"script": "/bin/true", "no_python": True}, None),
    ],
)
def test_what_runs_is_found(project: Path, spec: dict[str, object], source: str | None) -> None:
    made = job_spec(**spec)
    assert require_source(project, made) == source
    assert bool(source_text(project, made)) == (source in ("pkg/train.py", "run.sh"))
    assert source is None or source in choose_code(made).files


@pytest.mark.parametrize(
    ("spec", "said", "hint"),
    [
        (
            {"script": "run.sh"},
            "run.sh is no Python script",
            "ugro launch -- ./run.sh (once, on one node; for each GPU: ",
        ),
        ({"script": "tool"}, "tool is no Python script", "for each GPU: ugro launch --no-python ./tool)"),
        ({"script": "binary"}, "binary is no Python script", "ugro launch -- ./binary"),
        ({"script": "plain.sh", "args": ("3",)}, "no Python script", "ugro launch -- bash plain.sh 3 (once"),
        ({"script": "pkg.train"}, "there is no script 'pkg.train'", "ugro launch -m pkg.train"),
        ({"script": "pkg.trian", "module": True}, "there is no module 'pkg.trian'", "misspelt"),
        ({"script": "./plain.sh", "no_python": True}, "./plain.sh is not executable", "chmod +x plain.sh"),
        ({"script": "run.sh", "no_python": True}, "there is no program 'run.sh'", "./run.sh"),
        ({"script": "./none.sh", "no_python": True}, "there is no program './none.sh'", ""),
        ({"script": "python", "args": ("-u", "a b.py", "1")}, "no script 'python'", "ugro launch 'a b.py' -- 1"),
        ({"script": "bash", "args": ("run.sh",)}, "no script 'bash'", "ugro launch -- bash run.sh"),
    ],
)
def test_what_cannot_run_is_refused_with_the_command_that_can(
    project: Path, spec: dict[str, object], said: str, hint: str
) -> None:
    with pytest.raises(InputError) as refusal:
        choose_code(job_spec(**spec | {"workdir": "."}))
    assert said in refusal.value.message and hint in refusal.value.hint


def test_how_to_launch_what_is_written_for_a_terminal(project: Path) -> None:
    def hint(*words: str, **said: bool) -> str:
        start = ("ugro", "launch", "--name", "x")
        return translated(project, words, Foreign("", **said), start).rpartition("ugro launch --name x ")[2]

    assert hint("python", "train.py") == "train.py"
    assert hint("python3.11", "train.py", "--epochs", "3") == "train.py -- --epochs 3"
    assert hint("torchrun", "--nproc-per-node", "4", "train.py", "--", "x") == "--gpus-per-node 4 train.py -- x"
    assert hint("torchrun", "--nproc_per_node=gpu", "--nnodes=2", "train.py") == "--nodes 2 train.py"
    assert hint("torchrun", "--standalone", "--rdzv-id", "1", "pkg.train", "--lr", "1", module=True) == (
        "-m pkg.train -- --lr 1"
    )
    assert hint("torchrun", "run.sh", no_python=True) == "--no-python ./run.sh"
    assert hint("python", "torch.distributed.run", "--nproc-per-node", "2", "train.py", module=True) == (
        "--gpus-per-node 2 train.py"
    )
    assert hint("accelerate", "launch", "--num_processes", "2", "train.py", "--lr", "1") == (
        "--launcher accelerate train.py -- --lr 1"
    )
    assert hint(
        "accelerate", "launch", "--mixed_precision=bf16", "--num-machines", "2", "--use_fsdp", "-m", "pkg.x"
    ) == ("--nodes 2 --launcher accelerate --launcher-args '--mixed_precision=bf16 --use_fsdp' -m pkg.x")
    assert hint("deepspeed", "--num_gpus=2", "--hostfile", "h", "--bind_cores_to_rank", "train.py") == (
        "--gpus-per-node 2 --launcher deepspeed --launcher-args --bind_cores_to_rank train.py"
    )
    assert hint("python", "-c", "print(1)") == "-- python -c 'print(1)'"
    assert hint("accelerate", "test") == "-- accelerate test"
    assert translated(project, ("torchrun",), Foreign("")).startswith("name the script: ")
    assert "once, on one node: ugro launch --launcher python -m pkg.train -- 1; " in (
        translated(project, ("python", "-m", "pkg.train", "1"), Foreign(""))
    )
    assert hint("python", "-m", "pkg.train", "--lr", "1") == "-m pkg.train -- --lr 1"
    assert hint("sh", "run.sh") == "-- sh run.sh"
    assert hint("train.py", "--lr", "1") == "" and hint("no-such-program", "x") == ""


def test_the_command_line(project: Path) -> None:
    (project / "inventory.yaml").write_text("nodes: {a: {address: 127.0.0.1, local: true}}\n")

    def error(*args: str) -> InputError:
        done = CliRunner().invoke(cli, ["launch", *args], prog_name="ugro")
        assert isinstance(done.exception, InputError), done.exception
        return done.exception

    assert error("python", "train.py").hint.endswith("ugro launch train.py")
    assert error("-m", "pkg.train", "x").hint.endswith("ugro launch -m pkg.train -- x")
    assert error("train.py", "--name", "x", "extra").hint.endswith(" ugro launch --name x train.py -- extra")
    shell = error("run.sh", "--priority", "3", "--", "a b").hint
    assert shell.startswith("ugro launch --priority 3 -- ./run.sh 'a b' (once, on one node; ")
    assert error("--launcher", "accelerate", "--", "train.py", "1").hint == (
        "name the script first: ugro launch --launcher accelerate train.py -- 1"
    )
    assert error("--", "cd x && ls", "a").hint == "for a shell to read it: ugro launch -- bash -c 'cd x && ls a'"
    assert error("--", "train.py", "1").hint == "ugro launch -- python train.py 1"
    assert error("--", "run.sh").hint == "ugro launch -- bash run.sh" and "./none" in error("--", "./none").message
    assert (
        error("--nodes", "1", "--", "../x").message
        == "script: found '../x': a path inside the working directory is expected"
    )
    wrong = error("train.py", "--launcher", "accelerate", "--launcher-args", "--num_processes 8").message
    assert wrong.startswith("--launcher-args: found ") and "--num_processes: UGRO chooses nodes and GPUs" in wrong
    assert error("torchrun", "-m", "pkg.train", "--env", "A=1").hint.endswith("ugro launch --env A=1 -m pkg.train")
    assert error("--epochs", "3", "train.py").hint.endswith("ugro launch train.py -- --epochs 3")
    assert error("train.py", "--env", "A").hint.endswith("; the script's own --env goes after --")
    assert "RANK: torchrun sets it for each rank" in error("train.py", "--env", "RANK=1").message
    assert "--env CUDA_VISIBLE_DEVICES: UGRO sets it" in error("train.py", "--env", "CUDA_VISIBLE_DEVICES=1").message
    itself = error("train.py", "--env", "PATH=/opt/bin:$PATH")
    assert "$PATH is not expanded here" in itself.message and "double quotes" in itself.hint
    assert "without a GPU: --gpus-per-node 0" in CliRunner().invoke(cli, ["launch", "--gpus", "0"]).output
    (project / "job.yaml").write_text("script: train.py\nworkdir: ~/none\n")
    assert error("job.yaml").message == f"the working directory {Path.home()}/none is not there"
    assert error("-m").message == "no module or program is named"
    assert "--no-python: found True: Python runs a module" in error("-m", "--no-python", "pkg.train").message


@pytest.mark.parametrize(
    ("command", "log", "code"),
    [
        (["-m", "pkg.train"], "trains\n", 0),
        (["--no-python", "./run.sh", "a b"], "runs a b\n", 0),
        (["--no-python", "echo", "$HOME"], "$HOME\n", 0),
        (["--no-python", "run.sh"], "FileNotFoundError: [Errno 2] No such file or directory: 'run.sh'\n", 127),
        (["--no-python", "./plain.sh"], "PermissionError: [Errno 13] Permission denied: './plain.sh'\n", 126),
    ],
)
def test_a_rank_starts_as_torchrun_would(project: Path, command: list[str], log: str, code: int) -> None:
    run_dir = project / "run"
    run_dir.mkdir()
    (run_dir / "rank.py").write_text(load("run/rank.py"))
    done = subprocess.run([sys.executable, run_dir / "rank.py", run_dir, *command], env=os.environ | {"RANK": "0"})
    assert (done.returncode, (run_dir / "rank-0.log").read_text()) == (code, log)
    assert (run_dir / "rank-0.exit").read_text().startswith(f"code {code} ") and (run_dir / "rank-0.pid").read_text()
    assert stat.S_IMODE((project / "run.sh").stat().st_mode) == 0o755
