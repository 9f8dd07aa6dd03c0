"""What starts the ranks on a node: the command line of each launcher, and what comes of it, with real processes."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ugro.common.errors import NodeRefused
from ugro.common.models.run import RunFiles
from ugro.common.paths import RunPaths
from ugro.nodes.remote.bundle import load
from ugro.nodes.remote.run import process_manager
from ugro.nodes.remote.run.launchers import accelerate_options, deepspeed_options
from ugro.nodes.remote.run.process_manager import NodeLaunch, launch_script, prepare, rank_environment
from ugro.nodes.remote.run.run_files import look
from ugro.nodes.transport import LocalTransport
from ugro.testing import builders

HOSTILE = ("a b", "$(touch pwned)", "it's", "`touch pwned`", "new\nline", "-x", "")

GANG = NodeLaunch(
    paths=RunPaths("~/.ugro", "job-001", 1, 1),
    uid="uid-1",
    command=("train.py",),
    nnodes=2,
    nproc=2,
    master_addr="10.0.0.1",
    master_port=29507,
    python=sys.executable,
    gpus=("GPU-2", "GPU-3"),
    world=(("gpu1", 1, ("GPU-1",)), ("gpu2", 2, ("GPU-2", "GPU-3"))),
)

TELL = """
import json, os, sys
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "CUDA_VISIBLE_DEVICES")
ugro = {name: os.environ[name] for name in ("UGRO_NODE_RANK", "UGRO_NNODES", "UGRO_NODES") if name in os.environ}
print(json.dumps({"args": sys.argv[1:], "ugro": ugro, **{name: os.environ.get(name) for name in names}}))
"""

DEEPSPEED = '''
"""Reads the command line as deepspeed/launcher/launch.py of 0.9 to 0.17 does, and starts the same processes."""
import base64, json, os, subprocess, sys
from argparse import REMAINDER, ArgumentParser
parser = ArgumentParser()
parser.add_argument("--node_rank", type=int, default=0)
parser.add_argument("--master_addr", default="127.0.0.1")
parser.add_argument("--master_port", default=29500, type=int)
parser.add_argument("--world_info", default="None")
for flag in ("--module", "--no_python", "--enable_elastic_training", "--no_local_rank", "--bind_cores_to_rank"):
    parser.add_argument(flag, action="store_true")
parser.add_argument("training_script")
parser.add_argument("training_script_args", nargs=REMAINDER)
args = parser.parse_args()
world = json.loads(base64.urlsafe_b64decode(args.world_info))
mine = world[list(world)[args.node_rank]]
before = sum(len(gpus) for gpus in list(world.values())[: args.node_rank])
env = dict(os.environ, MASTER_ADDR=args.master_addr, MASTER_PORT=str(args.master_port))
env.update(CUDA_VISIBLE_DEVICES=",".join(map(str, mine)), WORLD_SIZE=str(sum(map(len, world.values()))))
started = []
for local in range(len(mine)):
    env.update(RANK=str(before + local), LOCAL_RANK=str(local))
    command = [sys.executable, "-u", args.training_script]
    command += [] if args.no_local_rank else [f"--local_rank={local}"]
    started.append(subprocess.Popen(command + args.training_script_args, env=env))
sys.exit(max(process.wait() for process in started))
'''


@pytest.fixture
def node(home: Path) -> LocalTransport:
    code = home / ".ugro/jobs/job-001/code"
    code.mkdir(parents=True)
    (code / "train.py").write_text(TELL)
    return LocalTransport(builders.this_machine(python=sys.executable))


async def ended(node: LocalTransport, plan: NodeLaunch) -> RunFiles:
    await process_manager.start(node, plan.paths, plan.uid, launch_script(plan))
    async with asyncio.timeout(60):
        while not (run := (await look(node, [plan.paths]))[0]).over or run.runner_alive:
            await asyncio.sleep(0.05)
    return run


def said(home: Path, plan: NodeLaunch, rank: int) -> dict[str, object]:
    log = home / f".ugro/jobs/job-001/1/node-{plan.paths.node_rank}/rank-{rank}.log"
    found: dict[str, object] = json.loads(log.read_text())
    return found


def test_accelerate_gets_its_machine_rank_and_sizes() -> None:
    plan = replace(GANG, launcher="accelerate")
    options = accelerate_options(plan)
    assert options[:3] == ["-m", "accelerate.commands.launch", "--multi_gpu"]
    assert {"--num_machines=2", "--machine_rank=1", "--main_process_ip=10.0.0.1"} <= set(options)
    assert "--num_processes=4" in options, "which it divides by the number of machines for its own two"
    assert "--deepspeed_multinode_launcher=standard" in options, "it never connects to other nodes by itself"
    for kind in ("--use_fsdp", "--use_deepspeed", "--config_file=acc.yaml", "--multi-gpu"):
        assert "--multi_gpu" not in accelerate_options(replace(plan, launcher_args=(kind,)))
    assert "--multi_gpu" not in accelerate_options(replace(plan, nnodes=1, nproc=1)), "which it refuses for one process"


@pytest.mark.long
def test_accelerate_knows_the_options_that_it_is_given() -> None:
    """The installed one reads them as they are meant."""
    plan = replace(GANG, launcher="accelerate", launcher_args=("--mixed_precision", "bf16"))
    read = (
        "import sys; from accelerate.commands.launch import launch_command_parser as parser\n"
        "found = parser().parse_args(sys.argv[1:])\n"
        "assert found.multi_gpu and found.num_processes == 4 and found.machine_rank == 1 and found.gpu_ids == 'all'\n"
        "assert found.training_script_args == ['run', '--x'] and found.mixed_precision == 'bf16', found\n"
    )
    words = [*accelerate_options(plan)[2:], *plan.launcher_args, "--log_dir=logs", "rank.py", "run", "--x"]
    assert subprocess.run([sys.executable, "-c", read, *words], timeout=120).returncode == 0


def test_a_gang_of_accelerate_on_cpus_does_not_look_for_gpus() -> None:
    plan = replace(GANG, launcher="accelerate")
    assert "ACCELERATE_USE_CPU" not in rank_environment(plan)
    assert rank_environment(replace(plan, gpus=()))["ACCELERATE_USE_CPU"] == "true"
    assert rank_environment(replace(plan, gpus=(), env=(("ACCELERATE_USE_CPU", "0"),)))["ACCELERATE_USE_CPU"] == "0"


def test_deepspeed_gets_the_devices_of_all_nodes() -> None:
    options = deepspeed_options(replace(GANG, launcher="deepspeed"))
    assert options[:2] == ["-m", "deepspeed.launcher.launch"]
    assert {"--node_rank=1", "--master_addr=10.0.0.1", "--master_port=29507"} <= set(options)
    world = next(option.partition("=")[2] for option in options if option.startswith("--world_info"))
    assert json.loads(base64.urlsafe_b64decode(world)) == {"gpu1": ["GPU-1"], "gpu2": ["GPU-2", "GPU-3"]}


async def test_ranks_of_deepspeed_leave_logs_and_codes_as_those_of_torchrun(home: Path, node: LocalTransport) -> None:
    package = home / "lib/deepspeed/launcher"
    package.mkdir(parents=True)
    (package / "launch.py").write_text(DEEPSPEED)
    env = (("PYTHONPATH", str(home / "lib")),)
    plan = replace(GANG, launcher="deepspeed", command=("train.py", *HOSTILE), env=env)
    run = await ended(node, plan)
    assert [(rank.rank, rank.exit_code) for rank in run.ranks] == [(1, 0), (2, 0)] and run.exit_code == 0
    for local, rank in enumerate((1, 2)):
        told = said(home, plan, rank)
        assert told["args"] == [f"--local_rank={local}", *HOSTILE]
        assert (told["RANK"], told["WORLD_SIZE"], told["CUDA_VISIBLE_DEVICES"]) == (str(rank), "3", "GPU-2,GPU-3")
        assert told["ugro"] == {}
    assert not list(home.rglob("pwned"))


@pytest.mark.parametrize(
    ("launcher", "command"),
    [("python", ("train.py", *HOSTILE)), ("none", ("--no-python", sys.executable, "train.py", *HOSTILE))],
)
async def test_one_process_has_all_gpus_and_no_rank_variables(
    home: Path, node: LocalTransport, launcher: str, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")  # of the shell that sshd starts
    plan = replace(GANG, launcher=launcher, command=command, nproc=1)
    run = await ended(node, plan)
    assert [(rank.rank, rank.exit_code) for rank in run.ranks] == [(1, 0)] and run.exit_code == 0
    told = said(home, plan, 1)
    assert told["args"] == list(HOSTILE) and told["CUDA_VISIBLE_DEVICES"] == "GPU-2,GPU-3"
    assert all(told[name] is None for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR"))
    assert told["ugro"] == {"UGRO_NODE_RANK": "1", "UGRO_NNODES": "2", "UGRO_NODES": "gpu1,gpu2"}
    assert not list(home.rglob("pwned"))


async def test_variables_of_the_job_are_its_own_where_no_launcher_sets_them(home: Path, node: LocalTransport) -> None:
    plan = replace(GANG, launcher="python", nproc=1, env=(("RANK", "5"), ("MASTER_ADDR", "here")))
    run = await ended(node, plan)
    told = said(home, plan, 1)
    assert run.ranks[0].rank == 1 and (told["RANK"], told["MASTER_ADDR"]) == ("5", "here")


async def test_a_package_script_is_found_beside_the_python_of_the_node(home: Path, node: LocalTransport) -> None:
    bin_ = home / "env/bin"
    bin_.mkdir(parents=True)
    (bin_ / "python").symlink_to(sys.executable)
    (bin_ / "yolo").write_text('#!/bin/sh\necho "yolo $* with $(command -v python)"\n')
    (bin_ / "yolo").chmod(0o755)
    plan = replace(
        GANG, launcher="none", command=("--no-python", "yolo", "a b"), nproc=1, python="~/env/bin/python", world=()
    )
    await ended(node, plan)
    assert (home / ".ugro/jobs/job-001/1/node-1/rank-1.log").read_text() == f"yolo a b with {bin_}/python\n"


async def test_the_end_of_a_shell_at_its_limit_is_that_of_what_it_waits_for(home: Path, node: LocalTransport) -> None:
    pid = home / "child"
    text = f"sleep 300 & echo $! > {pid}; wait"
    plan = replace(GANG, launcher="none", command=("--no-python", "sh", "-c", text), nproc=1, time_limit=1.0)
    begin = time.monotonic()
    run = await ended(node, plan)
    assert run.ranks[0].signal == "TERM" and run.ranks[0].limit == "ended" and time.monotonic() - begin < 30
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()


def test_a_launcher_that_sets_no_rank_is_named(tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(load("run/rank.py"))
    env = {name: value for name, value in os.environ.items() if name != "RANK"}
    command = [sys.executable, tmp_path / "rank.py", tmp_path, "train.py"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 1 and "the launcher started one process and set no RANK" in done.stderr


@pytest.mark.parametrize("command", [["-m", "pkg"], ["s.py"]])
def test_passes_the_argument_that_deepspeed_adds_to_the_script(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "rank.py").write_text(load("run/rank.py"))
    tell = f"import sys; open({str(tmp_path / 'args')!r}, 'w').write(repr(sys.argv[1:]))"
    (tmp_path / "s.py").write_text(tell)
    (tmp_path / "pkg.py").write_text(tell)
    words = [sys.executable, tmp_path / "rank.py", "--local_rank=1", tmp_path, *command, "x"]
    subprocess.run(words, env=os.environ | {"RANK": "0"}, cwd=tmp_path, check=True)
    assert (tmp_path / "args").read_text() == repr(["--local_rank=1", "x"])


async def test_refuses_a_node_without_what_the_launcher_needs(home: Path, node: LocalTransport) -> None:
    with pytest.raises(NodeRefused) as refusal:
        await prepare(node, ["127.0.0.1"], launcher="deepspeed")
    assert "has no deepspeed, which the launcher deepspeed needs" in refusal.value.message
    assert f"{sys.executable} -m pip install deepspeed" in refusal.value.hint
    bare = home / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # without the packages that are installed
    bare.chmod(0o755)
    without = LocalTransport(builders.this_machine(python=str(bare)))
    assert (await prepare(without, ["127.0.0.1"], launcher="none")).torch is None
    with pytest.raises(NodeRefused, match="has no torch"):
        await prepare(without, ["127.0.0.1"], launcher="accelerate")
