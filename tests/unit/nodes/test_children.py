"""Programs that run on this machine."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import psutil
import pytest

from ugro.nodes import children


@pytest.mark.parametrize("steps", range(1, 9))
def test_a_cancelled_start_ends_its_processes(steps: int) -> None:
    """As on Ctrl-C, where the event loop cancels every task, however far it is."""

    async def interrupted() -> None:
        asked = [asyncio.ensure_future(children.output("sleep", "60")) for _ in range(4)]
        for _ in range(steps):
            await asyncio.sleep(0)
        assert not any(task.done() for task in asked)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(interrupted())
    assert not [child for child in psutil.Process().children() if child.name() == "sleep"]


async def test_a_program_says_what_it_was_given() -> None:
    data = os.urandom(300_000)
    assert await children.output("cat", data=data) == (0, data, b"")
    assert await children.output("sh", "-c", "echo out; echo err >&2; exit 3") == (3, b"out\n", b"err\n")
    assert (await children.output("sh", "-c", "kill -9 $$"))[0] == -9


async def test_a_program_that_reads_nothing_ends_as_it_likes() -> None:
    assert await children.output("sh", "-c", "exec <&-; exit 4", data=bytes(2**20)) == (4, b"", b"")


async def test_a_program_that_cannot_be_started_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        await children.output("no-such-program")


async def test_ends_what_takes_too_long_with_all_that_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 60 & echo $$ $! > {pids}; wait"
    assert await children.output("sh", "-c", script, seconds=0.5) == (None, b"", b"")
    assert pids.read_text().split() and not any(_runs(int(pid)) for pid in pids.read_text().split())


@pytest.mark.parametrize(("trap", "status"), [("exit 7", 7), ("", -9)])
async def test_a_program_may_end_by_itself_before_it_is_killed(trap: str, status: int) -> None:
    script = f"trap '{trap}' TERM; echo ready; while :; do sleep 0.02; done"
    async with children.started("sh", "-c", script, grace=0.3 if status < 0 else 30) as child:
        assert await child.stdout.readline() == b"ready\n"
    assert child.process.returncode == status


async def test_does_not_end_or_await_background_processes() -> None:
    started = time.monotonic()
    async with children.started("sh", "-c", "sleep 60 & echo $!") as child:
        pid = int(await child.stdout.readline())
        assert await child.wait() == 0
    assert _runs(pid) and time.monotonic() - started < 30
    os.kill(pid, 9)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
