"""The command line that starts the ranks of an attempt on one node, for each launcher.

All of them run `rank.py`, which runs the script: so logs, pids, exit codes and time limits are alike for all.
No launcher connects to another node: UGRO starts each node's part itself.
"""

from __future__ import annotations

import base64
import json
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ugro.nodes.remote.run.process_manager import NodeLaunch

NEEDS = {"torchrun": ("torch",), "accelerate": ("torch", "accelerate"), "deepspeed": ("torch", "deepspeed")}
"""Modules that a launcher needs in the node's python; `python` and `none` need nothing."""

_KINDS = frozenset({"multi_gpu", "use_deepspeed", "use_fsdp", "use_megatron_lm", "tpu", "config_file"})
"""Options of accelerate that say how its processes work together; without one it would start a single process."""

RANK_VARIABLES = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"),
)
"""Variables that make a script believe in ranks: a process of the launchers `python` and `none` has none of them."""


def agent(launch: NodeLaunch) -> str:
    """Return the shell words between the node's python and `rank.py`, which end with a blank unless there are none."""
    match launch.launcher:
        case "torchrun":
            options, logs = torchrun_options(launch), "--log-dir"
        case "accelerate":
            options, logs = accelerate_options(launch), "--log_dir"
        case "deepspeed":
            options, logs = deepspeed_options(launch), ""
        case _:
            return "-S "
    words = shlex.join([*options, *launch.launcher_args])
    # Before Python 3.12 torchrun takes an option of the script that two of its own begin with for an ambiguous one.
    end = "-- " if launch.launcher == "torchrun" else ""
    return f'{words} {logs}="$run_dir/torchelastic" {end}' if logs else f"{words} "


def torchrun_options(launch: NodeLaunch) -> list[str]:
    """Return those of torchrun's static rendezvous: UGRO owns the placement and restarts whole gangs itself."""
    return [
        "-m",
        "torch.distributed.run",
        f"--nnodes={launch.nnodes}",
        f"--node-rank={launch.paths.node_rank}",
        f"--nproc-per-node={launch.nproc}",
        f"--master-addr={launch.master_addr}",
        f"--master-port={launch.master_port}",
        "--max-restarts=0",
    ]


def accelerate_options(launch: NodeLaunch) -> list[str]:
    """Return those of `accelerate launch`, which win over its configuration files.

    It divides the number of processes by that of machines to know its own part: each node is given what makes that
    right, also where nodes have different numbers of GPUs.
    """
    given = {word.lstrip("-").partition("=")[0].replace("-", "_") for word in launch.launcher_args}
    alone = launch.nnodes * launch.nproc == 1
    return [
        "-m",
        "accelerate.commands.launch",
        *([] if alone or given & _KINDS else ["--multi_gpu"]),
        f"--num_machines={launch.nnodes}",
        f"--machine_rank={launch.paths.node_rank}",
        f"--num_processes={launch.nproc * launch.nnodes}",
        f"--main_process_ip={launch.master_addr}",
        f"--main_process_port={launch.master_port}",
        "--same_network",
        "--rdzv_backend=static",
        "--gpu_ids=all",
        "--max_restarts=0",
        "--deepspeed_multinode_launcher=standard",
    ]


def deepspeed_options(launch: NodeLaunch) -> list[str]:
    """Return those of DeepSpeed's launcher for one node; its `deepspeed` command would reach the others by itself.

    Its `world_info` has the devices of every node, which it makes CUDA_VISIBLE_DEVICES of.
    """
    world = {name: list(gpus or range(nproc)) for name, nproc, gpus in launch.world}
    return [
        "-m",
        "deepspeed.launcher.launch",
        f"--world_info={base64.urlsafe_b64encode(json.dumps(world).encode()).decode()}",
        f"--node_rank={launch.paths.node_rank}",
        f"--master_addr={launch.master_addr}",
        f"--master_port={launch.master_port}",
    ]


def own_variables(launch: NodeLaunch) -> dict[str, str]:
    """Return the variables that describe the other processes to one without rank variables, so that they can meet."""
    if launch.launcher in NEEDS:
        return {}
    return {
        "UGRO_NODE_RANK": str(launch.paths.node_rank),
        "UGRO_NNODES": str(launch.nnodes),
        "UGRO_NODES": ",".join(name for name, _, _ in launch.world),
        "UGRO_MASTER_ADDR": launch.master_addr,
        "UGRO_MASTER_PORT": str(launch.master_port),
    }


def rank_option(launch: NodeLaunch) -> str:
    """Return the shell words that tell `rank.py` its rank, where no launcher sets RANK."""
    alone = launch.nnodes * launch.nproc == 1 and launch.launcher == "accelerate"
    return f"--rank={launch.paths.node_rank} " if alone or launch.launcher not in NEEDS else ""
