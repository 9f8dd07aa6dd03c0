"""Reads what this process is given on its stdin, without waiting for more of it than is wanted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from ugro.nodes.transport.base import READ_SIZE

STDIN = 0


async def bytes_of(descriptor: int) -> AsyncIterator[bytes]:
    """Yield what a descriptor has, as it comes, until its end. What cannot be read has ended.

    No thread waits for a pipe: the interpreter would wait for that thread, and the pipe may never end.
    """
    try:
        while await _readable(descriptor) and (chunk := os.read(descriptor, READ_SIZE)):
            yield chunk
    except OSError:
        return


async def _readable(descriptor: int) -> bool:
    """Wait until there is something to read; a file always has, if only its end."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:  # how epoll refuses what never makes a reader wait
        return True
    try:
        return await ready.wait()
    finally:
        loop.remove_reader(descriptor)
