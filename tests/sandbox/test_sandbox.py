"""The sandbox as its users have it: a real daemon, real SSH, real processes."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import os
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import asyncssh
import psutil
import pytest

from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import AuthenticationFailed, HostKeyChanged, HostKeyUnknown, InputError, StateError, TurnedAway
from ugro.common.inventory_file import load_inventory
from ugro.nodes.pool import Pool
from ugro.nodes.transport import Outcome, ssh
from ugro.nodes.transport.ssh import SshTransport
from ugro.sandbox.cluster import Sandbox
from ugro.sandbox.files import PACKAGE_ROOT
from ugro.sandbox.machines import MACHINES
from ugro.sandbox.server import INHERITED, loopback
from ugro.sandbox.simulation import SimulatedGpu, SimulatedProcess

NODES = ["gpu-master", "gpu1", "gpu2"]

RANK_SCRIPT = """
import os, sys, time
held = b"x" * (150 << 20)
while time.process_time() < 0.4:
    pass
loader = os.fork()
if loader:
    print("ready", flush=True)
sys.stdin.read()
if loader:
    os.waitpid(loader, 0)
"""


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """One for all tests that do not stop it, in a folder whose name asks for quotes."""
    sandbox = Sandbox(tmp_path_factory.mktemp("room") / 'Ann\'s "first" sandbox')
    sandbox.up()
    yield sandbox
    sandbox.down()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Sandbox]:
    """A sandbox that a test may stop and break."""
    sandbox = Sandbox(tmp_path / "sandbox")
    yield sandbox
    sandbox.down()


@pytest.fixture
def inventory(sandbox: Sandbox) -> Inventory:
    return load_inventory(sandbox.status().inventory)


@pytest.fixture
async def pool(inventory: Inventory) -> AsyncIterator[Pool]:
    async with Pool(inventory) as pool:
        yield pool


async def say(sandbox: Sandbox, script: str, node: str = "gpu1") -> str:
    """What a script prints on a node, over a connection of its own."""
    async with Pool(load_inventory(sandbox.status().inventory)) as pool:
        return (await pool[node].run(script)).text


def connection(sandbox: Sandbox) -> AbstractAsyncContextManager[asyncssh.SSHClientConnection]:
    """A plain SSH connection to a node, as any client would make it."""
    connecting: AbstractAsyncContextManager[asyncssh.SSHClientConnection] = asyncssh.connect(
        sandbox.status().nodes[1].address, config=[sandbox.root / "ssh_config"]
    )
    return connecting


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def until_eof(released: asyncio.Event) -> AsyncIterator[bytes]:
    await released.wait()
    yield b"\n"


def rows(outcome: Outcome) -> list[dict[str, str]]:
    assert outcome.status == 0
    return list(csv.DictReader(outcome.text.splitlines(), skipinitialspace=True))


def test_status_names_what_runs(sandbox: Sandbox) -> None:
    status = sandbox.status()
    assert status.running and status.pid is not None and lives(status.pid)
    assert [node.name for node in status.nodes] == NODES
    assert [node.gpu for node in status.nodes] == [machine.gpu for machine in MACHINES]
    assert len({(node.address, node.port) for node in status.nodes}) == 3
    assert sandbox.environment() == {
        "UGRO_HOME": str(sandbox.root / "state"),
        "UGRO_INVENTORY": str(sandbox.root / "inventory.yaml"),
        "UGRO_SANDBOX_DIR": str(sandbox.root),
    }


def test_up_twice_changes_nothing(sandbox: Sandbox) -> None:
    before = sandbox.status()
    sandbox.up()
    assert sandbox.status() == before


async def test_every_node_has_its_own_home(sandbox: Sandbox, pool: Pool) -> None:
    seen = await pool.each(NODES, lambda node: node.run('touch mine; pwd; echo "$HOME"; echo "$UGRO_SANDBOX_NODE"'))
    for node, home in ((node.name, node.home) for node in sandbox.status().nodes):
        outcome = seen[node]
        assert isinstance(outcome, Outcome) and outcome.text.splitlines() == [str(home), str(home), node]
        assert (home / "mine").exists()


async def test_a_login_inherits_nothing_of_who_started_the_sandbox(pool: Pool) -> None:
    names = {line.partition("=")[0] for line in (await pool["gpu1"].run("env")).text.splitlines()}
    login = {"HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "PWD", "UGRO_SANDBOX", "UGRO_SANDBOX_NODE"}
    assert names - {*INHERITED, "_"} == login - {"LANG"} | {"UGRO_NVIDIA_PROC"}


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 42", 42), ("kill -9 $$", -9), ("kill -TERM $$", -15), ("nonesuch", 127)],
)
async def test_how_a_command_ended_is_told(pool: Pool, script: str, status: int) -> None:
    assert (await pool["gpu1"].run(script)).status == status


async def test_a_command_of_no_session_is_a_shell(sandbox: Sandbox) -> None:
    async with connection(sandbox) as ssh:
        ended = await ssh.run(input="echo $0 $HOME; exit 4\n")
        home = sandbox.status().nodes[1].home
        assert (ended.stdout, ended.exit_status) == (f"/bin/sh {home}\n", 4)


async def test_five_megabytes_pass_both_ways_unharmed(pool: Pool) -> None:
    data = os.urandom(5_000_000)
    back: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
    outcome = await pool["gpu1"].run(
        "tee /dev/stderr", data=data, on_output=lambda name, chunk: back[name].extend(chunk)
    )
    assert outcome.status == 0 and back["stdout"] == data and back["stderr"] == data


async def test_a_command_may_leave_its_input_unread(pool: Pool) -> None:
    outcome = await pool["gpu1"].run("head -c 5; exit 3", data=b"12345" * 1_000_000)
    assert (outcome.text, outcome.status) == ("12345", 3)


async def test_a_key_that_is_not_authorised_is_refused(inventory: Inventory, tmp_path: Path) -> None:
    key = tmp_path / "other"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(key)
    with pytest.raises(AuthenticationFailed):
        await run_once(inventory.node("gpu1").model_copy(update={"identity_file": str(key)}))


async def test_only_the_one_user_can_log_in(inventory: Inventory) -> None:
    with pytest.raises(AuthenticationFailed):
        await run_once(inventory.node("gpu1").model_copy(update={"user": "somebody-else"}))


@pytest.mark.parametrize("mixed_up", [False, True])
async def test_host_keys_are_strict(sandbox: Sandbox, inventory: Inventory, tmp_path: Path, mixed_up: bool) -> None:
    node = inventory.node("gpu1")
    lines = [line.split(" ", 1) for line in (sandbox.root / "known_hosts").read_text().splitlines()]
    known_hosts, config = tmp_path / "known_hosts", tmp_path / "ssh_config"
    known_hosts.write_text(f"[{node.address}]:{node.port} {lines[2][1]}\n" if mixed_up else "")
    config.write_text(f"UserKnownHostsFile {known_hosts}\n" + (sandbox.root / "ssh_config").read_text())
    with pytest.raises(HostKeyChanged if mixed_up else HostKeyUnknown):
        await run_once(node.model_copy(update={"ssh_config": str(config)}))


async def run_once(node: NodeConfig) -> None:
    transport = SshTransport(node)
    try:
        await transport.run("true")
    finally:
        await transport.close()


@contextlib.asynccontextmanager
async def busy(node: NodeConfig, turned_away: int) -> AsyncIterator[tuple[int, list[asyncio.Task[None] | None]]]:
    """A port before a node's where the first connections are closed unheard, as sshd does beyond MaxStartups."""
    seen: list[asyncio.Task[None] | None] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(asyncio.current_task())
        if len(seen) > turned_away:
            there, back = await asyncio.open_connection(node.address, node.port)
            await asyncio.gather(pump(reader, back), pump(there, writer))
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await source.read(65536):
                target.write(chunk)
        target.close()

    async with await asyncio.start_server(answer, node.address, 0) as server:
        yield server.sockets[0].getsockname()[1], seen
        await asyncio.wait(filter(None, seen))


def behind(node: NodeConfig, port: int, sandbox: Sandbox, folder: Path) -> NodeConfig:
    """The node as it is reached through another port, with its host key known there."""
    lines = [line.split(" ", 1) for line in (sandbox.root / "known_hosts").read_text().splitlines()]
    key = next(key for name, key in lines if name == f"[{node.address}]:{node.port}")
    (folder / "known_hosts").write_text(f"[{node.address}]:{port} {key}\n")
    config = f"UserKnownHostsFile {folder}/known_hosts\n" + (sandbox.root / "ssh_config").read_text()
    (folder / "ssh_config").write_text(config)
    return node.model_copy(update={"port": port, "ssh_config": str(folder / "ssh_config")})


async def test_a_node_that_turns_logins_away_is_tried_again(
    sandbox: Sandbox, inventory: Inventory, tmp_path: Path
) -> None:
    node = inventory.node("gpu1")
    async with busy(node, turned_away=3) as (port, seen):
        await run_once(behind(node, port, sandbox, tmp_path))
        assert len(seen) == 4


async def test_a_node_that_turns_every_login_away_says_so(
    sandbox: Sandbox, inventory: Inventory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "CONNECT_TIMEOUT", 1.0)
    node = inventory.node("gpu1")
    async with busy(node, turned_away=1000) as (port, seen):
        with pytest.raises(TurnedAway, match="closes new connections") as refusal:
            await run_once(behind(node, port, sandbox, tmp_path))
        assert len(seen) > 1 and "MaxStartups" in refusal.value.hint


async def test_twenty_commands_at_once_on_every_node(pool: Pool) -> None:
    async def numbers(node: str) -> list[str]:
        ended = await asyncio.gather(*(pool[node].run('sleep 0.05; echo "$1"', [str(i)]) for i in range(20)))
        return [outcome.text.strip() for outcome in ended]

    assert await asyncio.gather(*map(numbers, NODES)) == [[str(i) for i in range(20)]] * 3


async def test_the_eleventh_session_of_a_connection_is_refused(sandbox: Sandbox) -> None:
    async with connection(sandbox) as ssh:
        shells = [await ssh.create_process() for _ in range(10)]
        with pytest.raises(asyncssh.ChannelOpenError, match="open failed") as refusal:
            await ssh.run("true")
        assert refusal.value.code == asyncssh.OPEN_CONNECT_FAILED
        for shell in shells:
            shell.stdin.write_eof()
            await shell.wait_closed()
        assert (await ssh.run("true")).exit_status == 0


async def test_a_command_that_is_cancelled_while_it_begins_leaves_no_session(pool: Pool, sandbox: Sandbox) -> None:
    await pool["gpu2"].run("true")
    for moment in range(40):
        running = asyncio.create_task(pool["gpu2"].run("true", timeout=60))
        await asyncio.sleep(moment / 4000)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    daemon = psutil.Process(sandbox.status().pid)
    async with asyncio.timeout(20):
        while [one for one in daemon.children(recursive=True) if "head" in one.name()]:
            await asyncio.sleep(0.05)
    assert (await pool["gpu2"].run("echo there")).text == "there\n"


async def test_what_outlives_its_connection_is_left_alone(sandbox: Sandbox) -> None:
    async with connection(sandbox) as ssh:
        process = await ssh.create_process("echo $$; exec sleep 300")
        pid = int(await process.stdout.readline())
    # A later connection is served after the daemon has seen the end of this one.
    await say(sandbox, "true")
    assert lives(pid)
    await say(sandbox, f"kill {pid}")


async def test_an_unplugged_node_drops_and_refuses_and_what_runs_there_goes_on(own: Sandbox) -> None:
    own.up()
    port = own.status().nodes[1].port
    async with connection(own) as ssh:
        process = await ssh.create_process("echo $$; exec sleep 300")
        pid = int(await process.stdout.readline())
        own.unplug("gpu1")
        await ssh.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        await connection(own).__aenter__()
    assert await say(own, "echo here", "gpu2") == "here\n"
    own.unplug()
    assert await say(own, f"kill {pid} && echo it lived") == "it lived\n" and own.status().nodes[1].port == port
    with pytest.raises(InputError, match="no node of the sandbox is called 'gpu7'"):
        own.unplug("gpu7")
    own.down()
    with pytest.raises(StateError, match="is not up"):
        own.unplug("gpu1")


async def test_files_go_to_the_home_over_sftp(sandbox: Sandbox) -> None:
    async with connection(sandbox) as ssh, ssh.start_sftp_client() as sftp:
        await sftp.mkdir("sent")
        async with sftp.open("sent/file", "w") as file:
            await file.write("hello")
        home = sandbox.status().nodes[1].home
        assert await sftp.realpath(".") == str(home)
        assert (home / "sent" / "file").read_text() == "hello"


async def test_nvidia_smi_of_an_idle_node(pool: Pool) -> None:
    fields = (
        "index,uuid,name,memory.total,memory.used,memory.free,utilization.gpu,temperature.gpu,power.draw,power.limit,"
        "driver_version,mig.mode.current,pstate,fan.speed,compute_cap,pci.bus_id,persistence_mode,count,timestamp"
    )
    [gpu] = rows(await pool["gpu-master"].run(f"nvidia-smi --query-gpu={fields} --format=csv"))
    assert gpu["name"] == "NVIDIA GeForce RTX 5070 Ti" and gpu["index"] == "0" and gpu["uuid"].startswith("GPU-")
    assert gpu["memory.total [MiB]"] == "12227 MiB" and gpu["mig.mode.current"] == "[N/A]"
    assert 0 < int(gpu["memory.used [MiB]"].removesuffix(" MiB")) < 1000
    assert gpu["utilization.gpu [%]"] == "0 %" and gpu["temperature.gpu"].isdigit() and gpu["pstate"] == "P8"
    assert gpu["power.draw [W]"].endswith(" W") and gpu["power.limit [W]"] == "300.00 W"

    plain = "nvidia-smi --query-gpu memory.total,gpu_name -i 0 --format"
    assert (
        await pool["gpu1"].run(f"{plain} csv,nounits")
    ).text == "memory.total [MiB], name\n8188, NVIDIA GeForce RTX 4070\n"
    assert (await pool["gpu2"].run(f"{plain} csv,noheader")).text == "8192 MiB, NVIDIA GeForce RTX 3070 Ti\n"
    assert rows(await pool["gpu1"].run("nvidia-smi --query-compute-apps=gpu_uuid,pid --format=csv")) == []


async def test_nvidia_smi_lists_and_explains(sandbox: Sandbox, pool: Pool) -> None:
    uuid = json.loads((sandbox.root / "gpus.json").read_text())["gpu1"]
    assert (await pool["gpu1"].run("nvidia-smi -L")).text == f"GPU 0: NVIDIA GeForce RTX 4070 (UUID: {uuid})\n"
    assert "simulated" in (await pool["gpu1"].run("nvidia-smi --help")).text
    table = (await pool["gpu1"].run("nvidia-smi")).text.splitlines()
    assert "No running processes found" in table[-2] and {
        len(line) for line in table if line.startswith(("|", "+"))
    } == {91}


@pytest.mark.parametrize(
    ("arguments", "said", "status"),
    [
        ("--query-gpu=index,fan --format=csv", 'Field "fan" is not a valid field to query.\n\n', 2),
        ("--query-gpu=index", None, 2),
        ("-i 7", "No devices were found\n", 6),
        ("-L --query-gpu=index --format=csv", None, 2),
        ("--frobnicate", None, 2),
    ],
)
async def test_nvidia_smi_refuses_as_the_real_one(pool: Pool, arguments: str, said: str | None, status: int) -> None:
    outcome = await pool["gpu1"].run(f"nvidia-smi {arguments}")
    assert outcome.status == status and outcome.stderr == b"" and outcome.stdout
    assert said is None or outcome.text == said


async def test_a_rank_shows_on_its_gpu_and_its_data_loader_does_not(sandbox: Sandbox, pool: Pool) -> None:
    uuid = json.loads((sandbox.root / "gpus.json").read_text())["gpu1"]
    python = shlex.quote(str(load_inventory(sandbox.status().inventory).node("gpu1").python))
    ready, released = asyncio.Event(), asyncio.Event()
    script = f"export RANK=1 LOCAL_RANK=0 CUDA_VISIBLE_DEVICES={uuid}; {python} -c {shlex.quote(RANK_SCRIPT)}; exit $?"
    rank = asyncio.create_task(
        pool["gpu1"].run(script, data=until_eof(released), on_output=lambda *_: ready.set(), timeout=60)
    )
    await asyncio.wait_for(ready.wait(), 30)
    gpu_query = "nvidia-smi --query-gpu=memory.used,utilization.gpu,pstate --format=csv,nounits"
    app_query = "nvidia-smi --query-compute-apps=gpu_uuid,pid,process_name,used_memory --format=csv,nounits"
    [gpu] = rows(await pool["gpu1"].run(gpu_query))
    [app] = rows(await pool["gpu1"].run(app_query))
    assert int(gpu["utilization.gpu [%]"]) > 10 and gpu["pstate"] == "P2"
    assert app["gpu_uuid"] == uuid and "python" in app["process_name"]
    assert 400 < int(app["used_gpu_memory [MiB]"]) < 700
    assert abs(int(gpu["memory.used [MiB]"]) - int(app["used_gpu_memory [MiB]"])) < 20
    table = (await pool["gpu1"].run("nvidia-smi")).text.splitlines()
    assert app["pid"] in table[-2] and {len(line) for line in table if line.startswith(("|", "+"))} == {91}
    assert rows(await pool["gpu2"].run(app_query)) == []
    released.set()
    assert (await rank).status == 0
    assert rows(await pool["gpu1"].run(app_query)) == []


def test_the_simulated_nvidia_smi_imports_next_to_nothing() -> None:
    """It starts twice for every look at a node, and most of the standard library takes longer than its answer."""
    look = "import sys; known = set(sys.modules); sys.path.append(sys.argv[1]); import ugro.sandbox.nvidia_smi; "
    words = [sys.executable, "-I", "-S", "-c", look + "print(*set(sys.modules) - known)", str(PACKAGE_ROOT)]
    came = set(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split())
    of_os = {"os", "os.path", "posixpath", "genericpath", "stat", "_stat", "_collections_abc", "abc", "_abc", "time"}
    assert {name for name in came - of_os if name.partition(".")[0] != "ugro"} <= {"__future__"}


def test_no_gpu_has_more_in_use_than_it_has() -> None:
    ranks = tuple(SimulatedProcess(pid, 1, "python", 9000, 0.0, 0.0) for pid in (10, 11))
    gpu = SimulatedGpu(MACHINES[0], "GPU-1", ranks, 100)
    assert gpu.used_mib == MACHINES[0].memory_mib
    assert gpu.power_w < MACHINES[0].limit_w and gpu.temperature_c < 85


async def test_down_ends_everything_and_up_finds_keys_and_homes_again(own: Sandbox) -> None:
    own.up()
    detached = int(await say(own, "echo kept > note; nohup setsid sleep 300 >/dev/null 2>&1 </dev/null & echo $!"))
    stubborn = "trap '' TERM; echo $$; exec >/dev/null; while :; do sleep 1; done"
    unwilling = int(await say(own, f"setsid sh -c {shlex.quote(stubborn)} 2>/dev/null </dev/null & "))
    unmarked = int(
        await say(own, "sh -c 'env -i sleep 300 >/dev/null & echo $!; exec >/dev/null; wait' 2>/dev/null </dev/null &")
    )
    daemon = own.status().pid
    assert daemon and all(map(lives, (daemon, detached, unwilling, unmarked)))
    keys = [line.split()[2] for line in (own.root / "known_hosts").read_text().splitlines()]
    gpu = await say(own, "nvidia-smi -L")
    own.down()
    assert not any(map(lives, (daemon, detached, unwilling, unmarked)))
    assert not own.status().running and own.status().nodes[0].port is None
    assert not (own.root / "daemon.json").exists()
    own.down()
    own.up()
    assert await say(own, "cat note; nvidia-smi -L") == "kept\n" + gpu
    assert [line.split()[2] for line in (own.root / "known_hosts").read_text().splitlines()] == keys


def test_a_reused_pid_is_not_taken_for_the_daemon(own: Sandbox) -> None:
    own.root.mkdir()
    (own.root / "daemon.json").write_text(json.dumps({"pid": os.getpid(), "started": "1", "nodes": {}}))
    assert not own.status().running
    own.down()
    assert not (own.root / "daemon.json").exists()


def test_down_before_up_leaves_no_trace(own: Sandbox) -> None:
    own.down()
    assert not own.root.exists()


def test_a_start_that_fails_says_why_and_leaves_nothing(own: Sandbox) -> None:
    own.root.mkdir()
    (own.root / "client_key").write_text("garbage")
    with pytest.raises(StateError, match="Invalid private key") as failure:
        own.up()
    assert str(own.root / "daemon.log") in failure.value.hint
    assert not own.status().running


def test_a_root_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="Not a directory"):
        Sandbox(tmp_path / "file" / "sandbox").up()


@pytest.mark.parametrize("name", ["100%", "a:b", "${HOME}", "two\nlines"])
def test_a_root_that_ssh_cannot_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        Sandbox(tmp_path / name).up()
    assert not (tmp_path / name).exists()


def test_without_further_loopback_addresses_there_is_one() -> None:
    assert loopback("127.0.0.1") == "127.0.0.1"
    assert loopback("192.0.2.1") == "127.0.0.1"  # set aside for documentation: no machine has it
