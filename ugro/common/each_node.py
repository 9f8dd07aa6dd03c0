"""Many nodes at the same time, of which none waits for another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from ugro.common.errors import NodeError, Unreachable

T = TypeVar("T")


async def each_node(
    names: Iterable[str], act: Callable[[str], Awaitable[T]], within: float | None = None
) -> dict[str, T | NodeError]:
    """Do something about every named node at the same time.

    A node's failure is its result, and so is not having answered `within` seconds.
    """

    async def one(name: str) -> T | NodeError:
        try:
            async with asyncio.timeout(within):
                return await act(name)
        except NodeError as error:
            return error
        except TimeoutError:
            hint = "it may only be slow: `ugro check` waits longer"
            return Unreachable(name, f"no answer within {within:g} s", hint)

    names = list(names)
    return dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))
