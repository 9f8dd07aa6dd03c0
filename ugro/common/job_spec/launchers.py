"""Launchers: what starts the ranks of a job on each node, and which of their options UGRO sets itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

Launcher = Literal["torchrun", "accelerate", "deepspeed", "python", "none"]
"""The first three start one rank for each GPU; `python` and `none` one process on each node."""

ONE_PROCESS = ("python", "none")
"""Launchers that start one process on each node, with all GPUs of the job there and without rank variables."""

AGENTS = {"torchrun": "torchrun", "accelerate": "accelerate launch", "deepspeed": "the deepspeed launcher"}
"""What runs the ranks of a node, in words."""

RANK_PY = "rank.py"
"""What runs the one process of a node for launchers that are none: it ends as that process does."""

_BY_NODES = "UGRO chooses nodes and GPUs (--nodes, --gpus-per-node)"
_MEETING = "UGRO says where the ranks meet"
_WHAT_RUNS = "say what runs to UGRO: script, -m or --no-python"
_RESTARTS = "UGRO restarts a job as a whole (--on-failure)"
_LOGS = "UGRO keeps the logs of the ranks"

_SET = {
    "torchrun": {
        _BY_NODES: "nnodes nproc-per-node node-rank standalone",
        _MEETING: "master-addr master-port rdzv-backend rdzv-endpoint rdzv-id local-addr",
        _WHAT_RUNS: "m module no-python",
        _RESTARTS: "max-restarts",
        _LOGS: "log-dir",
    },
    "accelerate": {
        _BY_NODES: "num-processes num-machines machine-rank gpu-ids cpu multi-cpu"
        " deepspeed-hostfile deepspeed-exclusion-filter deepspeed-inclusion-filter deepspeed-multinode-launcher"
        " mpirun-hostfile",
        _MEETING: "main-process-ip main-process-port same-network rdzv-backend",
        _WHAT_RUNS: "m module no-python",
        _RESTARTS: "max-restarts",
        _LOGS: "log-dir",
    },
    "deepspeed": {
        _BY_NODES: "node-rank world-info hostfile H include i exclude e num-nodes num-gpus launcher no-ssh ssh-port"
        " enable-elastic-training min-elastic-nodes max-elastic-nodes",
        _MEETING: "master-addr master-port",
        _WHAT_RUNS: "m module no-python",
        _LOGS: "enable-each-rank-log save-pid",
    },
}
_SHORTEST = 3
"""Letters from which the launchers' parsers take the beginning of an option's name for the whole."""

_NUMBER = re.compile(r"[-+]?[0-9][0-9_.eE+-]*")
"""What YAML reads as a number; a command that is one is a slip."""


def check_options(launcher: str, words: Sequence[str]) -> None:
    """Require that these words are options of a launcher that UGRO does not set itself.

    Raises:
        ValueError: one is set by UGRO, or the launcher has no options.
    """
    if not words:
        return
    if launcher in ONE_PROCESS:
        raise ValueError(f"the launcher {launcher} has no options: put them into the command")
    if not words[0].startswith("-"):
        raise ValueError(f"options of {launcher} are expected, and {words[0]!r} is none")
    for word in words:
        name = word.lstrip("-").partition("=")[0].replace("_", "-")
        if word.startswith("-") and not name:
            raise ValueError(f"options of {launcher} are expected, and {word!r} is none")
        for why, options in _SET[launcher].items():
            if word.startswith("-") and any(_means(name, option) for option in options.split()):
                raise ValueError(f"{word.partition('=')[0]}: {why}")


def _means(name: str, option: str) -> bool:
    return name == option or (len(name) >= _SHORTEST and option.startswith(name))


def agent_of(launcher: str) -> str:
    """Return what runs the ranks of a node, in words."""
    return AGENTS.get(launcher, RANK_PY)


def words_of_command(given: object) -> list[str]:
    """Return the words of a job file's `command`, which is words, or a text for a shell.

    Raises:
        ValueError: it is neither, or names no program.
    """
    words = ["bash", "-c", given] if isinstance(given, str) else given
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
        raise ValueError("words are expected, as in [bash, train.sh], or a text for bash")
    if not "".join(words[-1:]).strip():
        raise ValueError("a command is expected, as in [bash, train.sh]")
    if _NUMBER.fullmatch(program := given if isinstance(given, str) else words[0]):
        raise ValueError(f"found {program!r}: a command is expected, as in [bash, train.sh]")
    return list(words)
