"""What this process is given on its stdin."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import aclosing
from pathlib import Path

from ugro.nodes.own_input import bytes_of


async def all_of(descriptor: int) -> bytes:
    return b"".join([chunk async for chunk in bytes_of(descriptor)])


async def test_reads_pipes_and_files_to_their_end(tmp_path: Path) -> None:
    data = os.urandom(300_000)
    (tmp_path / "data").write_bytes(data)
    with (tmp_path / "data").open("rb") as file, open(os.devnull, "rb") as nothing, (tmp_path / "w").open("wb") as out:
        assert await all_of(file.fileno()) == data
        assert await all_of(nothing.fileno()) == b""
        assert await all_of(out.fileno()) == b""  # not ours to read
    ours, theirs = os.pipe()
    with os.fdopen(ours, "rb"), os.fdopen(theirs, "wb") as writing:
        writer = threading.Thread(target=lambda: (writing.write(data), writing.close()))
        writer.start()
        assert await all_of(ours) == data
        writer.join()


async def test_waits_for_no_more_than_is_wanted() -> None:
    before = threading.active_count()
    ours, theirs = os.pipe()
    with os.fdopen(ours, "rb"), os.fdopen(theirs, "wb", buffering=0) as writing:
        async with aclosing(bytes_of(ours)) as chunks:
            writing.write(b"a line\n")
            assert await anext(chunks) == b"a line\n"
            more = asyncio.ensure_future(anext(chunks))
            await asyncio.sleep(0)
            more.cancel()
            await asyncio.gather(more, return_exceptions=True)
    assert threading.active_count() == before
