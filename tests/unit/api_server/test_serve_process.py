"""`ugro serve` as a process: where it listens, and pages that outlive it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from ugro.api_server.guard import cookie_name
from ugro.api_server.tokens import Tokens
from ugro.service.schemas.web import Role
from ugro.testing.cluster import write_forking_python
from ugro.testing.commands import Ugro


@pytest.fixture
def inventory(home: Path) -> Path:
    path, python = home / "inventory.yaml", write_forking_python(home / "python")
    path.write_text(f"nodes: {{here: {{address: 127.0.0.1, local: true, python: {python}, base_dir: {home}/node}}}}\n")
    return path


@asynccontextmanager
async def serving(
    inventory: Path, *options: str, lines: int = 2
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run it; give it with its first lines. It is killed at the end, as a power cut does."""
    command = [sys.executable, "-m", "ugro", "--inventory", str(inventory), "serve", "--every", "0.5", *options]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout
    try:
        async with asyncio.timeout(60):
            yield process, "".join([(await process.stdout.readline()).decode() for _ in range(lines)])
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()


async def dashboard(ugro: Ugro, inventory: Path) -> str:
    """What `ugro dashboard` complains of."""
    done = await another(ugro, inventory, "dashboard", "--no-browser")
    assert done.returncode == 2
    return done.stderr


async def another(ugro: Ugro, inventory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run another command, beside the resident controller if there is one."""
    return await asyncio.to_thread(ugro, "--inventory", str(inventory), *words, env=dict(os.environ))


async def refused(ugro: Ugro, inventory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a `ugro serve` that ends at once."""
    return await another(ugro, inventory, "serve", "--every", "0.5", *options)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as ear:
        return int(ear.getsockname()[1])


@pytest.mark.long
async def test_a_page_heals_after_a_kill(inventory: Path, home: Path) -> None:
    """The cookie is still good, the numbers of before are not taken for those of now."""
    port = free_port()
    tokens = Tokens.of(home / ".ugro")
    headers = {"Cookie": f"{cookie_name(port)}={tokens.cookie(Role.OPERATE)}"}
    url, origin = f"ws://127.0.0.1:{port}/api/v1/live", f"http://127.0.0.1:{port}"
    epochs, since = [], {}
    for _ in range(2):
        async with serving(inventory, "--listen", f"127.0.0.1:{port}") as (process, told):
            assert f"http://127.0.0.1:{port}/api/v1/" in told and "watching here" in told
            async with connect(url, additional_headers=headers, origin=origin, proxy=None) as client:
                hello = json.loads(await client.recv())
                epochs.append(hello["epoch"])
                await client.send(json.dumps({"type": "subscribe", "topics": ["cluster"], "since": since}))
                first = json.loads(await client.recv())
                while first["type"] == "error":  # there was no tick so far
                    await client.send(json.dumps({"type": "subscribe", "topics": ["cluster"], "since": since}))
                    first = json.loads(await client.recv())
                assert first["type"] == "snapshot" and first["seq"] > since.get("cluster", 0)
                since = {"cluster": first["seq"]}
                os.kill(process.pid, signal.SIGKILL)
                with pytest.raises(ConnectionClosed):
                    while True:
                        await client.recv()
    assert len(set(epochs)) == 2


@pytest.mark.long
async def test_the_usual_port_may_be_taken_and_a_named_one_may_not(inventory: Path, forked: Ugro) -> None:
    with socket.create_server(("127.0.0.1", 0)) as ear:
        ended = await refused(forked, inventory, "--listen", f"127.0.0.1:{ear.getsockname()[1]}")
        assert (
            ended.returncode == 2 and "is in use" in ended.stderr and "ugro serve --listen 127.0.0.1:0" in ended.stderr
        )
    with socket.socket() as usual:
        usual.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            usual.bind(("127.0.0.1", 8470))
            usual.listen()
        except OSError:
            pass  # another program has it: as well
        async with serving(inventory) as (_, told):
            assert "watching here" in told and "no dashboard and no API: port 8470 is in use" in told
            assert "without a dashboard: port 8470 is in use" in await dashboard(forked, inventory)
            assert "no dashboard: port 8470 is in use" in (await another(forked, inventory, "status")).stdout


async def test_serves_no_http_where_none_is_wanted(inventory: Path, forked: Ugro) -> None:
    async with serving(inventory, "--no-http", lines=1) as (process, told):
        assert "watching here" in told
        assert process.stdout and "here joined" in (await process.stdout.readline()).decode()
        told = await dashboard(forked, inventory)
        assert "without a dashboard: it was started with --no-http" in told and f"`kill {process.pid}`" in told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--listen", "8470"), "HOST:PORT is expected"),
        (("--listen", "127.0.0.1:99999"), "HOST:PORT is expected"),
        (("--listen", "192.0.2.1:0"), "192.0.2.1:0 cannot be listened at"),
        (("--listen", "no such host:0"), "is no address of this machine"),
        (("--no-http", "--listen", "127.0.0.1:0"), "nothing to listen for"),
        (("--tls-key", __file__), "--tls-cert FILE"),
        (("--listen", "127.0.0.1:0", "--tls-cert", __file__), "cannot be used"),
    ],
)
async def test_says_what_is_wrong_with_the_place(
    inventory: Path, forked: Ugro, options: tuple[str, ...], told: str
) -> None:
    ended = await refused(forked, inventory, *options)
    assert ended.returncode == 2 and told in ended.stderr and "Traceback" not in ended.stderr


async def test_warns_of_tokens_in_plain_sight(inventory: Path) -> None:
    async with serving(inventory, "--listen", "0.0.0.0:0", lines=3) as (_, told):
        assert "is not encrypted" in told


async def test_a_token_that_others_read_is_not_used(inventory: Path, home: Path, forked: Ugro) -> None:
    Tokens.of(home / ".ugro")
    (home / ".ugro" / "token").chmod(0o644)
    ended = await refused(forked, inventory, "--listen", "127.0.0.1:0")
    assert ended.returncode == 4 and "chmod 600" in ended.stderr
