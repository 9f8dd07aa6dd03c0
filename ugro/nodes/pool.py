"""All nodes of the inventory: one kept connection each, and no node waits for another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import TypeVar

from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import NodeError, Unreachable
from ugro.nodes.transport import LocalTransport, Transport

T = TypeVar("T")


class Pool:
    """Opens transports on demand and keeps them; `async with` closes them all."""

    def __init__(self, inventory: Inventory, connect: Callable[[NodeConfig], Transport] | None = None) -> None:
        self._inventory = inventory
        self._connect = connect or _transport
        self._transports: dict[str, Transport] = {}

    def __getitem__(self, name: str) -> Transport:
        """The transport of a node.

        Raises:
            InputError: no node has that name.
        """
        if name not in self._transports:
            self._transports[name] = self._connect(self._inventory.node(name))
        return self._transports[name]

    async def each(
        self, names: Iterable[str], act: Callable[[Transport], Awaitable[T]], within: float | None = None
    ) -> dict[str, T | NodeError]:
        """Do something on every named node at the same time.

        A node's failure is its result, and so is not having answered `within` seconds.
        """

        async def one(name: str) -> T | NodeError:
            try:
                async with asyncio.timeout(within):
                    return await act(self[name])
            except NodeError as error:
                return error
            except TimeoutError:
                return Unreachable(
                    name, f"no answer within {within:g} s", "it may only be slow: `ugro check` waits longer"
                )

        names = list(names)
        return dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))

    async def adopt(self, inventory: Inventory) -> None:
        """Go on with an edited inventory; connections to nodes that are described as before are kept."""
        old, self._inventory = self._inventory, inventory
        changed = [name for name in self._transports if old.nodes.get(name) != inventory.nodes.get(name)]
        await asyncio.gather(*(self._transports.pop(name).close() for name in changed))

    async def __aenter__(self) -> Pool:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(transport.close() for transport in self._transports.values()))


def _transport(node: NodeConfig) -> Transport:
    if node.local:
        return LocalTransport(node)
    from ugro.nodes.transport.ssh import SshTransport  # a third of a command's start, and not all commands connect

    return SshTransport(node)
