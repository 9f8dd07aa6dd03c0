"""`ugro check`: what nodes say, what it means, and a real trial of the network on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import NodeRefused, Unreachable
from ugro.common.models import Gpu, GpuProcess, NodeView
from ugro.control_plane import network_check
from ugro.control_plane.checkup import Finding, Level, Report, judge, judge_state
from ugro.control_plane.checkup.software import compare_gpus, fits
from ugro.control_plane.launcher import Launcher
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.network_check import check_network
from ugro.control_plane.network_report import Facts, NetworkReport, hung, idle_gpus, last_words, slow_links
from ugro.nodes.checkup import Clock, NodeReport, PythonFacts, Way, clock_sample, examine, find_way, sample_clock
from ugro.nodes.machine import Machine, Power, ask_machine, parse_machine
from ugro.nodes.pool import Pool
from ugro.nodes.scripts import load
from ugro.nodes.transport import LocalTransport

UUID = "GPU-5c1e0a7e-1111-2222-3333-444455556666"
GPU = Gpu(index=0, uuid=UUID, name="NVIDIA GeForce RTX 4090", memory_total_mib=24564, driver="550.54.15")
VIEW = NodeView(
    node="gpu1", seen_at=0, boot_id="b", clock_offset=0, cpu_count=16, disk_free_mib=300 * 1024, gpus=(GPU,)
)  # fmt: skip
PYTHON = PythonFacts(
    python="3.11.7", executable="/opt/train/bin/python", torch="2.6.0+cu124", torch_error=None, distributed=True,
    cuda="12.4", cuda_available=True, cuda_error=None, devices=1, nccl="2.21.5",
    archs=("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"),
)  # fmt: skip
MACHINE = Machine(
    user="ob", shm_mib=16000, open_files=1048576, rsync=True, interfaces=("lo", "enp5s0"), kills_at_logout=False,
    persistence={UUID: True}, compute_caps={UUID: "8.9"},
)  # fmt: skip
GOOD = NodeReport(
    clock=Clock(offset=0.003, uncertainty=0.001), view=VIEW, machine=MACHINE, python=PYTHON,
    way=Way(address="192.168.1.101", interface="enp5s0"),
)  # fmt: skip

LAPTOP = """
chatter of a login shell
@other user mallory
@N user ob
@N open_files 1024
@N shm 2031616 4096
@N interface enp5s0
@N interface lo
@N interface wlp3s0
@N wireless wlp3s0
@N supply Mains - 0 - -
@N supply Battery System - 63 Discharging
@N supply Battery Device 1 20 Not charging
@N lid
@N chassis 10
@N logind EnableWallMessages=no
@N logind KillUserProcesses=no
@N logind RemoveIPC=yes
@N logind HandleLidSwitch=suspend
@N logind HandleLidSwitchExternalPower=ignore
@N logind HandleLidSwitchDocked=ignore
@N logind IdleAction=ignore
@N logind IdleActionUSec=30min
@N logind Docked=no
@N can_suspend s "challenge"
@N ntp NTPSynchronized=yes
@N gnome_ac_type 'nothing'
@N gnome_ac_timeout 3600
@N gnome_battery_type 'suspend'
@N gnome_battery_timeout 900
@N gpu GPU-5c1e0a7e-1111-2222-3333-444455556666, Disabled, 8.9
@N gpu a complaint of nvidia-smi
@N end
"""


def node(name: str = "gpu1", **keys: Any) -> NodeConfig:
    return NodeConfig(name=name, address="192.168.1.101", **keys)


def report(**changes: Any) -> NodeReport:
    return NodeReport(**{**vars(GOOD), **changes})


def machine(**changes: Any) -> NodeReport:
    return report(machine=MACHINE.model_copy(update=changes))


def python(**changes: Any) -> NodeReport:
    return report(python=PYTHON.model_copy(update=changes))


def found(reports: Report | Mapping[str, Report], *levels: Level, **keys: Any) -> list[Finding]:
    """The findings of these levels; all but the good ones if none are named."""
    by_name = reports if isinstance(reports, Mapping) else {"gpu1": reports}
    wanted = levels or (Level.INFO, Level.WARNING, Level.PROBLEM)
    return [finding for finding in judge([node(name, **keys) for name in by_name], by_name) if finding.level in wanted]


def only(reports: Report | Mapping[str, Report], **keys: Any) -> Finding:
    """The one finding there should be."""
    findings = found(reports, **keys)
    assert len(findings) == 1, findings
    return findings[0]


# --- judging ---------------------------------------------------------------------------------------------------------


def test_a_good_node_has_nothing_but_good_findings() -> None:
    assert found(GOOD) == []
    assert [finding.text for finding in found(GOOD, Level.OK)] == [
        "answers, and its clock is right",
        "python 3.11.7 with torch 2.6.0+cu124 for CUDA 12.4, NCCL 2.21.5",
        "NVIDIA GeForce RTX 4090 (24.0 GiB), driver 550.54.15",
        "300.0 GiB free for ~/.ugro",
        "what is started there outlives the connection",
        "trains over enp5s0",
    ]


def test_an_unreachable_node_keeps_its_own_hint() -> None:
    finding = only(Unreachable("gpu1", "192.168.1.101 does not answer", "is the machine on?"))
    assert (finding.level, finding.subject) == (Level.PROBLEM, "reachable")
    assert (finding.text, finding.hint) == ("192.168.1.101 does not answer", "is the machine on?")


def test_a_laptop_on_battery_with_wifi() -> None:
    parsed = parse_machine(LAPTOP, "N")
    assert parsed is not None
    findings = found(report(machine=parsed, way=Way(address="10.0.0.7", interface="wlp3s0")))
    assert [(finding.level, finding.text) for finding in findings] == [
        ("info", "persistence mode is off (NVIDIA GeForce RTX 4090): each look at the GPU may take seconds"),
        ("info", "no rsync there: code is sent through SSH itself, which works as well"),
        ("warning", "it runs on battery (63 %), which also slows its GPU"),
        ("warning", "a laptop: closing the lid means suspend"),
        ("warning", "its desktop (GNOME) suspends it after 15m 00s without keyboard and mouse"),
        ("warning", "trains over Wi-Fi (wlp3s0)"),
    ]
    assert all(finding.hint for finding in findings if finding.level == Level.WARNING)


@pytest.mark.parametrize(
    ("power", "said"),
    [
        (Power(laptop=True, lid=True, lid_action="ignore"), []),
        (Power(laptop=True, lid=True, lid_action="suspend", can_sleep=False), []),
        (Power(laptop=True, lid=True), ["a laptop: what closing the lid does could not be read"]),
        (Power(idle_action="suspend", idle_after="30min"), ["idle means suspend after 30min (logind's IdleAction)"]),
        (Power(idle_action="lock"), []),
    ],
)
def test_sleep(power: Power, said: list[str]) -> None:
    assert [finding.text for finding in found(machine(power=power))] == said


@pytest.mark.parametrize(
    ("offset", "uncertainty", "said"),
    [
        (0.4, 0.001, None),
        (-4.0, 2.5, None),
        (42.25, 0.01, "its clock is 42.2 s ahead of this machine's"),
        (-7200.0, 0.5, "its clock is 2h 00m behind this machine's"),
    ],
)
def test_a_skewed_clock(offset: float, uncertainty: float, said: str | None) -> None:
    findings = found(report(clock=Clock(offset=offset, uncertainty=uncertainty)))
    assert [finding.text for finding in findings] == ([said] if said else [])


def test_a_skewed_clock_is_explained() -> None:
    skewed = report(
        clock=Clock(offset=3, uncertainty=0), machine=MACHINE.model_copy(update={"clock_synchronized": False})
    )
    assert only(skewed).text == "its clock is 3.0 s ahead of this machine's, and is not synchronized"


@pytest.mark.parametrize(
    ("given", "level", "words"),
    [
        (python(torch=None, cuda=None), "problem", "python 3.11.7 has no torch (/opt/train/bin/python)"),
        (python(torch=None, torch_error="libcudart.so.12: cannot open"), "problem", "cannot be imported: libcudart"),
        (python(distributed=False), "problem", "built without torch.distributed"),
        (python(torch="2.6.0+cpu", cuda=None, nccl=None), "problem", "built without CUDA"),
        (python(cuda_available=False, cuda_error="driver is too old"), "problem", "cannot use the GPU: driver is too"),
        (python(cuda_available=None), None, ""),
        (python(devices=0), "warning", "torch sees 0 of 1 GPUs"),
        (machine(compute_caps={UUID: "12.0"}), "problem", "has no code for NVIDIA GeForce RTX 4090 (sm_120), only for"),
        (machine(compute_caps={}), None, ""),
        (machine(shm_mib=64), "warning", "/dev/shm has only 64 MiB"),
        (machine(shm_mib=None), "warning", "there is no /dev/shm"),
        (machine(open_files=256), "warning", "only 256 open files"),
        (machine(kills_at_logout=None), None, ""),
        (machine(kills_at_logout=True), "problem", "logind ends what ob leaves (KillUserProcesses)"),
        (machine(complete=False), "warning", "did not answer everything in time"),
        (report(python=None, unread={"python": NodeRefused("gpu1", "python x cannot be run")}), "problem", "python x"),
        (report(view=VIEW.model_copy(update={"disk_free_mib": 9000})), "warning", "only 8.8 GiB free for ~/.ugro"),
        (report(view=VIEW.model_copy(update={"disk_free_mib": 1000})), "problem", "only 1000 MiB free"),
        (report(view=VIEW.model_copy(update={"gpus": (), "gpu_problem": "No devices"})), "problem", "No devices"),
        (report(view=VIEW.model_copy(update={"gpus": ()})), "info", "no NVIDIA GPU"),
    ],
)
def test_one_thing_wrong(given: NodeReport, level: str | None, words: str) -> None:
    findings = found(given)
    assert [finding.level for finding in findings] == ([level] if level else [])
    assert all(words in finding.text and finding.node == "gpu1" for finding in findings)
    assert all(finding.hint for finding in findings if finding.level in ("warning",))


def test_lost_and_split_gpus() -> None:
    gpus = (GPU.model_copy(update={"problem": "GPU is lost"}), Gpu(index=1, uuid="GPU-2", name="A100", mig=True))
    findings = found(report(view=VIEW.model_copy(update={"gpus": gpus}), python=None))
    assert [(finding.level, finding.text) for finding in findings] == [
        ("problem", "NVIDIA GeForce RTX 4090: GPU is lost"),
        ("warning", "A100 is split (MIG), so no job gets it"),
    ]


def test_simulated_gpus_are_no_problem() -> None:
    cpu = PYTHON.model_copy(update={"cuda": None, "nccl": None, "cuda_available": None})
    given = report(python=cpu, machine=MACHINE.model_copy(update={"simulated": True}))
    assert only(given).level == Level.INFO


def test_gpus_against_the_inventory() -> None:
    one, two = GPU, Gpu(index=1, uuid="GPU-77", name="NVIDIA GeForce RTX 3090")
    assert compare_gpus([], [one]) == ([], [])
    assert compare_gpus(["RTX", "rtx 4090"], [one, two]) == ([], [])
    assert compare_gpus(["GPU-5c1e0a7e"], [one, two]) == ([], [two])
    assert compare_gpus(["RTX 4090", "RTX 4090"], [one, two]) == (["RTX 4090"], [two])
    assert "expects a GPU 'RTX 5090' that is not there" in found(GOOD, gpus=("RTX 5090",))[0].text


@pytest.mark.parametrize(
    ("archs", "capability", "runs"),
    [
        (["sm_80", "sm_86"], "8.6", True),
        (["sm_80"], "8.9", True),
        (["sm_86"], "8.0", False),
        (["sm_50", "sm_90"], "12.0", False),
        (["sm_90", "sm_120"], "12.0", True),
        (["sm_90", "compute_90"], "12.0", True),
        (["sm_90a"], "9.0", True),
        (["sm_100a", "compute_100a"], "10.3", False),
        (["sm_100f"], "10.3", True),
        (["gfx90a"], "9.0", False),
    ],
)
def test_compiled_architectures(archs: list[str], capability: str, runs: bool) -> None:
    assert fits(archs, capability) is runs


def test_interfaces() -> None:
    assert "there is no interface eth7" in only(GOOD, interface="eth7").text
    assert "Wi-Fi (wlan0)" in only(machine(interfaces=("wlan0",), wireless=("wlan0",)), interface="wlan0").text
    assert found(machine(wireless=("wlan0",))) == []


def test_nodes_that_agree() -> None:
    across = [finding for finding in found({"a": GOOD, "b": GOOD}, Level.OK) if finding.node is None]
    assert [finding.text for finding in across] == [
        "the same everywhere: python 3.11, torch 2.6.0, CUDA 12.4, NCCL 2.21.5"
    ]


def test_nodes_that_disagree_name_who_has_what() -> None:
    other = python(python="3.10.12", torch="2.5.1+cu121", cuda="12.1", nccl="2.20.5")
    findings = found({"gpu-master": GOOD, "gpu1": other, "gpu2": GOOD})
    assert [(finding.level, finding.node, finding.text) for finding in findings] == [
        ("warning", None, "python is not the same: 3.11 on gpu-master, gpu2; 3.10 on gpu1"),
        ("problem", None, "torch is not the same: 2.6.0 on gpu-master, gpu2; 2.5.1 on gpu1"),
        ("warning", None, "CUDA is not the same: 12.4 on gpu-master, gpu2; 12.1 on gpu1"),
        ("problem", None, "NCCL is not the same: 2.21.5 on gpu-master, gpu2; 2.20.5 on gpu1"),
    ]


def test_who_has_no_torch_has_no_say_and_builds_of_one_version_agree() -> None:
    cpu = report(view=None, python=PYTHON.model_copy(update={"torch": "2.6.0+cpu", "cuda": None, "nccl": None}))
    none = python(torch=None, cuda=None, nccl=None)
    findings = [finding for finding in found({"a": GOOD, "b": cpu, "c": none}) if finding.node is None]
    assert [finding.text for finding in findings] == ["CUDA is not the same: 12.4 on a; none on b"]


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "fuseblk", "v9fs", "smb2", None])
def test_state_on_a_remote_disk(kind: str | None) -> None:
    assert judge_state("/home/ob/.ugro", kind).level == Level.PROBLEM


@pytest.mark.parametrize("kind", ["ext2/ext3", "xfs", "btrfs", "tmpfs", "overlayfs", "zfs"])
def test_state_on_a_local_disk(kind: str) -> None:
    assert judge_state("/home/ob/.ugro", kind).level == Level.OK


# --- parsing ---------------------------------------------------------------------------------------------------------


def test_what_a_laptop_says() -> None:
    parsed = parse_machine(LAPTOP, "N")
    assert parsed == Machine(
        user="ob", open_files=1024, shm_mib=7936, rsync=False, interfaces=("enp5s0", "lo", "wlp3s0"),
        wireless=("wlp3s0",), clock_synchronized=True, kills_at_logout=False, persistence={UUID: False},
        compute_caps={UUID: "8.9"},
        power=Power(
            laptop=True, lid=True, lid_action="suspend", on_battery=True, battery_percent=63, can_sleep=True,
            idle_action="ignore", idle_after="30min", desktop_sleep=900,
        ),
    )  # fmt: skip


def test_a_plugged_in_laptop_follows_its_other_settings() -> None:
    parsed = parse_machine(LAPTOP.replace("Mains - 0", "Mains - 1"), "N")
    assert parsed and not parsed.power.on_battery
    assert (parsed.power.lid_action, parsed.power.desktop_sleep) == ("ignore", None)


@pytest.mark.parametrize("line", ["masked sleep", 'can_suspend s "na"'])
def test_a_machine_that_cannot_sleep(line: str) -> None:
    parsed = parse_machine(LAPTOP.replace('@N can_suspend s "challenge"', f"@N {line}"), "N")
    assert parsed and parsed.power.can_sleep is False


@pytest.mark.parametrize(
    ("lines", "kills"),
    [
        ([], None),
        (["KillUserProcesses=yes", "KillExcludeUsers=root"], True),
        (["KillUserProcesses=yes"], True),
        (["KillUserProcesses=yes", "KillExcludeUsers=root ob"], False),
        (["KillUserProcesses=yes", "KillOnlyUsers=eve"], False),
        (["KillUserProcesses=no", "KillOnlyUsers=ob"], True),
        (["KillUserProcesses=no"], False),
    ],
)
@pytest.mark.parametrize("linger", ["", "@N linger\n"])
def test_who_is_killed_at_logout(lines: list[str], kills: bool | None, linger: str) -> None:
    output = "@N user ob\n" + linger + "".join(f"@N logind {line}\n" for line in lines)
    parsed = parse_machine(output, "N")
    assert parsed and parsed.kills_at_logout is kills and parsed.linger is bool(linger)


@pytest.mark.parametrize("output", ["", "@N open_files 3\n", "@M user ob\n", "\0\xff"])
def test_an_answer_that_says_nothing(output: str) -> None:
    assert parse_machine(output, "N") is None


def test_an_answer_that_makes_no_sense() -> None:
    output = "@N user \n@N shm x y z\n@N open_files unlimited\n@N supply Battery\n@N chassis\n@N ntp\n@N gpu\n@N"
    parsed = parse_machine(output, "N")
    assert parsed == Machine(user="", complete=False)


@pytest.mark.parametrize(
    ("reply", "offset", "uncertainty"),
    [
        (b"1000.250000000\n", 0.2, 0.05),
        (b"1000.N\n", 0.45, 0.55),
        (b"1000.%N\n", 0.45, 0.55),
        (b"1000.\n", 0.45, 0.55),
    ],
)
def test_clock_samples(reply: bytes, offset: float, uncertainty: float) -> None:
    sample = clock_sample(1000.0, 1000.1, reply)
    assert sample and sample.offset == pytest.approx(offset) and sample.uncertainty == pytest.approx(uncertainty)


@pytest.mark.parametrize("reply", [b"", b"\n", b"date: invalid\n", b"9" * 99, b"1000.25\n1000.25\n"])
def test_what_is_no_clock(reply: bytes) -> None:
    assert clock_sample(0, 0, reply) is None


NODES = ("a", "b")


def said(**fact: Any) -> str:
    return f"UGRO-NETWORK {json.dumps(fact)}\n"


def test_measurements() -> None:
    link = said(trying=[0, 1]) + said(link=[0, 1], round_trip=0.0004, there=1.25e8, back=2.5e7)
    facts = Facts(NODES, ["noise\n" + said(joined=0) + link + said(all_reduce=2**24, seconds=0.5, bus_rate=3e7), ""])
    assert facts.joined == {"a"} and facts.stuck is None
    assert [(found.source, found.target, found.latency_ms, found.gbit_per_s) for found in facts.links] == [
        ("a", "b", pytest.approx(0.2), pytest.approx(1.0)), ("b", "a", pytest.approx(0.2), pytest.approx(0.2))
    ]  # fmt: skip
    assert facts.all_reduce and facts.all_reduce.size_mib == 16 and facts.all_reduce.time_ms == 500
    assert [remark.text for remark in slow_links(facts.links)] == ["from b to a only 0.20 Gbit/s"]


@pytest.mark.parametrize(
    "log",
    [
        "UGRO-NETWORK {\n",
        "UGRO-NETWORK {}\n",
        'UGRO-NETWORK {"a": ' + "[" * 50000 + "}\n",
        said(joined=7) + said(joined="0") + said(trying=[0, 9]) + said(trying={"0": 1}),
        said(link=[0, 1]) + said(link=[0], round_trip=1, there=1, back=1) + said(link="01"),
        said(link=[0, 1], round_trip=float("nan"), there=1, back=1) + said(link=[0, 1], round_trip=-1, there=1, back=1),
        said(all_reduce="x", seconds=1, bus_rate=1) + said(all_reduce=1, seconds=float("inf"), bus_rate=1),
        f'UGRO-NETWORK {{"all_reduce": {"9" * 400}, "seconds": 1, "bus_rate": 1}}\n',
    ],
)
def test_measurements_that_make_no_sense(log: str) -> None:
    facts = Facts(NODES, [log])
    assert (facts.joined, facts.links, facts.all_reduce, facts.stuck) == (set(), (), None, None)


@pytest.mark.parametrize(
    ("logs", "words"),
    [
        (["", ""], "the nodes did not find each other at 10.0.0.1:29500"),
        ([said(joined=0), ""], "b did not join the others at 10.0.0.1:29500"),
        ([said(joined=0) + said(trying=[0, 1]), said(joined=1)], "nothing gets through between a and b"),
        ([said(joined=0), said(joined=1)], "although all nodes had joined"),
    ],
)
def test_who_hangs(logs: list[str], words: str) -> None:
    remark = hung(NODES, Facts(NODES, logs), 60, "10.0.0.1:29500", {"b": "one\n\n\x1b[31mtwo\n" + said(joined=1)})
    assert remark.text.startswith("no result within 60 s") and words in remark.text
    assert remark.hint.splitlines()[1:] == ["b | one", "b | two"]


def test_last_words_are_few() -> None:
    assert list(last_words({"a": "\n".join(map(str, range(99)))})) == ["a | 95", "a | 96", "a | 97", "a | 98"]


def test_gpus_for_a_trial_are_idle_and_on_every_node() -> None:
    other = GPU.model_copy(update={"uuid": "GPU-2"})
    busy = other.model_copy(update={"processes": (GpuProcess(pid=1, name="python"),)})

    def with_gpus(*gpus: Gpu) -> NodeReport:
        return report(view=VIEW.model_copy(update={"gpus": gpus}))

    assert idle_gpus(NODES, {"a": GOOD, "b": with_gpus(busy, GPU)}, ()) == {"a": UUID, "b": UUID}
    assert idle_gpus(NODES, {"a": GOOD, "b": with_gpus(busy)}, ()) == {}
    assert idle_gpus(NODES, {"a": GOOD, "b": with_gpus(other)}, ["GPU-2"]) == {}
    assert idle_gpus(NODES, {"a": GOOD, "b": python(cuda_available=False)}, ()) == {}


# --- asking this machine ---------------------------------------------------------------------------------------------


@pytest.fixture
def here(home: Path) -> LocalTransport:
    return LocalTransport(NodeConfig(name="here", address="127.0.0.1", local=True, python=sys.executable))


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
    seen = await examine(LocalTransport(NodeConfig(name="here", address="127.0.0.1", python="~/none/bin/python")))
    assert seen.python is None and seen.machine and seen.view
    assert "~/none/bin/python cannot be run there" in seen.unread["python"].message


async def test_a_python_without_torch(home: Path) -> None:
    program(home, "bare", f'exec {sys.executable} -S "$@"')
    seen = await examine(LocalTransport(NodeConfig(name="here", address="127.0.0.1", python="~/bare")))
    assert seen.python and seen.python.torch is None and seen.python.torch_error is None


async def test_a_python_whose_torch_breaks(home: Path) -> None:
    torch = home / "lib/torch"
    torch.mkdir(parents=True)
    (torch / "__init__.py").write_text("print('hello')\nimport ctypes\nctypes.CDLL('libnone.so.12')\n")
    program(home, "broken", f'PYTHONPATH={home}/lib exec {sys.executable} "$@"')
    program(home, "crashing", "cat > /dev/null; kill -SEGV $$")
    seen = await examine(LocalTransport(NodeConfig(name="here", address="127.0.0.1", python="~/broken")))
    assert seen.python and "libnone.so.12" in (seen.python.torch_error or "")
    seen = await examine(LocalTransport(NodeConfig(name="here", address="127.0.0.1", python="~/crashing")))
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
    monkeypatch.setattr("ugro.nodes.checkup.REPLY_TIMEOUT", 0.2)
    program(programs, "date", "exec sleep 1.5")
    assert await sample_clock(here) is None


async def test_what_logind_nvidia_smi_and_hostile_programs_say(here: LocalTransport, programs: Path) -> None:
    program(programs, "loginctl", "printf 'KillUserProcesses=yes\\nKillExcludeUsers=nobody\\n@x user mallory\\n'")
    program(programs, "busctl", "echo 's \"na\"'; sleep 60 &")
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
    monkeypatch.setattr("ugro.nodes.machine.TIMEOUT", 2.0)
    program(programs, "nvidia-smi", "exec sleep 9")
    seen = await ask_machine(here, with_gpus=True)
    assert not seen.complete and seen.interfaces


@pytest.mark.parametrize("shell", [["dash"], ["busybox", "sh"], ["bash", "--posix"]])
def test_the_script_in_other_shells(shell: list[str]) -> None:
    if not shutil.which(shell[0]):
        pytest.skip(f"no {shell[0]} here")
    done = subprocess.run([*shell, "-c", load("checkup.sh"), "sh", "N"], capture_output=True, text=True, timeout=30)
    parsed = parse_machine(done.stdout, "N")
    assert parsed and parsed.complete and parsed.shm_mib is not None and "lo" in parsed.interfaces


async def test_the_way_to_a_peer(here: LocalTransport) -> None:
    assert await find_way(here, "127.0.0.2") == Way(address="127.0.0.1", interface="lo")
    with pytest.raises(NodeRefused, match="no way to no.such.host.invalid"):
        await find_way(here, "no.such.host.invalid")


# --- the command -----------------------------------------------------------------------------------------------------


def ugro_check(home: Path, inventory: str, *args: str) -> subprocess.CompletedProcess[str]:
    (home / "inventory.yaml").write_text(inventory)
    return subprocess.run(
        [sys.executable, "-m", "ugro", "check", *args],
        capture_output=True, text=True, timeout=60, cwd=home, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_the_command_as_json(home: Path) -> None:
    done = ugro_check(home, f"nodes: {{here: {{address: 127.0.0.1, local: true, python: {sys.executable}}}}}", "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0 and done.stderr == "" and set(document) == {"schema_version", "nodes", "findings"}
    (seen,) = document["nodes"]
    assert seen["name"] == "here" and seen["reachable"] and seen["error"] is None
    assert seen["python"]["torch"] and seen["machine"]["interfaces"] and abs(seen["clock"]["offset"]) < 0.1
    assert {"level", "node", "subject", "text", "hint"} == set(document["findings"][0])
    assert not (home / ".ugro").exists()


def test_the_command_for_people(home: Path) -> None:
    inventory = """
    nodes:
      here: {address: 127.0.0.1, local: true, python: /none/python}
      gone: {address: 127.0.0.1, port: 1}
    """
    done = ugro_check(home, inventory)
    assert done.returncode == 3 and done.stderr == ""
    assert "here (127.0.0.1)\n  ✓ answers, and its clock is right\n  ✗ python /none/python cannot be run" in done.stdout
    assert "gone (127.0.0.1)\n  ✗ 127.0.0.1:1 refuses connections\n      is sshd running there" in done.stdout
    assert done.stdout.endswith("2 nodes: 2 problems, no warnings\n")
    assert ugro_check(home, inventory, "--on", "here").returncode == 1
    done = ugro_check(home, inventory, "--on", "here", "--network")
    assert done.returncode == 2 and "a network has at least two nodes" in done.stderr


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
    yield
    marked = f"{tmp_path}/home"
    left = [
        process for process in psutil.process_iter(["environ"]) if (process.info["environ"] or {}).get("HOME") == marked
    ]
    names = [process.cmdline() for process in left]
    for process in left:
        process.kill()
    assert names == []


async def trial(inventory: Inventory, home: Path) -> NetworkReport:
    async with Pool(inventory, connect=LocalTransport) as pool:
        launcher = Launcher(MetadataStore(home / ".ugro"), inventory, pool, None)
        return await check_network(launcher, inventory, pool, list(inventory.nodes), {})


def replace_program(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(network_check, "load", lambda _: text)


async def test_two_nodes(pair: Inventory, home: Path) -> None:
    measured = await trial(pair, home)
    assert [finding for finding in measured.findings if finding.level == Level.PROBLEM] == []
    assert {(link.source, link.target) for link in measured.links} == {("n1", "n2"), ("n2", "n1")}
    assert all(0 < link.latency_ms < 1000 and link.gbit_per_s > 0 for link in measured.links)
    assert measured.all_reduce and measured.all_reduce.bus_gbit_per_s > 0
    assert measured.backend == "gloo" and measured.interfaces == {"n1": "lo", "n2": "lo"}
    assert measured.meets_at and measured.meets_at.startswith("127.0.0.1:")
    assert sorted(path.relative_to(home).as_posix() for path in home.rglob("*")) == ["n1", "n2"]


async def test_a_rank_that_fails(pair: Inventory, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_program(
        monkeypatch,
        "import os, time\nif os.environ['RANK'] == '1':\n    print('some words')\n    raise OSError('no such device')\n"
        "time.sleep(600)\n",
    )
    measured = await trial(pair, home)
    (finding,) = measured.findings
    assert (finding.level, finding.node) == (Level.PROBLEM, "n2")
    assert finding.text == "the trial failed on n2: OSError: no such device"
    assert finding.hint.splitlines()[-1] == "n2 | OSError: no such device"
    assert measured.all_reduce is None and not list(home.rglob("check-*"))


async def test_a_rank_that_hangs(pair: Inventory, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_check, "LIMIT", 6.0)
    replace_program(
        monkeypatch,
        "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if os.environ['RANK'] == '0':\n    print('UGRO-NETWORK {\"joined\": 0}', flush=True)\n"
        "else:\n    print('still thinking', flush=True)\ntime.sleep(600)\n",
    )
    started = time.monotonic()
    (finding,) = (await trial(pair, home)).findings
    assert time.monotonic() - started < 20
    assert finding.text.startswith("no result within 6 s: n2 did not join the others at 127.0.0.1:")
    assert "n2 | still thinking" in finding.hint.splitlines()
    assert not list(home.rglob("check-*"))


async def test_a_node_that_cannot_start(pair: Inventory, home: Path) -> None:
    broken = pair.nodes["n2"].model_copy(update={"python": "/none/python"})
    inventory = pair.model_copy(update={"nodes": {**pair.nodes, "n2": broken}})
    (finding,) = (await trial(inventory, home)).findings
    assert finding.node == "n2" and "/none/python cannot be run" in finding.text
    assert not list(home.rglob("check-*"))


async def test_an_interrupt_leaves_nothing(pair: Inventory, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_program(monkeypatch, "import time\ntime.sleep(600)\n")
    running = asyncio.create_task(trial(pair, home))
    while len(list(home.rglob("rank-*.pid"))) < 2:
        await asyncio.sleep(0.1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not list(home.rglob("check-*"))


def test_ranks_of_a_dead_master_end_by_themselves() -> None:
    code = load("network.py").replace("dist.init_process_group", "time.sleep(60); dist.init_process_group")
    done = subprocess.run(
        [sys.executable, "-c", code, "gloo", "30", "1"], env={**os.environ, "RANK": "0", "WORLD_SIZE": "1"}, timeout=30
    )
    assert done.returncode == -signal.SIGALRM
