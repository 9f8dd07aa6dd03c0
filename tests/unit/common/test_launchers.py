"""Launchers in a job spec: what goes together, which options are UGRO's, and plain commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from ugro.common.errors import JobSpecError
from ugro.common.job_spec import JobSpec, agent_of, job_spec, load_job_spec
from ugro.common.job_spec.launchers import check_options


@pytest.mark.parametrize(
    ("launcher", "words", "said"),
    [
        ("torchrun", ["--tee", "3"], ""),
        ("torchrun", ["--nnodes=2"], "--nnodes: UGRO chooses nodes and GPUs (--nodes, --gpus-per-node)"),
        ("torchrun", ["--nproc_per_node", "2"], "--nproc_per_node: UGRO chooses nodes"),
        ("torchrun", ["--nproc-per"], "--nproc-per: UGRO chooses nodes"),
        ("torchrun", ["--max-restarts=3"], "--max-restarts: UGRO restarts a job as a whole"),
        ("accelerate", ["--mixed_precision", "bf16", "--config_file=a.yaml", "--use_fsdp"], ""),
        ("accelerate", ["--mixed_precision", "bf16", "--num_processes", "8"], "--num_processes: UGRO chooses nodes"),
        ("accelerate", ["--main_process_port=1"], "--main_process_port: UGRO says where the ranks meet"),
        ("accelerate", ["--gpu_ids", "0"], "--gpu_ids: UGRO chooses nodes"),
        ("accelerate", ["--cpu"], "--cpu: UGRO chooses nodes"),
        ("accelerate", ["-m"], "-m: say what runs to UGRO"),
        ("accelerate", ["--deepspeed_multinode_launcher=pdsh"], "UGRO chooses nodes"),
        ("deepspeed", ["--no_local_rank", "--bind_cores_to_rank"], ""),
        ("deepspeed", ["--hostfile=hosts"], "--hostfile: UGRO chooses nodes"),
        ("deepspeed", ["--world_info=x"], "--world_info: UGRO chooses nodes"),
        ("accelerate", ["bf16"], "options of accelerate are expected, and 'bf16' is none"),
        ("accelerate", ["--debug", "--", "x.py"], "options of accelerate are expected, and '--' is none"),
        ("python", ["-u"], "the launcher python has no options"),
        ("none", ["--x"], "the launcher none has no options"),
        ("none", [], ""),
    ],
)
def test_says_which_options_of_a_launcher_are_its_own(launcher: str, words: list[str], said: str) -> None:
    if not said:
        check_options(launcher, words)
        return
    with pytest.raises(ValueError) as refusal:
        check_options(launcher, words)
    assert said in str(refusal.value)


def read(folder: Path, text: str) -> JobSpec:
    (folder / "job.yaml").write_text(text)
    return load_job_spec(folder / "job.yaml")


def test_a_file_has_a_launcher_or_a_command(tmp_path: Path) -> None:
    one = read(tmp_path, "launcher: accelerate\nlauncher_args: --mixed_precision 'bf 16'\nmodule: pkg.x\n")
    assert (one.launcher, one.launcher_args) == ("accelerate", ("--mixed_precision", "bf 16")) and not one.one_process
    listed = read(tmp_path, "launcher: deepspeed\nlauncher_args: [--no_local_rank]\nscript: a.py\n")
    assert listed.launcher_args == ("--no_local_rank",)
    plain = read(tmp_path, "command: [bash, train.sh, 3]\n")
    assert plain.command == ("bash", "train.sh", "3") and plain.words == ("--no-python", "bash", "train.sh", "3")
    assert plain.one_process and plain.launcher == "none"
    shell = read(tmp_path, "command: |\n  cd src\n  python train.py\n")
    assert shell.command == ("bash", "-c", "cd src\npython train.py\n")
    assert read(tmp_path, "script: ./x\nno_python: true\nlauncher: none\n").command == ("./x",)
    for spec in (one, listed, plain, shell):
        assert JobSpec.model_validate_json(spec.model_dump_json()) == spec, "what is frozen reads as it was"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("command: [a]\nscript: b.py\n", ":1: command: it says all that runs, and goes without 'script'"),
        ("command: [a]\nmodule: b\n", "goes without 'module'"),
        ("args: [1]\ncommand: [a]\n", ":2: command: it says all that runs, and goes without 'args'"),
        ("command: [a]\nlauncher: torchrun\n", ":2: launcher: a 'command' has the launcher none"),
        ("command: 5\n", "job.yaml:1: command: found '5': a command is expected, as in [bash, train.sh]"),
        ("command: [1.5e3, x]\n", "command: found '1.5e3': a command is expected"),
        ("command: {a: b}\n", "command: words are expected, as in [bash, train.sh], or a text for bash"),
        ("command: []\n", "command: a command is expected"),
        ("command: ''\n", ""),
        ("command: '  '\n", "command: a command is expected"),
        ("name: x\ncommand:\n- ../x\n- y\n", ":3: command.0: found '../x': a path inside the working directory"),
        ('command: [sh, "a\\0b"]\n', "command"),
        ("comand: [sh]\n", "comand: unknown key; did you mean 'command'?"),
        ("script: a.py\nlauncher: slurm\n", ":2: launcher: found 'slurm': 'torchrun', 'accelerate'"),
        (
            "script: a.py\nlauncher: none\n",
            ":2: launcher: found 'none': it runs a command as typed; for a Python script",
        ),
        ("script: a\nno_python: true\nlauncher: python\n", ":3: launcher: found 'python': it runs a Python script"),
        (
            "script: a.py\nlauncher_args: '\"'\nlauncher: accelerate\n",
            "launcher_args: found '\"': not words as a shell",
        ),
        ("script: a.py\nlauncher: accelerate\nlauncher_args:\n- --debug\n- --num_machines=2\n", ":3: launcher_args: "),
    ],
)
def test_refuses_what_does_not_go_together(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(JobSpecError) as refusal:
        read(tmp_path, text)
    assert said in refusal.value.message


def test_rank_variables_are_the_jobs_own_where_no_launcher_sets_them() -> None:
    assert job_spec(script="a.py", launcher="python", env={"RANK": "1"}).env == {"RANK": "1"}
    with pytest.raises(JobSpecError, match="accelerate sets it for each rank"):
        job_spec(script="a.py", launcher="accelerate", env={"RANK": "1"})


def test_finds_the_file_that_a_command_runs(tmp_path: Path) -> None:
    for name in ("train.sh", "tool"):
        (tmp_path / name).write_text("")

    def source(*words: str) -> str | None:
        spec = job_spec(script=words[0], args=words[1:], no_python=True, launcher="none")
        return spec.source(tmp_path)

    assert source("bash", "-x", "train.sh", "tool") == "train.sh" and source("./tool", "train.sh") == "tool"
    assert source("tool") is None, "a name alone is looked for in PATH"
    assert source("bash", "-c", "train.sh " * 100) is None and source("sh", "/etc/passwd", "../x", "") is None


def test_names_what_runs_the_ranks() -> None:
    assert (agent_of("accelerate"), agent_of("none")) == ("accelerate launch", "rank.py")
