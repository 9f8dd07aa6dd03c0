"""One way to ask all nodes, in a process of its own: `python -m benchmarks.contender KIND FLEET.json`.

Each line on stdin is a round, `cold WAY` or `warm WAY`; the answer on stdout is its seconds, and the seconds of CPU
that this process needed for it, as JSON. Connections that are warm stay open between the rounds, and cold ones are
closed after the clock stopped. The way `echo` asks for nothing but a word: no program runs for it on the node.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh

from benchmarks.fleet import ADDRESS, EXPECTED, QUERY
from ugro.common.config import Inventory
from ugro.nodes.pool import Pool
from ugro.nodes.remote import observer
from ugro.nodes.transport import Transport

Times = tuple[float, float]
Round = Callable[[str, str], Times]

ECHO = f"echo {EXPECTED.decode()}"


@dataclass(frozen=True)
class Where:
    """What a contender has to know of the fleet."""

    user: str
    ports: Sequence[int]
    client_key: str
    known_hosts: str
    inventory: Inventory


class Asyncssh:
    """asyncssh as it is: `conn.run` on all connections at once."""

    def __init__(self, where: Where, runner: asyncio.Runner) -> None:
        self._where, self._runner = where, runner
        self._kept: list[asyncssh.SSHClientConnection] = []

    def round(self, how: str, way: str) -> Times:
        return self._runner.run(self._cold() if how == "cold" else self._warm(ECHO if way == "echo" else QUERY))

    async def _connect(self, port: int) -> asyncssh.SSHClientConnection:
        return await asyncssh.connect(
            ADDRESS,
            port,
            username=self._where.user,
            client_keys=[self._where.client_key],
            known_hosts=self._where.known_hosts,
            agent_path=None,
            config=None,
        )

    async def _cold(self) -> Times:
        connections = []

        async def one(port: int) -> bytes:
            connections.append(connection := await self._connect(port))
            return await _raw(connection, QUERY)

        begin = _now()
        answers = await asyncio.gather(*map(one, self._where.ports))
        times = _since(begin)
        _check(answers, len(self._where.ports))
        for connection in connections:
            connection.abort()
        await asyncio.gather(*(connection.wait_closed() for connection in connections))
        return times

    async def _warm(self, command: str) -> Times:
        self._kept = self._kept or await asyncio.gather(*map(self._connect, self._where.ports))
        begin = _now()
        answers = await asyncio.gather(*(_raw(connection, command) for connection in self._kept))
        times = _since(begin)
        _check(answers, len(self._where.ports))
        return times


async def _raw(connection: asyncssh.SSHClientConnection, command: str) -> bytes:
    done = await connection.run(command, encoding=None)
    assert isinstance(done.stdout, bytes)
    return done.stdout


class Ugro:
    """UGRO's pool: `run` is a session, `ask` the kept shell, `observe` the whole look of a tick through it."""

    def __init__(self, where: Where, runner: asyncio.Runner) -> None:
        self._inventory, self._runner = where.inventory, runner
        self._kept: Pool | None = None
        self._asked: set[str] = set()

    def round(self, how: str, way: str) -> Times:
        return self._runner.run(self._cold(way) if how == "cold" else self._warm(way))

    async def _cold(self, way: str) -> Times:
        async with Pool(self._inventory) as pool:
            return await self._ask(pool, way)

    async def _warm(self, way: str) -> Times:
        self._kept = self._kept or Pool(self._inventory)
        if way not in self._asked:  # the first call opens what the others find open
            self._asked.add(way)
            await self._ask(self._kept, way)
        return await self._ask(self._kept, way)

    async def _ask(self, pool: Pool, way: str) -> Times:
        async def run(transport: Transport) -> bytes:
            return (await transport.run(QUERY)).stdout

        async def ask(transport: Transport) -> bytes:
            return (await transport.ask(QUERY)).stdout

        async def echo(transport: Transport) -> bytes:
            return (await transport.ask(ECHO)).stdout

        async def observe(transport: Transport) -> bytes:
            view, _ = await observer.observe(transport, [])
            return EXPECTED if len(view.gpus) == 4 and not view.gpu_problem else b""

        act = {"run": run, "ask": ask, "echo": echo, "observe": observe}[way]
        begin = _now()
        said = await pool.each(self._inventory.nodes, act)
        times = _since(begin)
        for answer in said.values():
            if isinstance(answer, Exception):
                raise answer
        _check(list(said.values()), len(self._inventory.nodes))
        return times


class ParallelSsh:
    """parallel-ssh's native client, one greenlet for each node. It checks no host keys, which saves it a little."""

    def __init__(self, where: Where) -> None:
        clients: Any = importlib.import_module("pssh.clients")
        config: Any = importlib.import_module("pssh.config")

        self._size = len(where.ports)
        hosts = [config.HostConfig(port=port, user=where.user, private_key=where.client_key) for port in where.ports]
        self._make: Callable[[], Any] = lambda: clients.ParallelSSHClient(
            [ADDRESS] * self._size, host_config=hosts, pool_size=self._size, allow_agent=False, num_retries=1
        )
        self._kept: Any = None

    def round(self, how: str, _: str) -> Times:
        if how == "cold":
            return self._ask(None)
        if self._kept is None:
            self._kept = self._make()
            self._ask(self._kept)
        return self._ask(self._kept)

    def _ask(self, client: Any) -> Times:
        begin = _now()
        client = client or self._make()
        output = client.run_command(QUERY)
        client.join(output)
        answers = ["\n".join(host.stdout).encode() for host in output]
        times = _since(begin)
        _check(answers, self._size)
        return times


def _now() -> Times:
    return time.perf_counter(), time.process_time()


def _since(begin: Times) -> Times:
    now = _now()
    return now[0] - begin[0], now[1] - begin[1]


def _check(answers: Sequence[object], size: int) -> None:
    good = [answer for answer in answers if isinstance(answer, bytes) and EXPECTED in answer]
    if len(good) != size:
        raise RuntimeError(f"{size - len(good)} of {size} nodes did not answer as they should")


def main() -> None:
    """Serve rounds until stdin ends."""
    kind, path = sys.argv[1:]
    fields = json.loads(Path(path).read_text())
    where = Where(**{**fields, "inventory": Inventory.model_validate(fields["inventory"])})
    if kind == "parallel-ssh":
        _serve(ParallelSsh(where).round)
        return
    with asyncio.Runner() as runner:
        _serve((Asyncssh if kind == "asyncssh" else Ugro)(where, runner).round)


def _serve(one_round: Round) -> None:
    for line in sys.stdin:
        how, way = line.split()
        print(json.dumps(one_round(how, way)), flush=True)


if __name__ == "__main__":
    main()
