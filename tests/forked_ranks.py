"""Ranks without torchrun, forked from a process that has their libraries, whose import is most of a short training."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from places import QUICK

from ugro.testing.forking_python import client

ALONE = {"CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "none"}


def write_warm_python(path: Path, *modules: str) -> str:
    """Write a `python` whose scripts are forked from a process that has these modules."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**ALONE, "PYTHONPATH": str(QUICK)}.items():
            patch.setenv(name, value)
        path.write_text(f"#!/bin/sh\n{client(*modules)}exec false\n")
    path.chmod(0o755)
    return str(path)


@contextmanager
def ranks(python: str, words: list[str], *folders: Path, **first: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run a script with its arguments as one rank for each folder, where `log` gets its output. At the end kill them.

    `first` is in the environment of rank 0 alone.
    """
    count = str(len(folders))
    world = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    with socket.create_server(("127.0.0.1", 0)) as found:
        world["MASTER_PORT"] = str(found.getsockname()[1])
    started: list[subprocess.Popen[bytes]] = []
    try:
        for rank, folder in enumerate(folders):
            folder.mkdir(exist_ok=True)
            env = (
                os.environ | ALONE | world | {"RANK": str(rank), "LOCAL_RANK": str(rank)} | (first if not rank else {})
            )
            with open(folder / "log", "ab") as log:
                started.append(subprocess.Popen([python, *words], cwd=folder, env=env, stdout=log, stderr=log))
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def codes(started: list[subprocess.Popen[bytes]]) -> list[int]:
    """Wait until ranks have ended. Return their exit codes."""
    return [process.wait() for process in started]
