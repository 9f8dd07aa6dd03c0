"""`ugro check`: what reports mean, how machines and pythons are read, and the command for real on a sandbox."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ugro.cli.app import App
from ugro.cli.check import Checkup
from ugro.common.config import NodeConfig
from ugro.common.errors import CommandTimedOut, LinkLost, NodeRefused, Unreachable
from ugro.common.models import Gpu, GpuProcess, NodeView
from ugro.control_plane.checkup import Finding, Level, Report, judge, judge_state
from ugro.control_plane.checkup.findings import Remark
from ugro.control_plane.checkup.machine import judge_clock
from ugro.control_plane.checkup.software import compare_gpus, fits
from ugro.control_plane.network_report import Facts, hung, idle_gpus, slow_links
from ugro.nodes import gpu_monitor
from ugro.nodes.checkup import (
    Clock, NodeReport, PythonFacts, Way, ask_python, clock_sample, examine, file_system, find_way, sample_clock,
)  # fmt: skip
from ugro.nodes.machine import Machine, ask_machine, parse_machine
from ugro.nodes.transport import LocalTransport, Outcome, Transport
from ugro.sandbox.cluster import Sandbox

NONCE = "0badc0de"
ARCHS_CUDA_12_4 = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")

RTX_4090 = Gpu(
    index=0, uuid="GPU-5c1e0a7e-1111-2222-3333-444455556666", name="NVIDIA GeForce RTX 4090",
    memory_total_mib=24564, driver="550.120",
)  # fmt: skip
RTX_5070 = Gpu(
    index=0, uuid="GPU-8d20f3c4-aaaa-bbbb-cccc-ddddeeeeffff", name="NVIDIA GeForce RTX 5070 Ti",
    memory_total_mib=16303, driver="580.95.05",
)  # fmt: skip
PYTHON = PythonFacts(
    python="3.11.9", executable="/opt/ml/bin/python", torch="2.6.0+cu124", torch_error=None, distributed=True,
    cuda="12.4", cuda_available=True, cuda_error=None, devices=1, nccl="2.21.5", archs=ARCHS_CUDA_12_4,
)  # fmt: skip
VIEW = NodeView(
    node="gpu1", seen_at=1760000000.0, boot_id="2a217b5d-c0ae-4413-bc84-e499d55a6ee9", clock_offset=0.0,
    cpu_count=16, disk_free_mib=400_000, gpus=(RTX_4090,),
)  # fmt: skip
MACHINE = Machine(
    user="ann", open_files=1048576, shm_mib=32000, rsync=True, interfaces=("enp5s0", "lo", "wlp4s0"),
    wireless=("wlp4s0",), clock_synchronized=True, kills_at_logout=False,
    persistence={RTX_4090.uuid: True}, compute_caps={RTX_4090.uuid: "8.9", RTX_5070.uuid: "12.0"},
)  # fmt: skip
HEALTHY = NodeReport(
    clock=Clock(offset=0.002, uncertainty=0.001),
    view=VIEW,
    machine=MACHINE,
    python=PYTHON,
    way=Way(address="192.168.1.11", interface="enp5s0"),
)
GPU1 = NodeConfig(name="gpu1", address="192.168.1.11")
CPU_ONLY = PYTHON.model_copy(
    update={"torch": "2.6.0+cpu", "cuda": None, "cuda_available": None, "devices": 0, "nccl": None, "archs": ()}
)


def findings(report: Report, node: NodeConfig = GPU1) -> list[Finding]:
    return judge([node], {node.name: report})


def bad(found: Sequence[Finding | Remark]) -> list[tuple[Level, str]]:
    """The warnings and problems."""
    return [(one.level, one.text) for one in found if one.level in (Level.WARNING, Level.PROBLEM)]


def the_one(found: Sequence[Finding], level: Level) -> Finding:
    """The only warning or problem, which has that level, and says what to do."""
    (one,) = (one for one in found if one.level in (Level.WARNING, Level.PROBLEM))
    assert (one.level, one.node) == (level, "gpu1")
    assert one.hint
    return one


def with_python(**changes: Any) -> NodeReport:
    return replace(HEALTHY, python=PYTHON.model_copy(update=changes))


def with_machine(**changes: Any) -> NodeReport:
    return replace(HEALTHY, machine=MACHINE.model_copy(update=changes))


# What a machine says


def checkup_output(*lines: str) -> str:
    return "".join(f"@{NONCE} {line}\n" for line in ("user ann", *lines))


DESKTOP = (
    "open_files 1024",
    "shm 8192000 4096",
    "rsync",
    "interface enp5s0",
    "interface lo",
    "chassis 3",
    "logind KillUserProcesses=no",
    "logind HandleLidSwitch=suspend",
    "logind IdleAction=ignore",
    "logind IdleActionUSec=30min",
    'can_suspend s "yes"',
    "ntp NTPSynchronized=yes",
    f"gpu {RTX_4090.uuid}, Disabled, 8.9",
    "end",
)
LAPTOP = (
    "open_files 1048576",
    "shm 4096000 4096",
    "rsync",
    "interface enp5s0",
    "interface lo",
    "interface wlp4s0",
    "wireless wlp4s0",
    "supply Mains - 0 - -",
    "supply Battery Device - 55 Discharging",
    "supply Battery - - 63 Discharging",
    "lid",
    "chassis 10",
    "logind KillUserProcesses=no",
    "logind HandleLidSwitch=suspend",
    "logind HandleLidSwitchExternalPower=ignore",
    "logind HandleLidSwitchDocked=ignore",
    "logind Docked=no",
    "logind IdleAction=suspend",
    "logind IdleActionUSec=30min",
    'can_suspend s "yes"',
    "ntp NTPSynchronized=no",
    "gnome_ac_type 'nothing'",
    "gnome_ac_timeout 3600",
    "gnome_battery_type 'suspend'",
    "gnome_battery_timeout 900",
    "end",
)


def parse(*lines: str) -> Machine:
    machine = parse_machine(checkup_output(*lines), NONCE)
    assert machine
    return machine


def power_findings(*lines: str) -> dict[str, Finding]:
    """The warnings about power by their text, of a machine that is fine otherwise."""
    report = with_machine(power=parse(*lines).power)
    return {one.text: one for one in findings(report) if one.level == Level.WARNING}


def without(lines: Sequence[str], *beginnings: str) -> list[str]:
    return [line for line in lines if not line.startswith(beginnings)]


def test_a_desktop_as_it_should_be() -> None:
    machine = parse(*DESKTOP)
    assert machine.complete and machine.kills_at_logout is False and machine.clock_synchronized
    assert (machine.shm_mib, machine.open_files) == (32000, 1024)
    assert (machine.persistence, machine.compute_caps) == ({RTX_4090.uuid: False}, {RTX_4090.uuid: "8.9"})
    assert not machine.power.laptop
    found = findings(replace(HEALTHY, machine=machine))
    assert bad(found) == []
    (persistence,) = (one.text for one in found if one.subject == "persistence")
    assert "NVIDIA GeForce RTX 4090" in persistence, "without persistence mode: good to know, not more"


def test_a_laptop_on_battery() -> None:
    power = parse(*LAPTOP).power
    assert (power.laptop, power.on_battery, power.battery_percent) == (True, True, 63), "the mouse's does not count"
    said = power_findings(*LAPTOP)
    battery, lid, idle, desktop = said
    assert "battery" in battery and "63 %" in battery
    assert "lid" in lid and "suspend" in lid and "HandleLidSwitch=ignore" in said[lid].hint
    assert "idle" in idle and "30min" in idle
    assert "GNOME" in desktop and "15m 00s" in desktop, "the setting for battery, not the one for mains"


def test_a_laptop_on_mains() -> None:
    plugged = ["supply Mains - 1 - -", *without(LAPTOP, "supply Mains", "logind IdleAction")]
    assert power_findings(*plugged) == {}, "logind ignores the lid, and GNOME never suspends there"
    (lid,) = power_findings(*without(plugged, "logind HandleLidSwitchExternalPower"))
    assert "lid" in lid and "suspend" in lid


@pytest.mark.parametrize("never", ['can_suspend s "na"', "masked sleep"])
def test_a_machine_that_cannot_sleep_may_be_closed(never: str) -> None:
    (battery,) = power_findings(never, *without(LAPTOP, "can_suspend"))
    assert "battery" in battery


def test_a_docked_laptop_and_one_whose_lid_is_not_told() -> None:
    docked = ["logind Docked=yes", *without(LAPTOP, "logind Docked")]
    assert not any("lid" in text for text in power_findings(*docked))
    report = with_machine(power=parse("lid", "supply Mains - 1 - -", "end").power)
    assert any("lid" in one.text for one in findings(report) if one.level == Level.INFO)


@pytest.mark.parametrize(
    ("logind", "kills"),
    [
        (["KillUserProcesses=yes"], True),
        (["KillUserProcesses=no"], False),
        (["KillUserProcesses=yes", "KillExcludeUsers=root ann"], False),
        (["KillUserProcesses=no", "KillOnlyUsers=bob ann"], True),
        (["KillUserProcesses=yes", "KillOnlyUsers=bob"], False),
        ([], None),
    ],
)
def test_who_is_killed_at_logout(logind: list[str], kills: bool | None) -> None:
    assert parse(*(f"logind {line}" for line in logind), "end").kills_at_logout is kills


def test_root_is_not_killed_unless_others_are_excluded() -> None:
    for exclude, kills in ((), False), (("logind KillExcludeUsers=",), False), (("logind KillExcludeUsers=ann",), True):
        said = ("logind KillUserProcesses=yes", *exclude)
        root = parse_machine(checkup_output(*said, "end").replace("user ann", "user root"), NONCE)
        assert root and root.kills_at_logout is kills, exclude


@pytest.mark.parametrize("linger", [False, True])
def test_a_training_that_would_end_at_logout(linger: bool) -> None:
    machine = parse(*(["linger"] if linger else []), "logind KillUserProcesses=yes", *without(DESKTOP, "logind"))
    found = the_one(findings(replace(HEALTHY, machine=machine)), Level.PROBLEM)
    assert "connection" in found.text and "ann" in found.text
    assert "KillUserProcesses=no" in found.hint and ("linger" in found.hint) is linger


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shm_mib": 64}, "/dev/shm has only 64 MiB"),
        ({"shm_mib": None}, "there is no /dev/shm"),
        ({"open_files": 256}, "only 256 open files"),
        ({"complete": False}, "did not answer everything"),
    ],
)
def test_the_limits_of_a_machine(changes: dict[str, Any], said: str) -> None:
    assert said in the_one(findings(with_machine(**changes)), Level.WARNING).text


@pytest.mark.parametrize(
    ("free", "level"), [(300, Level.PROBLEM), (5_000, Level.WARNING), (20_000, None), (None, None)]
)
def test_disk(free: int | None, level: Level | None) -> None:
    node = GPU1.model_copy(update={"base_dir": "/data/ugro"})
    found = findings(replace(HEALTHY, view=VIEW.model_copy(update={"disk_free_mib": free})), node)
    if level is None:
        assert bad(found) == []
    else:
        assert "/data/ugro" in the_one(found, level).text and "base_dir" in the_one(found, level).hint


@pytest.mark.parametrize("inventory", [None, "wlp4s0"])
def test_training_over_wifi(inventory: str | None) -> None:
    way = Way(address="192.168.1.11", interface="enp5s0" if inventory else "wlp4s0")
    found = findings(replace(HEALTHY, way=way), GPU1.model_copy(update={"interface": inventory}))
    assert "Wi-Fi (wlp4s0)" in the_one(found, Level.WARNING).text


def test_wifi_that_is_not_trained_over_does_not_matter() -> None:
    assert bad(findings(HEALTHY)) == []
    assert bad(findings(HEALTHY, GPU1.model_copy(update={"interface": "enp5s0"}))) == []


def test_an_interface_of_the_inventory_that_is_not_there() -> None:
    found = the_one(findings(HEALTHY, GPU1.model_copy(update={"interface": "eno1"})), Level.PROBLEM)
    assert "eno1" in found.text and "enp5s0" in found.hint


@pytest.mark.parametrize(
    ("offset", "uncertainty", "said"),
    [
        (0.0, 0.001, None),
        (0.4, 0.001, None),
        (0.9, 0.5, None),
        (-3.0, 1.6, None),
        (7.25, 0.001, "7.2 s ahead of"),
        (-7.25, 0.001, "7.2 s behind"),
        (7200.0, 0.5, "2h 00m ahead of"),
    ],
)
def test_a_clock_is_wrong_only_beyond_its_uncertainty(offset: float, uncertainty: float, said: str | None) -> None:
    remarks = list(judge_clock(Clock(offset=offset, uncertainty=uncertainty), MACHINE))
    assert [text for _, text in bad(remarks)] == ([f"its clock is {said} this machine's"] if said else [])


def test_why_a_clock_is_wrong() -> None:
    report = replace(with_machine(clock_synchronized=False), clock=Clock(offset=90.0, uncertainty=0.01))
    assert "not synchronized" in the_one(findings(report), Level.WARNING).text


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "fuseblk", "v9fs", "smb2", "cifs", "ceph", "lustre", None])
def test_a_state_directory_without_locks(kind: str | None) -> None:
    remark = judge_state("/home/ann/.ugro", kind)
    assert remark.level == Level.PROBLEM and "/home/ann/.ugro" in remark.text and "UGRO_HOME" in remark.hint
    assert (kind or "does not answer") in remark.text


@pytest.mark.parametrize("kind", ["ext2/ext3", "btrfs", "xfs", "zfs", "tmpfs", "overlayfs"])
def test_a_state_directory_on_a_local_disk(kind: str) -> None:
    assert judge_state("/home/ann/.ugro", kind).level == Level.OK


async def test_the_file_system_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert await file_system(tmp_path / "not" / "yet") == await file_system(tmp_path) != None  # noqa: E711
    assert await file_system(Path("/proc/self")) == "proc"


# Python, torch, GPUs


def test_a_healthy_node() -> None:
    found = findings(HEALTHY)
    assert {one.level for one in found} == {Level.OK}
    assert "python 3.11.9 with torch 2.6.0+cu124 for CUDA 12.4, NCCL 2.21.5" in [one.text for one in found]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"torch": None}, "no torch (/opt/ml/bin/python)"),
        ({"torch": None, "torch_error": "libcudnn.so.9: cannot open shared object file"}, "libcudnn.so.9"),
        ({"distributed": False}, "without torch.distributed"),
        ({"cuda_available": False, "devices": 0, "archs": ()}, "torch cannot use the GPU"),
        ({"cuda_available": False, "cuda_error": "The NVIDIA driver on your system is too old"}, "is too old"),
    ],
)
def test_a_torch_that_cannot_train(changes: dict[str, Any], said: str) -> None:
    assert said in the_one(findings(with_python(**changes)), Level.PROBLEM).text


def test_a_torch_without_cuda() -> None:
    found = the_one(findings(replace(HEALTHY, python=CPU_ONLY)), Level.PROBLEM)
    assert "built without CUDA" in found.text
    no_gpu = replace(HEALTHY, python=CPU_ONLY, view=VIEW.model_copy(update={"gpus": ()}))
    assert bad(findings(no_gpu)) == [], "where there is no GPU, nothing is missing"
    simulated = replace(with_machine(simulated=True), python=CPU_ONLY)
    assert bad(findings(simulated)) == []


def test_a_driver_that_was_not_asked_is_not_blamed_on_torch() -> None:
    assert bad(findings(with_python(cuda_available=None, devices=0, archs=()))) == []


def test_torch_sees_fewer_gpus() -> None:
    view = VIEW.model_copy(update={"gpus": (RTX_4090, RTX_5070.model_copy(update={"index": 1}))})
    report = replace(with_python(archs=(*ARCHS_CUDA_12_4, "sm_120")), view=view)
    assert "1 of 2 GPUs" in the_one(findings(report), Level.WARNING).text


def test_a_new_card_with_an_old_torch() -> None:
    report = replace(HEALTHY, view=VIEW.model_copy(update={"gpus": (RTX_5070,)}))
    found = the_one(findings(report), Level.PROBLEM)
    assert "RTX 5070 Ti" in found.text and "sm_120" in found.text and "sm_90" in found.text
    assert "12.8" in found.hint


@pytest.mark.parametrize(
    ("archs", "capability", "runs"),
    [
        ("sm_80 sm_86 sm_90", "8.9", True),
        ("sm_80 sm_86 sm_90", "12.0", False),
        ("sm_90 compute_90", "12.0", True),
        ("sm_90a compute_90a", "12.0", False),
        ("sm_90a", "9.0", True),
        ("sm_100 sm_120", "12.0", True),
        ("sm_100f", "10.3", True),
        ("sm_100a", "10.3", False),
        ("sm_100f", "12.0", False),
        ("sm_86", "8.0", False),
        ("sm_75", "6.1", False),
        ("", "8.6", False),
        ("gfx1100 sm_ sm_x", "8.6", False),
    ],
)
def test_which_code_runs_where(archs: str, capability: str, runs: bool) -> None:
    assert fits(archs.split(), capability) is runs


def test_a_gpu_other_than_expected() -> None:
    node = GPU1.model_copy(update={"gpus": ("RTX 3090",)})
    found = findings(HEALTHY, node)
    assert "'RTX 3090'" in the_one(found, Level.PROBLEM).text
    assert any("RTX 4090" in one.text and RTX_4090.uuid in one.text for one in found if one.level == Level.INFO)
    for right in "rtx 4090", "GPU-5c1e0a7e", "4090":
        assert bad(findings(HEALTHY, GPU1.model_copy(update={"gpus": (right,)}))) == []


def test_two_of_a_kind_are_expected() -> None:
    second = RTX_4090.model_copy(update={"index": 1, "uuid": "GPU-00000000-1111-2222-3333-444455556666"})
    assert compare_gpus(["4090", "4090"], [RTX_4090]) == (["4090"], [])
    assert compare_gpus(["4090", "4090"], [RTX_4090, second]) == ([], [])
    assert compare_gpus(["4090"], [RTX_4090, second]) == ([], [second])
    assert compare_gpus(["RTX", "RTX 4090"], [RTX_4090, RTX_5070]) == ([], []), "the vaguer one takes what is left"
    assert compare_gpus([], [RTX_4090]) == ([], [])


def test_sick_gpus() -> None:
    lost = VIEW.model_copy(update={"gpus": (RTX_4090.model_copy(update={"problem": "GPU is lost"}),)})
    assert "GPU is lost" in the_one(findings(replace(HEALTHY, view=lost)), Level.PROBLEM).text
    split = VIEW.model_copy(update={"gpus": (RTX_4090.model_copy(update={"mig": True}),)})
    assert "MIG" in the_one(findings(replace(HEALTHY, view=split)), Level.WARNING).text
    broken = VIEW.model_copy(update={"gpus": (), "gpu_problem": "Failed to initialize NVML: Driver/library version"})
    assert "NVML" in the_one(findings(replace(HEALTHY, view=broken)), Level.PROBLEM).text


def test_parts_that_could_not_be_read() -> None:
    refused = NodeRefused("gpu1", "python /no/python cannot be run there", "set 'python' of this node")
    found = the_one(findings(replace(HEALTHY, python=None, unread={"python": refused})), Level.PROBLEM)
    assert found.text == "python /no/python cannot be run there", "the block it stands in names the node"
    assert (found.subject, found.hint) == ("python", "set 'python' of this node")
    assert bad(findings(NodeReport())) == [], "what nobody said is no finding"


# Together


NODES = [NodeConfig(name=name, address=f"192.168.1.{number}") for number, name in enumerate(("a", "b", "c"), 10)]


def together(*reports: Report) -> list[Finding]:
    return [one for one in judge(NODES, dict(zip("abc", reports, strict=True))) if one.node is None]


def test_nodes_that_agree() -> None:
    (one,) = together(HEALTHY, with_python(torch="2.6.0+cu126", cuda="12.4", python="3.11.2"), HEALTHY)
    assert one.level == Level.OK
    assert all(said in one.text for said in ("python 3.11", "torch 2.6.0", "CUDA 12.4", "NCCL 2.21.5"))


def test_versions_that_disagree_and_who_has_what() -> None:
    other = with_python(python="3.12.1", torch="2.7.1+cu128", cuda="12.8", nccl="2.26.2")
    said = {one.subject: (one.level, one.text) for one in together(HEALTHY, other, HEALTHY)}
    assert said == {
        "python": (Level.WARNING, "python is not the same: 3.11 on a, c; 3.12 on b"),
        "torch": (Level.PROBLEM, "torch is not the same: 2.6.0 on a, c; 2.7.1 on b"),
        "cuda": (Level.WARNING, "CUDA is not the same: 12.4 on a, c; 12.8 on b"),
        "nccl": (Level.PROBLEM, "NCCL is not the same: 2.21.5 on a, c; 2.26.2 on b"),
    }


def test_only_nccl_disagrees() -> None:
    differs, agrees = together(HEALTHY, HEALTHY, with_python(nccl="2.20.5"))
    assert (differs.level, agrees.level) == (Level.PROBLEM, Level.OK)
    assert "2.21.5 on a, b; 2.20.5 on c" in differs.text and "NCCL" not in agrees.text


def test_a_node_without_cuda_among_others() -> None:
    texts = [one.text for one in together(HEALTHY, replace(HEALTHY, python=CPU_ONLY), HEALTHY)]
    assert "CUDA is not the same: 12.4 on a, c; none on b" in texts
    assert not any("NCCL is not" in text for text in texts)


def test_nodes_without_torch_have_no_say() -> None:
    silent = (with_python(torch=None, python="2.7.0"), Unreachable("c", "gone"))
    assert together(HEALTHY, *silent) == []
    (one,) = together(HEALTHY, silent[0], HEALTHY)
    assert one.level == Level.OK


def exit_code(*reports: Report) -> int:
    checkup = Checkup(App(None), NODES)
    checkup.reports = dict(zip("abc", reports, strict=True))
    checkup.findings = judge(NODES, checkup.reports)
    return checkup.exit_code


def test_exit_codes(home: Path) -> None:
    gone = Unreachable("b", "does not answer at 192.168.1.11:22", "is it on?")
    warned, broken = with_machine(shm_mib=64), with_python(torch=None)
    assert exit_code(HEALTHY, HEALTHY, HEALTHY) == 0
    assert exit_code(HEALTHY, warned, HEALTHY) == 0
    assert exit_code(HEALTHY, warned, broken) == 1
    assert exit_code(HEALTHY, gone, HEALTHY) == 3
    assert exit_code(broken, gone, warned) == 3, "a node that was not seen weighs more"
    assert not (home / ".ugro").exists()


def test_an_unreachable_node_is_a_problem_of_its_own() -> None:
    (one,) = findings(Unreachable("gpu1", "does not answer at 192.168.1.11:22", "is it on?"))
    assert (one.level, one.text, one.hint) == (Level.PROBLEM, "does not answer at 192.168.1.11:22", "is it on?")


# A trial of the network


def fact(**said: Any) -> str:
    return "UGRO-NETWORK " + json.dumps(said) + "\n"


def test_what_a_trial_measured() -> None:
    first = "chatter\n" + fact(joined=0) + fact(trying=[0, 1])
    first += fact(link=[0, 1], round_trip=0.0004, there=1.2e9, back=3.0e7)
    first += fact(all_reduce=16 * 2**20, seconds=0.25, bus_rate=6.25e7)
    facts = Facts(("a", "b"), [first, fact(joined=1)])
    there, back = facts.links
    assert (there.source, there.target, back.source, back.target) == ("a", "b", "b", "a")
    assert there.latency_ms == back.latency_ms == pytest.approx(0.2), "half of a round trip"
    assert (there.gbit_per_s, back.gbit_per_s) == (pytest.approx(9.6), pytest.approx(0.24))
    assert facts.all_reduce and facts.all_reduce.time_ms == 250 and facts.all_reduce.bus_gbit_per_s == 0.5
    assert (facts.joined, facts.stuck) == ({"a", "b"}, None)
    assert bad(list(slow_links(facts.links))) == [(Level.WARNING, "from b to a only 0.24 Gbit/s")]


@pytest.mark.parametrize(
    "line",
    [
        "UGRO-NETWORK {",
        "UGRO-NETWORK {}",
        "UGRO-NETWORK {" + "[" * 5000 + "}",
        'UGRO-NETWORK {"a":' * 3000 + "1" + "}" * 3000,
        fact(joined=7, trying=[0, 9], link=[0, -1], round_trip=1, there=1, back=1),
        fact(joined="x", trying=3, link=[0, 1]),
        fact(link=[0, 1], round_trip=[], there={}, back=None),
        fact(link=[0, 1], round_trip=0.1, there=float("inf"), back=float("nan")),
        fact(link=[0, 1], round_trip=-1, there=1, back=1),
        fact(link=[0, 1], round_trip=10**400, there=1, back=1),
        fact(all_reduce="many", seconds=0, bus_rate=float("inf")),
    ],
)
def test_what_a_rank_says_may_be_nonsense(line: str) -> None:
    facts = Facts(("a", "b"), [line + "\n", ""])
    assert (facts.links, facts.all_reduce, facts.joined) == ((), None, set())


def test_a_trial_that_hangs() -> None:
    nodes, where = ("a", "b", "c"), "192.168.1.10:29500"

    def says(*logs: str) -> Remark:
        return hung(nodes, Facts(nodes, logs), 60, where, dict(zip(nodes, logs, strict=True)))

    nobody = says("", "", "")
    assert "did not find each other at " + where in nobody.text and "firewall" in nobody.hint
    one_missing = says(fact(joined=0) + "waiting\n", fact(joined=1), "\x1b[31mno route\x1b[0m\n")
    assert "c did not join" in one_missing.text
    assert "c | no route" in one_missing.hint.splitlines() and "waiting" not in one_missing.hint
    link = fact(link=[0, 1], round_trip=1e-3, there=1e9, back=1e9)
    stuck = says(fact(joined=0) + fact(trying=[0, 1]) + link + fact(trying=[0, 2]), fact(joined=1), fact(joined=2))
    assert "between a and c" in stuck.text
    assert "although all nodes had joined" in says(fact(joined=0) + link, fact(joined=1), fact(joined=2)).text


def test_the_gpus_of_a_trial() -> None:
    def has(*gpus: Gpu, **python: Any) -> NodeReport:
        return replace(with_python(**python), view=VIEW.model_copy(update={"gpus": gpus}))

    busy = RTX_5070.model_copy(update={"processes": (GpuProcess(pid=1, name="python", user="bob", memory_mib=1),)})
    a, b = has(busy, RTX_4090), has(RTX_5070)
    assert idle_gpus("ab", {"a": a, "b": b}, []) == {"a": RTX_4090.uuid, "b": RTX_5070.uuid}
    assert idle_gpus("ab", {"a": a, "b": b}, [RTX_5070.uuid]) == {}, "a job has it"
    for other in has(busy), has(RTX_4090, cuda_available=False), has(RTX_4090.model_copy(update={"problem": "lost"})):
        assert idle_gpus("ab", {"a": a, "b": other}, []) == {}, "all of them use NCCL, or none"


# Anything may be said


class Node(Transport):
    """A node whose every command says the same, and then maybe fails."""

    def __init__(self, said: str, error: Exception | None = None, status: int = 0, stderr: bytes = b"") -> None:
        super().__init__(GPU1)
        self._said, self._error, self._status, self._stderr = said, error, status, stderr

    @property
    def peer_address(self) -> str | None:
        return None

    async def run(self, script: str, args: Sequence[str] = (), **options: Any) -> Outcome:
        said = self._said.replace(NONCE, args[0] if args else NONCE).encode("utf-8", "surrogatepass")
        if told := options.get("on_output"):
            told("stderr", b"noise")
            told("stdout", said)
        if self._error:
            raise self._error
        return Outcome(self._status, said, self._stderr)

    async def close(self) -> None:
        return None


async def test_an_answer_that_ends_early_counts() -> None:
    half = checkup_output(*DESKTOP[:4])
    for error in CommandTimedOut("gpu1", "a command did not end within 40 s"), LinkLost("gpu1", "the connection broke"):
        machine = await ask_machine(Node(half, error), with_gpus=True)
        assert machine.user == "ann" and machine.rsync and not machine.complete
        with pytest.raises(type(error)):
            await ask_machine(Node("", error), with_gpus=True)


@pytest.mark.parametrize("said", ["", "sh: 1: Syntax error\n", "user ann\n", "@ffff user ann\n", f"@{NONCE}\n"])
async def test_what_is_no_answer_of_a_machine(said: str) -> None:
    assert parse_machine(said, NONCE) is None
    with pytest.raises(NodeRefused, match="gpu1: its answer to a checkup cannot be understood"):
        await ask_machine(Node(said), with_gpus=False)


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("open_files unlimited", "open_files"),
        ("open_files ²", "open_files"),
        ("open_files " + "9" * 5000, "open_files"),
        ("shm", "shm_mib"),
        ("shm 4096 x", "shm_mib"),
        ("shm -1 4096", "shm_mib"),
        ("ntp NTPSynchronized=perhaps", "clock_synchronized"),
        ("ntp", "clock_synchronized"),
        ("logind", "power.lid_action"),
        ("supply Battery - - ² Discharging", "power.battery_percent"),
        ("supply Battery - - " + "9" * 5000 + " Discharging", "power.battery_percent"),
        ("supply Battery", "power.battery_percent"),
        ("gnome_ac_timeout -1", "power.desktop_sleep"),
        ('can_suspend Call failed: Connection timed out"', "power.idle_action"),
    ],
)
def test_a_fact_that_makes_no_sense_is_unknown(line: str, field: str) -> None:
    value: Any = parse("gnome_ac_type 'suspend'", line, "end")
    for name in field.split("."):
        value = getattr(value, name)
    assert value is None


FACTS = PYTHON.model_dump_json()


async def test_chatter_before_the_facts_of_a_python_does_not_matter() -> None:
    assert await ask_python(Node(f"importing…\n{FACTS}\n"), with_cuda=True) == PYTHON


@pytest.mark.parametrize(
    "said",
    ["", "\n", "null", "[]", "{}", "[" * 100_000, FACTS[:-1], FACTS + "\nbye", FACTS.replace('"devices":1', '"devices":[]')],
)  # fmt: skip
async def test_a_python_that_breaks(said: str) -> None:
    node = Node(said, status=1, stderr=b"Traceback\n  File x\n\x1b[1mAttributeError: \x07no torch._C\n")
    with pytest.raises(NodeRefused) as caught:
        await ask_python(node, with_cuda=True)
    assert "AttributeError: �no torch._C" in caught.value.message and "import torch" in caught.value.hint


async def test_a_python_that_is_killed_is_told_with_its_signal() -> None:
    with pytest.raises(NodeRefused, match="signal 11"):
        await ask_python(Node("", status=-11), with_cuda=True)


@pytest.mark.parametrize(
    "said",
    ["", "null", "3", "[]", "{}", '{"address": null, "interface": "lo"}', '{"address": "x"}', "[" * 100_000,
     '{"route_error": "Network is unreachable"}', '{"route_error": ["\\u001b[31m"]}'],
)  # fmt: skip
async def test_no_way_to_a_peer(said: str) -> None:
    with pytest.raises(NodeRefused) as caught:
        await find_way(Node(said, stderr=b"boom\n"), "192.168.1.12")
    assert "no way to 192.168.1.12" in caught.value.message and "\x1b" not in caught.value.message
    assert "train_address" in caught.value.hint


def judged(report: NodeReport) -> None:
    """Whatever was read can be judged, shown and written."""
    for one in judge([GPU1], {"gpu1": report}):
        assert Finding.model_validate_json(one.model_dump_json()) == one


WORDS = st.sampled_from(["-", "0", "²", "٣", "yes", "no", "s", "1 2", "=", "9" * 4400, "GPU-", "99.9", "\r", "\x00"])
SAID = st.sampled_from(sorted({*DESKTOP, *LAPTOP}))
LINES = st.one_of(
    SAID,
    st.builds(lambda line, word: f"{line.rpartition(' ')[0]} {word}", SAID, WORDS | st.text(max_size=8)),
    st.builds(lambda line, end: line[:end], SAID, st.integers(0, 30)),
    st.text(max_size=30),
)


@given(st.lists(LINES, max_size=20))
def test_any_lines_of_a_machine_can_be_judged(lines: list[str]) -> None:
    machine = parse(*lines)
    assert Machine.model_validate_json(machine.model_dump_json()) == machine
    judged(replace(HEALTHY, machine=machine))


@given(st.text() | st.integers(0, 400).map(lambda end: checkup_output(*LAPTOP)[:end]))
def test_any_text_of_a_machine_is_understood_or_not(text: str) -> None:
    machine = parse_machine(text, NONCE)
    assert machine is None or not machine.complete


VALUES = st.none() | st.booleans() | st.integers() | WORDS | st.text(max_size=8) | st.lists(WORDS, max_size=3)
ARCH_LISTS = st.lists(st.sampled_from(["sm_90", "compute_90", "sm_" + "9" * 5000, "sm_٩٠", "", "sm_9"]), max_size=4)


@given(st.dictionaries(st.sampled_from(sorted(PythonFacts.model_fields)), VALUES), ARCH_LISTS)
def test_any_facts_of_a_python_can_be_judged_or_are_refused(changes: dict[str, Any], archs: list[str]) -> None:
    said = json.dumps({**json.loads(FACTS), "archs": archs, **changes})
    with suppress(NodeRefused):
        judged(replace(HEALTHY, python=asyncio.run(ask_python(Node(said), with_cuda=True))))


@given(st.binary(max_size=40) | st.from_regex(rb"[0-9.]{0,14}[N%0-9. \n]{0,12}"))
def test_any_reply_is_a_clock_or_none(reply: bytes) -> None:
    sample = clock_sample(1760000000.0, 1760000000.2, reply)
    assert sample is None or sample.uncertainty >= 0.1


def test_what_a_reply_says_of_a_clock() -> None:
    exact = clock_sample(1760000000.0, 1760000000.2, b"1760000007.100000000\n")
    assert exact and (exact.offset, exact.uncertainty) == (pytest.approx(7.0), pytest.approx(0.1))
    for busybox in b"1760000000.%N\n", b"1760000000.N\n", b"1760000000.\n":
        rough = clock_sample(1760000000.4, 1760000000.6, busybox)
        assert rough and (rough.offset, rough.uncertainty) == (pytest.approx(0.0), pytest.approx(0.6))
    for nonsense in b"", b"\n", b"sh: date: not found\n", b"1760000000\n", b"1760000000.12\n":
        assert clock_sample(1760000000.0, 1760000000.2, nonsense) is None


# This machine for real


def local(home: Path, python: str = sys.executable) -> LocalTransport:
    return LocalTransport(NodeConfig(name="gpu1", address="127.0.0.1", local=True, python=python))


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def python_with(folder: Path, torch: str) -> str:
    """A python that finds a torch of this kind first."""
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text(torch)
    return str(executable(folder / "python", f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n'))


async def test_this_machine(home: Path) -> None:
    report = await examine(local(home))
    assert report.unread == {}
    assert report.clock and abs(report.clock.offset) <= max(0.2, 2 * report.clock.uncertainty)
    assert report.view and report.view.memory_total_mib
    machine, python = report.machine, report.python
    assert machine and machine.complete and machine.user and "lo" in machine.interfaces
    shm = os.statvfs("/dev/shm")
    assert machine.shm_mib == pytest.approx(shm.f_blocks * shm.f_frsize / 2**20, abs=1)
    assert python and python.python == ".".join(map(str, sys.version_info[:3]))
    assert python.executable == sys.executable and python.torch and python.distributed
    assert list(home.iterdir()) == [], "nothing is changed"


async def test_a_python_that_is_not_there(home: Path) -> None:
    executable(home / "not executable", "").chmod(0o644)
    for python in "/no/such/python", "no-such-python", "~/not executable":
        with pytest.raises(NodeRefused, match=f"python {python} cannot be run there"):
            await ask_python(local(home, python), with_cuda=False)
    report = await examine(local(home, "~/no such python"))
    assert report.python is None and set(report.unread) == {"python"}
    assert report.machine and report.view and report.clock, "everything else is told"
    (found,) = (one for one in findings(report) if one.subject == "python")
    assert found.level == Level.PROBLEM and "~/no such python" in found.text and "inventory" in found.hint


@pytest.mark.parametrize(
    ("torch", "said"),
    [
        ("raise ImportError('libcudart.so.12: cannot open\\nshared object file')", "libcudart.so.12: cannot open shared"),
        ("from torch import _C", "cannot import name '_C'"),
        ("import numbpy", "No module named 'numbpy'"),
        ("raise RuntimeError", "RuntimeError"),
    ],
)  # fmt: skip
async def test_a_torch_that_fails_to_import(torch: str, said: str, home: Path) -> None:
    facts = await ask_python(local(home, python_with(home, torch)), with_cuda=True)
    assert facts.torch is None and facts.torch_error and said in facts.torch_error
    (found,) = (one for one in findings(replace(HEALTHY, python=facts)) if one.level == Level.PROBLEM)
    assert "cannot be imported" in found.text and said in found.text


async def test_no_torch_at_all(home: Path) -> None:
    bare = executable(home / "python", f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    facts = await ask_python(local(home, str(bare)), with_cuda=True)
    assert (facts.torch, facts.torch_error, facts.distributed) == (None, None, False)


@pytest.mark.parametrize(
    ("torch", "said"),
    [
        ("import os; os._exit(3)", "exit 3"),
        ("import os; os.abort()", "Abort|signal 6|exit 134"),
        ("raise SystemExit('this torch wants AVX2')", "this torch wants AVX2"),
        ("", "AttributeError: module 'torch' has no attribute '__version__'"),
    ],
)
async def test_a_torch_that_ends_its_python(torch: str, said: str, home: Path) -> None:
    with pytest.raises(NodeRefused, match=f"broke while it imported torch: .*({said})"):
        await ask_python(local(home, python_with(home, torch)), with_cuda=True)


CHATTY_CUDA = """
import types, warnings
print("hello from a library")
__version__ = "2.6.0+cu124"
distributed = types.SimpleNamespace(is_available=lambda: True)
version = types.SimpleNamespace(cuda="12.4")
def is_available():
    warnings.warn("CUDA initialization: The NVIDIA driver\\n on your system is too old")
    return False
cuda = types.SimpleNamespace(
    is_available=is_available, device_count=lambda: 0, get_arch_list=list,
    nccl=types.SimpleNamespace(version=lambda: (2, 21, 5)),
)
"""


async def test_a_torch_that_says_why_it_has_no_cuda(home: Path) -> None:
    transport = local(home, python_with(home, CHATTY_CUDA))
    facts = await ask_python(transport, with_cuda=True)
    assert (facts.cuda_available, facts.nccl, facts.devices) == (False, "2.21.5", 0)
    assert facts.cuda_error == "CUDA initialization: The NVIDIA driver on your system is too old"
    assert (await ask_python(transport, with_cuda=False)).cuda_available is None, "a sick GPU is left alone"


async def test_a_gpu_that_hangs_is_asked_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(home / "bin" / "nvidia-smi", f"#!/bin/sh\necho asked >> {home}/asked\nexit 0\n")
    monkeypatch.setenv("PATH", f"{home}/bin:{os.environ['PATH']}")

    async def hangs(_: Transport) -> NodeView:
        return VIEW.model_copy(update={"gpus": (), "gpu_problem": gpu_monitor.NO_ANSWER})

    monkeypatch.setattr(gpu_monitor, "look", hangs)
    report = await examine(local(home, python_with(home, CHATTY_CUDA)))
    assert report.python and report.python.cuda == "12.4" and report.python.cuda_available is None
    assert report.machine and report.machine.complete and not (home / "asked").exists()


async def test_the_clock_of_this_machine(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = await sample_clock(local(home))
    assert clock and abs(clock.offset) <= max(0.05, clock.uncertainty) and clock.uncertainty < 0.5
    monkeypatch.setenv("PATH", f"{home}/bin:{os.environ['PATH']}")
    executable(home / "bin" / "date", '#!/bin/sh\nPATH=${PATH#*:}\nexec date -d "1 hour ago" "$@"\n')
    behind = await sample_clock(local(home))
    assert behind and behind.offset == pytest.approx(-3600, abs=0.5)
    executable(home / "bin" / "date", "#!/bin/sh\necho what time is it\n")
    assert await sample_clock(local(home)) is None


# The command for real


MACHINES = ("gpu-master", "gpu1", "gpu2")


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    cluster = Sandbox(tmp_path_factory.mktemp("sandbox"))
    cluster.up()
    yield cluster
    cluster.down()


def ugro_check(sandbox: Sandbox, *args: str, inventory: Path | None = None) -> subprocess.CompletedProcess[str]:
    changed = {"UGRO_INVENTORY": str(inventory)} if inventory else {}
    return subprocess.run(
        [sys.executable, "-m", "ugro", "check", *args],
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, cwd=sandbox.root,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])} | sandbox.environment() | changed,
    )  # fmt: skip


def inventory_with(sandbox: Sandbox, path: Path, **nodes: dict[str, Any]) -> Path:
    """The sandbox's inventory with what is said about some nodes."""
    inventory = yaml.safe_load(sandbox.status().inventory.read_text())
    for name, settings in nodes.items():
        inventory["nodes"].setdefault(name, {}).update(settings)
    path.write_text(yaml.safe_dump(inventory, sort_keys=False))
    return path


def assert_nothing_is_left(sandbox: Sandbox) -> None:
    """No process of a run, no file in the homes, no job, no folder of a trial on this machine."""
    for process in psutil.process_iter():
        try:
            environ = process.environ()
        except psutil.Error:
            continue
        assert not (environ.get("UGRO_SANDBOX") == str(sandbox.root) and "UGRO_RUN" in environ), process
    assert [path for node in sandbox.status().nodes for path in node.home.iterdir()] == []
    assert not list(sandbox.root.rglob("check-*"))
    assert not list((sandbox.root / "state").rglob("*job*"))


def test_a_check_with_the_network(sandbox: Sandbox) -> None:
    done = ugro_check(sandbox, "--network", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert set(document) == {"schema_version", "nodes", "network", "findings"} and document["schema_version"] == 1
    assert [node["name"] for node in document["nodes"]] == list(MACHINES)
    for node in document["nodes"]:
        assert node["reachable"] and node["error"] is None and node["python"]["distributed"]
        assert node["machine"]["simulated"] and node["way"]["interface"] and len(node["view"]["gpus"]) == 1
        assert abs(node["clock"]["offset"]) < 0.5
    network = document["network"]
    assert (network["nodes"], network["backend"]) == (list(MACHINES), "gloo")
    assert re.fullmatch(r"[0-9.]+:[0-9]+", network["meets_at"]) and set(network["interfaces"]) == set(MACHINES)
    pairs = sorted((link["source"], link["target"]) for link in network["links"])
    assert pairs == sorted((source, target) for source in MACHINES for target in MACHINES if source != target)
    assert all(link["latency_ms"] > 0 and link["gbit_per_s"] > 0 for link in network["links"])
    found = network["all_reduce"]
    assert found["size_mib"] > 0 and found["time_ms"] > 0 and found["bus_gbit_per_s"] > 0
    assert {one["level"] for one in document["findings"]} <= {"ok", "info", "warning"}
    assert_nothing_is_left(sandbox)


def test_a_trial_that_fails(sandbox: Sandbox, tmp_path: Path) -> None:
    """A checkup asks a python without the node's `env`; the trial has it, as a training does."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('libcudart.so.12: cannot open it')\n")
    inventory = inventory_with(sandbox, tmp_path / "inventory.yaml", gpu1={"env": {"PYTHONPATH": str(tmp_path)}})
    began = time.monotonic()
    done = ugro_check(sandbox, "--network", "--on", "gpu-master,gpu1", inventory=inventory)
    assert time.monotonic() - began < 40, "long before the trial's own limit"
    assert (done.returncode, done.stderr) == (1, ""), done.stdout
    block = done.stdout.partition("\ngpu1 ")[2].partition("\n\n")[0]
    assert "✗ the trial failed on gpu1: ImportError: libcudart.so.12: cannot open it" in block
    assert "gpu1 |" in block, "the end of its log is shown"
    assert "2 nodes: 1 problem" in done.stdout.splitlines()[-1]
    assert_nothing_is_left(sandbox)


def test_a_trial_that_has_no_place(sandbox: Sandbox, tmp_path: Path) -> None:
    inventory = inventory_with(sandbox, tmp_path / "inventory.yaml", gpu2={"base_dir": "/proc/version/ugro"})
    done = ugro_check(sandbox, "--network", "--json", "--on", "gpu1,gpu2", inventory=inventory)
    assert done.returncode == 1, done.stdout + done.stderr
    problems = [one for one in json.loads(done.stdout)["findings"] if one["level"] == "problem"]
    assert [one["node"] for one in problems] == ["gpu2"]
    assert "nothing can be written in /proc/version/ugro" in problems[0]["text"]
    assert_nothing_is_left(sandbox)


def test_a_node_that_is_gone_and_one_without_torch(sandbox: Sandbox, tmp_path: Path) -> None:
    bare = executable(tmp_path / "bare python", f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    with socket.socket() as listener:  # bound and not listening: whoever connects is refused
        listener.bind(("127.0.0.1", 0))
        gone = {"address": "127.0.0.1", "port": listener.getsockname()[1]}
        inventory = inventory_with(sandbox, tmp_path / "inventory.yaml", gpu1={"python": str(bare)}, gone=gone)
        done = ugro_check(sandbox, "--network", "--json", "--on", "gpu1,gpu2,gone", inventory=inventory)
    assert done.returncode == 3, done.stdout + done.stderr
    document = json.loads(done.stdout)
    without_torch, healthy, unreachable = document["nodes"]
    assert without_torch["reachable"] and without_torch["python"]["torch"] is None and healthy["python"]["torch"]
    assert (unreachable["reachable"], unreachable["error"]["code"]) == (False, "unreachable")
    assert all(unreachable[part] is None for part in ("clock", "python", "machine", "way", "view"))
    problems = {one["node"]: one for one in document["findings"] if one["level"] == "problem"}
    assert set(problems) == {"gpu1", "gone"}
    assert "no torch" in problems["gpu1"]["text"] and str(bare) in problems["gpu1"]["text"]
    assert problems["gone"]["hint"] and not problems["gone"]["text"].startswith("gone:")
    assert document["network"] is None
    assert any("network was not measured" in one["text"] for one in document["findings"])
    assert_nothing_is_left(sandbox)


def test_a_network_of_one_node_is_refused_at_once(sandbox: Sandbox) -> None:
    done = ugro_check(sandbox, "--network", "--on", "gpu1")
    assert (done.returncode, done.stdout) == (2, "") and "two nodes" in done.stderr
