"""All nodes of the inventory: one kept connection each, and no node waits for another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import TypeVar

from ugro.common.config import Inventory, NodeConfig
from ugro.common.each_node import each_node
from ugro.common.errors import NodeError
from ugro.nodes import open_files
from ugro.nodes.transport import LocalTransport, Transport

T = TypeVar("T")

Configs = Mapping[str, NodeConfig]
"""Nodes as a run was started with them (`Job.node_configs`); they win over the inventory."""

DIALS = 32
"""Connections that are being made at the same time at most: each takes a process of ssh, a name look-up and a login."""


class Pool:
    """Opens transports on demand and keeps them; `async with` closes them all.

    A transport belongs to a description of a node: where a run keeps an older one, the node has two.
    """

    def __init__(self, inventory: Inventory, connect: Callable[[NodeConfig], Transport] | None = None) -> None:
        self._inventory = inventory
        self._dials = asyncio.Semaphore(DIALS)
        self._connect = connect or self._transport
        self._transports: dict[str, Transport] = {}

    def __getitem__(self, name: str) -> Transport:
        """The transport of a node as the inventory describes it.

        Raises:
            InputError: no node has that name.
        """
        return self.transport(self._inventory.node(name))

    def transport(self, config: NodeConfig) -> Transport:
        """The transport of a node that is described so."""
        key = config.model_dump_json()
        if key not in self._transports:
            self._transports[key] = self._connect(config)
        return self._transports[key]

    async def each(
        self,
        names: Iterable[str],
        act: Callable[[Transport], Awaitable[T]],
        within: float | None = None,
        configs: Configs | None = None,
    ) -> dict[str, T | NodeError]:
        """Do something on every named node at the same time.

        A node's failure is its result, and so is not having answered `within` seconds.
        """

        async def one(name: str) -> T:
            config = (configs or {}).get(name)
            return await act(self.transport(config) if config else self[name])

        return await each_node(names, one, within)

    async def adopt(self, inventory: Inventory, kept: Iterable[NodeConfig] = ()) -> None:
        """Use an edited inventory. Connections to nodes that are described as before, or in `kept`, stay open."""
        self._inventory = inventory
        wanted = {config.model_dump_json() for config in (*inventory.nodes.values(), *kept)}
        await asyncio.gather(*(self._transports.pop(key).close() for key in {*self._transports} - wanted))

    def _transport(self, node: NodeConfig) -> Transport:
        if node.local:
            return LocalTransport(node)
        from ugro.nodes.transport.ssh import SshTransport  # a third of a command's start, and not all commands connect

        return SshTransport(node, self._dials)

    async def __aenter__(self) -> Pool:
        open_files.raise_limit()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(transport.close() for transport in self._transports.values()))
