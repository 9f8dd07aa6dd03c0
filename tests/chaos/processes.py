"""The processes of jobs in a sandbox: what runs where, and what each of them is to its run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ugro.sandbox.machines import MARK, NODE_MARK


@dataclass(frozen=True, order=True)
class Process:
    """A process on a node. Of a job it is the `rank`, its `wrapper` (rank.py), `torchrun`, `reaper` or `launch`."""

    job: str
    attempt: str
    rank: str
    role: str
    node: str
    pid: int


def of_jobs(root: Path) -> list[Process]:
    """Everything that carries a run's token, in an order that does not depend on chance."""
    return sorted(process for process in everything(root) if process.job)


def everything(root: Path) -> list[Process]:
    """Every process on the nodes of a sandbox, zombies left out: they have no environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environ = (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        env = dict(entry.decode(errors="replace").split("=", 1) for entry in environ if b"=" in entry)
        if env.get(MARK) == str(root) and NODE_MARK in env:
            job, attempt, rank = env.get("UGRO_JOB", ""), env.get("UGRO_ATTEMPT", ""), env.get("RANK", "")
            found.append(Process(job, attempt, rank, _role(command), env[NODE_MARK], int(folder.name)))
    return found


def _role(command: list[str]) -> str:
    names = [os.path.basename(word) for word in command]
    if "reaper.py" in names:
        return "reaper"
    if "torch.distributed.run" in names:
        return "torchrun"
    if "rank.py" in names:
        return "setsid" if names[0] == "setsid" else "wrapper"
    if "launch.sh" in names:
        return "launch"
    return "rank" if "train.py" in names else "other"
