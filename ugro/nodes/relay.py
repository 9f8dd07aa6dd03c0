"""Relays a port of this machine's loopback to a port of a node's, over the connection that UGRO has to it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import AsyncIterator

from ugro.common.errors import InputError, NodeError
from ugro.nodes.transport import Transport
from ugro.nodes.transport.base import READ_SIZE, ByteReader, ByteWriter

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"


@contextlib.asynccontextmanager
async def relay(transport: Transport, local_port: int, remote_port: int) -> AsyncIterator[int]:
    """Relay connections to `local_port` (0: a free one) to the node's `remote_port`. Yields the local port.

    Each connection is dialled when it is made, so a relay survives a broken link. Only this machine can connect.

    Raises:
        InputError: the local port is in use, or is not this user's to open.
    """
    under_way = set[asyncio.Task[None]]()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        under_way.add(task)
        try:
            await _carry(transport, remote_port, reader, writer)
        finally:
            under_way.discard(task)

    try:
        server = await asyncio.start_server(take, LOOPBACK, local_port)
    except OSError as error:
        raise _not_opened(local_port, remote_port, error) from None
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


async def _carry(transport: Transport, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry the bytes of one connection both ways until both ends have closed it."""
    try:
        try:
            there, back = await transport.connect(port)
        except NodeError as error:
            log.warning("a connection was not relayed: %s", error.message)
            return
        try:
            await asyncio.gather(_pump(reader, back), _pump(there, writer))
        finally:
            back.close()
    finally:
        writer.close()


async def _pump(source: ByteReader, target: ByteWriter) -> None:
    """Carry bytes to the end of a stream, and pass the end on."""
    try:
        while chunk := await source.read(READ_SIZE):
            target.write(chunk)
            await target.drain()
        target.write_eof()
    except Exception as error:  # whichever end broke, and in whichever library: it is one connection's end
        log.debug("a relayed connection broke: %r", error)


def _not_opened(local_port: int, remote_port: int, error: OSError) -> InputError:
    if error.errno == errno.EADDRINUSE:
        return InputError(
            f"port {local_port} of this machine is in use",
            f"name another one, or 0 for a free one: 0:{remote_port}",
        )
    return InputError(f"port {local_port} of this machine cannot be opened: {error.strerror or error}")
