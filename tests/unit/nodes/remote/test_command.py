"""A command of the user ends with its client, over a real sshd too."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from tests.unit.nodes.code_sync.test_code_sync import remote, server  # noqa: F401 - fixtures
from ugro.common.errors import LinkLost
from ugro.nodes.remote.command.command import run_command
from ugro.nodes.transport import LocalTransport, Transport
from ugro.nodes.transport.ssh import SshTransport
from ugro.testing import builders


def lives(group: int) -> bool:
    with suppress(ProcessLookupError):
        os.killpg(group, 0)
        return True
    return False


async def test_ends_with_the_connection(remote: SshTransport) -> None:  # noqa: F811
    said, printed = asyncio.get_running_loop().create_future(), bytearray()

    def take(stream: str, data: bytes) -> None:
        printed.extend(data)
        if b"\n" in printed and not said.done():
            said.set_result(int(printed))

    running = asyncio.create_task(run_command(remote, ["echo $$; sleep 300 & sleep 300"], take))
    group = await said
    assert lives(group)
    await remote.close()  # as where this process is killed
    with pytest.raises(LinkLost):
        await running
    async with asyncio.timeout(60):
        while lives(group):
            await asyncio.sleep(0.05)


async def test_leaves_background_processes_of_an_ended_command_running(remote: SshTransport) -> None:  # noqa: F811
    outcome = await run_command(remote, ["sleep 300 >/dev/null 2>&1 & echo $!; kill -9 $$"])
    os.kill(int(outcome.text), signal.SIGTERM)
    assert outcome.status == -9
    assert (await run_command(remote, ("printf", "%s|", "$HOME", "a b"))).text == "$HOME|a b|"


# --- with something on its stdin -------------------------------------------------------------------------------------

HOSTILE = bytes(range(256)) * 4096 + b"0\n7\n\x00"


async def given(*chunks: bytes, ends: bool = True) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    if not ends:
        await asyncio.Event().wait()


@pytest.fixture(params=["ssh", "local"])
def transport(request: pytest.FixtureRequest) -> Transport:
    if request.param == "local":
        return LocalTransport(builders.this_machine())
    found: Transport = request.getfixturevalue("remote")
    return found


async def test_passes_on_what_it_is_given(transport: Transport) -> None:
    async with asyncio.timeout(60):
        chunks = [HOSTILE[at : at + 65536] for at in range(0, len(HOSTILE), 65536)]
        outcome = await run_command(transport, ("cat",), given=given(*chunks))
        assert outcome.stdout == HOSTILE and outcome.status == 0
        assert (await run_command(transport, ["cat; exit 7"], given=given())).status == 7
        assert (await run_command(transport, ("cat",))).stdout == b""


async def test_ends_with_the_command_though_what_it_is_given_does_not(transport: Transport) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield HOSTILE
            await asyncio.sleep(0)

    async with asyncio.timeout(60):
        assert (
            await run_command(transport, ["read -r line; echo $line"], given=given(b"a b\n", ends=False))
        ).text == "a b\n"
        assert (await run_command(transport, ("true",), given=given(ends=False))).status == 0
        assert (await run_command(transport, ("head", "-c", "3"), given=endless())).stdout == HOSTILE[:3]
        assert (await run_command(transport, ["exec <&-; sleep 0.2; echo done"], given=endless())).text == "done\n"


async def test_a_command_with_input_ends_with_its_client(remote: SshTransport) -> None:  # noqa: F811
    said = asyncio.get_running_loop().create_future()

    def take(stream: str, data: bytes) -> None:
        if stream == "stdout" and not said.done():
            said.set_result(int(data))

    waiting = given(b"x\n", ends=False)
    running = asyncio.create_task(run_command(remote, ["read x; ps -o pgid= $$; sleep 300"], take, waiting))
    group = await said
    await remote.close()
    with pytest.raises(LinkLost):
        await running
    async with asyncio.timeout(60):
        while lives(group):
            await asyncio.sleep(0.05)


async def test_tells_what_cannot_be_read(transport: Transport) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"a"
        raise ValueError("unreadable")

    async with asyncio.timeout(60):
        with pytest.raises(ValueError, match="unreadable"):
            await run_command(transport, ("cat",), given=broken())
