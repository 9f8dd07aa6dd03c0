"""`ugro check` for real: this machine is looked at, the command is run, and two nodes on loopback try the network."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
from counting import STAND_IN
from places import QUICK

from ugro.common.config import Inventory, NodeConfig
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.preflight import Level, network_trial
from ugro.control_plane.preflight.network_report import NetworkReport
from ugro.control_plane.preflight.network_trial import check_network
from ugro.engines.ssh.engine import SshEngine
from ugro.nodes.pool import Pool
from ugro.nodes.remote.bundle import load
from ugro.nodes.remote.checkup.checkup import NodeReport, examine, sample_clock
from ugro.nodes.remote.checkup.machine import ask_machine, parse_machine
from ugro.nodes.transport import LocalTransport
from ugro.testing import builders
from ugro.testing.cluster import write_python
from ugro.testing.commands import Ugro

UUID = "GPU-5c1e0a7e-1111-2222-3333-444455556666"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What imports torch does it quickly, and computes with one thread."""
    monkeypatch.setenv("PYTHONPATH", str(QUICK))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


# --- asking this machine ---------------------------------------------------------------------------------------------


@pytest.fixture
async def here(home: Path) -> AsyncIterator[LocalTransport]:
    transport = LocalTransport(builders.this_machine(python=sys.executable))
    yield transport
    await transport.close()


async def examined(python: str) -> NodeReport:
    """This machine as a node with another python."""
    transport = LocalTransport(NodeConfig(name="here", address="127.0.0.1", python=python))
    try:
        return await examine(transport)
    finally:
        await transport.close()


@pytest.fixture
def programs(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose programs come first."""
    folder = home / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


async def test_examine_this_machine(here: LocalTransport, home: Path) -> None:
    (home / "json.py").write_text("raise SystemExit('a file in the home folder is no library')")
    seen = await examine(here)
    assert seen.unread == {}
    assert seen.view and seen.machine and seen.python and seen.clock
    assert seen.machine.complete and "lo" in seen.machine.interfaces and seen.machine.user
    assert seen.python.python == ".".join(map(str, sys.version_info[:3])) and seen.python.torch
    assert abs(seen.clock.offset) < 0.1 and seen.clock.uncertainty < 0.1
    assert sorted(path.name for path in home.iterdir()) == ["json.py"]


async def test_a_node_without_that_python_still_tells_the_rest(home: Path) -> None:
    seen = await examined("~/none/bin/python")
    assert seen.python is None and seen.machine and seen.view
    assert "~/none/bin/python cannot be run there" in seen.unread["python"].message


async def test_a_python_without_torch(home: Path) -> None:
    program(home, "bare", f'exec {sys.executable} -S "$@"')
    seen = await examined("~/bare")
    assert seen.python and seen.python.torch is None and seen.python.torch_error is None


async def test_a_python_whose_torch_breaks(home: Path) -> None:
    torch = home / "lib/torch"
    torch.mkdir(parents=True)
    (torch / "__init__.py").write_text("print('hello')\nimport ctypes\nctypes.CDLL('libnone.so.12')\n")
    program(home, "broken", f'PYTHONPATH={home}/lib exec {sys.executable} "$@"')
    program(home, "crashing", "cat > /dev/null; kill -SEGV $$")
    seen = await examined("~/broken")
    assert seen.python and "libnone.so.12" in (seen.python.torch_error or "")
    seen = await examined("~/crashing")
    assert seen.python is None and "~/crashing broke while it imported torch" in seen.unread["python"].message


async def test_a_clock_that_is_wrong(here: LocalTransport, programs: Path) -> None:
    program(programs, "date", f"exec {shutil.which('date')} -d '+100 seconds' \"$@\"")
    clock = await sample_clock(here)
    assert clock and clock.offset == pytest.approx(100, abs=1)


async def test_no_clock_at_all(here: LocalTransport, programs: Path) -> None:
    program(programs, "date", "echo nonsense")
    assert await sample_clock(here) is None


async def test_a_clock_that_hangs_does_not(
    here: LocalTransport, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ugro.nodes.remote.checkup.checkup.REPLY_TIMEOUT", 0.2)
    program(programs, "date", "exec sleep 1.5")
    assert await sample_clock(here) is None


async def test_what_logind_nvidia_smi_and_hostile_programs_say(here: LocalTransport, programs: Path) -> None:
    program(programs, "loginctl", "printf 'KillUserProcesses=yes\\nKillExcludeUsers=nobody\\n@x user mallory\\n'")
    program(programs, "busctl", "echo 's \"na\"'")
    program(programs, "timedatectl", "printf 'NTPSynchronized=no\\nmore\\n'")
    program(
        programs,
        "nvidia-smi",
        'case "$*" in *compute_cap*) echo "Field compute_cap is not a valid field to query."; exit 2;; esac\n'
        f"printf '{UUID}, Enabled\\n'",
    )
    seen = await ask_machine(here, with_gpus=True)
    assert seen.kills_at_logout and seen.power.can_sleep is False and seen.clock_synchronized is False
    assert seen.persistence == {UUID: True} and seen.compute_caps == {} and seen.complete
    assert seen.user != "mallory"


async def test_what_was_said_before_something_hung_counts(
    here: LocalTransport, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ugro.nodes.remote.checkup.machine.TIMEOUT", 1.0)
    program(programs, "nvidia-smi", "exec sleep 2")
    seen = await ask_machine(here, with_gpus=True)
    assert not seen.complete and seen.interfaces


@pytest.mark.parametrize("shell", [["dash"], ["busybox", "sh"], ["bash", "--posix"]])
def test_the_script_in_other_shells(shell: list[str]) -> None:
    if not shutil.which(shell[0]):
        pytest.skip(f"no {shell[0]} here")
    done = subprocess.run(
        [*shell, "-c", load("checkup/checkup.sh"), "sh", "N"], capture_output=True, text=True, timeout=30
    )
    parsed = parse_machine(done.stdout, "N")
    assert parsed and parsed.complete and parsed.shm_mib is not None and "lo" in parsed.interfaces


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def checked(home: Path, forked: Ugro) -> Ugro:
    """Runs `ugro check` with an inventory."""

    def run(inventory: str, *args: str) -> subprocess.CompletedProcess[str]:
        (home / "inventory.yaml").write_text(inventory)
        return forked("check", *args, cwd=home, env=dict(os.environ))

    return run


def test_the_command_as_json(home: Path, checked: Ugro) -> None:
    (home / "stand-in").mkdir()
    (home / "stand-in/torch.py").write_text(STAND_IN)
    program(home, "python", f'PYTHONPATH={home}/stand-in exec {sys.executable} "$@"')
    done = checked(f"nodes: {{here: {{address: 127.0.0.1, local: true, python: {home}/python}}}}", "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0 and done.stderr == "" and set(document) == {"schema_version", "nodes", "findings"}
    (seen,) = document["nodes"]
    assert seen["name"] == "here" and seen["reachable"] and seen["error"] is None
    assert seen["python"]["torch"] and seen["machine"]["interfaces"] and abs(seen["clock"]["offset"]) < 0.1
    assert {"level", "node", "subject", "text", "hint"} == set(document["findings"][0])
    assert not (home / ".ugro").exists()


def test_the_command_for_people(checked: Ugro) -> None:
    inventory = """
    nodes:
      here: {address: 127.0.0.1, local: true, python: /none/python}
      gone: {address: 127.0.0.1, port: 1}
    """
    done = checked(inventory)
    assert done.returncode == 3 and done.stderr == ""
    assert "here (127.0.0.1)\n  ✓ answers, and its clock is right\n  ✗ python /none/python cannot be run" in done.stdout
    assert "gone (127.0.0.1)\n  ✗ 127.0.0.1:1 refuses connections\n      is sshd running there" in done.stdout
    assert done.stdout.endswith("2 nodes: 2 problems, no warnings\n")
    assert checked(inventory, "--on", "here").returncode == 1
    done = checked(inventory, "--on", "here", "--network")
    assert done.returncode == 2 and "a network has at least two nodes" in done.stderr
    done = checked(inventory, "--network")
    assert done.returncode == 3 and "the network was not measured: that needs two nodes" in done.stdout


# --- the trial of the network ----------------------------------------------------------------------------------------


@pytest.fixture
def pair(home: Path) -> Inventory:
    """Two nodes that are both this machine, one with a home folder that is new."""
    (home / "n1").mkdir()
    return Inventory(
        nodes={
            name: NodeConfig(name=name, address="127.0.0.1", base_dir=f"~/{name}/base", python=sys.executable)
            for name in ("n1", "n2")
        }
    )


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    """No process that a test started, here or on a simulated node, outlives it."""
    yield
    home = tmp_path / "home"
    left = _processes_of(home) if home.exists() else []
    end = time.monotonic() + 5  # what is bound by `timeout` may take a moment
    while left and time.monotonic() < end:
        time.sleep(0.1)
        left = _processes_of(home)
    for process in left:
        process.kill()
    assert left == []


def _processes_of(home: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get("HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE
    ]


@pytest.fixture
def quick_pair(pair: Inventory, home: Path) -> Inventory:
    """The same nodes with a torchrun that starts its rank without torch: what a test replaced needs none."""
    python = str(write_python(home / "python"))
    nodes = {name: node.model_copy(update={"python": python}) for name, node in pair.nodes.items()}
    return pair.model_copy(update={"nodes": nodes})


async def trial(inventory: Inventory, home: Path) -> NetworkReport:
    async with Pool(inventory, connect=LocalTransport) as pool:
        store = MetadataStore(home / ".ugro")
        engine = SshEngine(inventory, pool, store.clock, store.config.master)
        return await check_network(engine, pool, list(inventory.nodes), {})


def replace_program(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(network_trial, "load", lambda _: text)


@pytest.mark.long
async def test_two_nodes(pair: Inventory, home: Path) -> None:
    measured = await trial(pair, home)
    assert [finding for finding in measured.findings if finding.level == Level.PROBLEM] == []
    assert {(link.source, link.target) for link in measured.links} == {("n1", "n2"), ("n2", "n1")}
    assert all(0 < link.latency_ms < 1000 and link.gbit_per_s > 0 for link in measured.links)
    assert measured.all_reduce and measured.all_reduce.bus_gbit_per_s > 0
    assert measured.backend == "gloo" and measured.interfaces == {"n1": "lo", "n2": "lo"}
    assert measured.meets_at and measured.meets_at.startswith("127.0.0.1:")
    assert sorted(path.relative_to(home).as_posix() for path in home.rglob("*")) == ["n1", "n2"]


async def test_a_rank_that_fails(quick_pair: Inventory, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_program(
        monkeypatch,
        "import os, time\nif os.environ['RANK'] == '1':\n    print('some words')\n    raise OSError('no such device')\n"
        "time.sleep(600)\n",
    )
    measured = await trial(quick_pair, home)
    (finding,) = measured.findings
    assert (finding.level, finding.node) == (Level.PROBLEM, "n2")
    assert finding.text == "the trial failed on n2: OSError: no such device"
    assert finding.hint.splitlines()[-1] == "n2 | OSError: no such device"
    assert measured.all_reduce is None and not list(home.rglob("check-*"))


async def test_a_rank_that_hangs(quick_pair: Inventory, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_trial, "LIMIT", 8.0)
    replace_program(
        monkeypatch,
        "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if os.environ['RANK'] == '0':\n    print('UGRO-NETWORK {\"joined\": 0}', flush=True)\n"
        "else:\n    print('still thinking', flush=True)\ntime.sleep(600)\n",
    )
    started = time.monotonic()
    (finding,) = (await trial(quick_pair, home)).findings
    assert time.monotonic() - started < 20
    assert finding.text.startswith("no result within 8 s: n2 did not join the others at 127.0.0.1:")
    assert "n2 | still thinking" in finding.hint.splitlines()
    assert not list(home.rglob("check-*"))


async def test_a_node_that_cannot_start(pair: Inventory, home: Path) -> None:
    broken = pair.nodes["n2"].model_copy(update={"python": "/none/python"})
    inventory = pair.model_copy(update={"nodes": {**pair.nodes, "n2": broken}})
    (finding,) = (await trial(inventory, home)).findings
    assert finding.node == "n2" and "/none/python cannot be run" in finding.text
    assert not list(home.rglob("check-*"))


async def test_an_interrupt_leaves_nothing(quick_pair: Inventory, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_program(monkeypatch, "import time\ntime.sleep(600)\n")
    running = asyncio.create_task(trial(quick_pair, home))
    while len(list(home.rglob("rank-*.pid"))) < 2:
        await asyncio.sleep(0.1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not list(home.rglob("check-*"))


def test_ranks_of_a_dead_master_end_by_themselves() -> None:
    code = load("network/network.py").replace("dist.init_process_group", "time.sleep(60); dist.init_process_group")
    done = subprocess.run(
        [sys.executable, "-c", code, "gloo", "30", "1"], env={**os.environ, "RANK": "0", "WORLD_SIZE": "1"}, timeout=30
    )
    assert done.returncode == -signal.SIGALRM
