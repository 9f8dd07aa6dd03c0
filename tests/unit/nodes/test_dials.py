"""Many nodes at once: open files are no limit, and not all nodes are dialled at the same time."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import Unreachable
from ugro.nodes import pool as pools
from ugro.nodes.pool import Pool
from ugro.nodes.transport import ssh

LIMITS = """
import asyncio, resource
from ugro.common.config import Inventory, NodeConfig
from ugro.nodes.pool import Pool

async def main():
    inventory = Inventory(nodes={"here": NodeConfig(name="here", address="127.0.0.1", local=True)})
    async with Pool(inventory) as pool:
        print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        for ask in (pool["here"].run, pool["here"].ask):
            print((await ask("ulimit -S -n")).text.strip())

asyncio.run(main())
"""


def test_raises_its_own_limit_of_open_files_and_not_that_of_what_it_starts(home: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    script = f'ulimit -S -n 200; exec "{sys.executable}" -c "$1"'
    done = subprocess.run(["sh", "-c", script, "sh", LIMITS], env=dict(os.environ), capture_output=True, text=True)
    assert done.stdout.split() == [str(hard), "200", "200"], done.stderr


async def test_dials_so_many_nodes_at_once_and_no_more(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "CONNECT_TIMEOUT", 2.0)  # seconds in which it dials those again that turn it away
    held = 0
    full, beyond, over = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """An sshd that is silent until it is over, and turns all away then."""
        nonlocal held
        held += 1
        if held >= pools.DIALS:
            (full if held == pools.DIALS else beyond).set()
        await over.wait()
        writer.close()

    async with await asyncio.start_server(hold, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        names = [f"n{number}" for number in range(pools.DIALS + 8)]
        config = {"address": "127.0.0.1", "port": port, "user": "u"}
        inventory = Inventory(nodes={name: NodeConfig(name=name, **config) for name in names})  # type: ignore[arg-type]
        async with Pool(inventory) as pool:
            dialling = asyncio.ensure_future(pool.each(names, lambda transport: transport.run("")))
            await asyncio.wait_for(full.wait(), 30)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(beyond.wait(), 0.5)
            over.set()
            said = await dialling
    assert held > len(names), "the others had their turn"
    assert all(isinstance(each, Unreachable) for each in said.values())
