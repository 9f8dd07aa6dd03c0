"""A command of the user ends with its client, over a real sshd too."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress

import pytest

from tests.unit.nodes.code_sync.test_code_sync import remote, server  # noqa: F401 - fixtures
from ugro.common.errors import LinkLost
from ugro.nodes.remote.command.command import run_command
from ugro.nodes.transport.ssh import SshTransport


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
