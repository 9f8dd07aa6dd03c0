"""Ranks without torchrun, forked from a process that has their libraries, whose import is most of a short training."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest
from places import QUICK

from ugro.testing.forking_python import client


def write_warm_python(path: Path, *modules: str) -> str:
    """Write a `python` whose scripts are forked from a process that has these modules."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"PYTHONPATH": str(QUICK), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}.items():
            patch.setenv(name, value)
        path.write_text(f"#!/bin/sh\n{client(*modules)}exec false\n")
    path.chmod(0o755)
    return str(path)


def two_ranks(python: str, folder: Path, *words: str | Path) -> list[subprocess.Popen[bytes]]:
    """Start a script with its arguments as two ranks in a folder, where `rank-0` and `rank-1` have their output."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(found.getsockname()[1]), "WORLD_SIZE": "2"}
    world |= {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "GLOO_SOCKET_IFNAME": "lo", "TORCHELASTIC_RUN_ID": "none"}
    ranks = []
    for rank in ("0", "1"):
        with open(folder / f"rank-{rank}", "w") as said:
            env = os.environ | world | {"RANK": rank, "LOCAL_RANK": rank}
            ranks.append(subprocess.Popen([python, *words], cwd=folder, env=env, stdout=said, stderr=said))
    return ranks
