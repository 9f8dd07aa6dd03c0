"""Ranks without torchrun, forked from one process that has imported torch: 4 of the 5 CPU seconds of a short one.

As a program this answers JSON lines: `{"words", "ranks": [[folder, environment], …]}` starts ranks whose output goes to
the `log` of their folder and is answered by their pids, and `{"wait": [pid, …]}` by their exit codes.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn


class WarmRanks:
    """The process that ranks are forked from."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [sys.executable, __file__], env=environment, stdin=pipe, stdout=pipe, text=True
        )

    def close(self) -> None:
        """End it."""
        self._process.communicate("")

    @contextmanager
    def started(self, words: Sequence[str], port: int, *folders: Path, **first: str) -> Iterator[list[int]]:
        """Run a script with its arguments as one rank for each folder. Yield their pids; at the end they are killed.

        `first` is in the environment of rank 0 alone.
        """
        world = {"WORLD_SIZE": str(len(folders)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        ranks = []
        for rank, folder in enumerate(folders):
            folder.mkdir(exist_ok=True)
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} | (first if rank == 0 else {})
            ranks.append((str(folder), world | own))
        pids: list[int] = self._ask(words=words, ranks=ranks)
        try:
            yield pids
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):  # its exit code was asked for
                    os.kill(pid, signal.SIGKILL)

    def codes(self, pids: list[int]) -> list[int]:
        """Wait until ranks have ended. Return their exit codes."""
        found: list[int] = self._ask(wait=pids)
        return found

    def _ask(self, **asked: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def serve() -> None:
    """Answer what is asked on stdin."""
    import torch._dynamo  # an optimizer imports it at its first step
    import torch.distributed
    import torch.nn.parallel  # noqa: F401

    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            answer = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in asked["wait"]]
        else:
            answer = [fork(asked["words"], folder, environment) for folder, environment in asked["ranks"]]
        print(json.dumps(answer), flush=True)


def fork(words: list[str], folder: str, environment: dict[str, str]) -> int:
    """Start one rank. Return its pid."""
    pid = os.fork()
    if pid == 0:
        os.chdir(folder)
        log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in (1, 2):
            os.dup2(log, number)
        os.environ.update(environment)
        be(words)
    return pid


def be(words: list[str]) -> NoReturn:
    """Run the script in this process and end it."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.argv, code = words, 0
    try:
        runpy.run_path(words[0], run_name="__main__")
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    serve()
