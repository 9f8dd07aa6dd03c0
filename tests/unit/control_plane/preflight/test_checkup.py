"""`ugro check`: what the answers of nodes mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from ugro.common.config import NodeConfig
from ugro.common.errors import NodeRefused, Unreachable
from ugro.common.models.gpu import Gpu, GpuProcess
from ugro.common.models.node import NodeView
from ugro.control_plane.preflight import Finding, Level, Report, judge, judge_state
from ugro.control_plane.preflight.network_report import RankFacts, hung, idle_gpus, last_words, slow_links
from ugro.control_plane.preflight.software import compare_gpus, fits
from ugro.nodes.remote.checkup.checkup import ClockReading, NodeReport, PeerRoute, PythonFacts, clock_sample
from ugro.nodes.remote.checkup.machine import MachineReport, Power, parse_machine

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
MACHINE = MachineReport(
    user="ob", shm_mib=16000, open_files=1048576, rsync=True, interfaces=("lo", "enp5s0"), kills_at_logout=False,
    persistence={UUID: True}, compute_caps={UUID: "8.9"},
)  # fmt: skip
GOOD = NodeReport(
    clock=ClockReading(offset=0.003, uncertainty=0.001), view=VIEW, machine=MACHINE, python=PYTHON,
    way=PeerRoute(peer="192.168.1.100", address="192.168.1.101", interface="enp5s0"),
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
@N -
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
    findings = found(report(machine=parsed, way=PeerRoute(peer="10.0.0.1", address="10.0.0.7", interface="wlp3s0")))
    assert [(finding.level, finding.text) for finding in findings] == [
        ("info", "persistence mode is off (NVIDIA GeForce RTX 4090): each query of the GPU may take seconds"),
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
    findings = found(report(clock=ClockReading(offset=offset, uncertainty=uncertainty)))
    assert [finding.text for finding in findings] == ([said] if said else [])


def test_a_skewed_clock_is_explained() -> None:
    skewed = report(
        clock=ClockReading(offset=3, uncertainty=0), machine=MACHINE.model_copy(update={"clock_synchronized": False})
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
    gpus = (replace(GPU, problem="GPU is lost"), Gpu(index=1, uuid="GPU-2", name="A100", mig=True))
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


def test_a_peer_that_is_this_machine_itself() -> None:
    looped = report(way=PeerRoute(peer="127.0.1.1", address="127.0.0.1", interface="lo"))
    assert only(looped).text == "the other node's address 127.0.1.1 is this machine itself"


def test_nodes_that_agree() -> None:
    across = [finding for finding in found({"a": GOOD, "b": GOOD}, Level.OK) if finding.node is None]
    assert [finding.text for finding in across] == [
        "the same everywhere: python 3.11, torch 2.6.0, CUDA 12.4, NCCL 2.21.5"
    ]


def test_nodes_that_disagree_name_who_has_what() -> None:
    other = python(python="3.10.12", torch="2.5.1+cu121", cuda="12.1", nccl="2.20.5")
    findings = found({"gpu-master": GOOD, "gpu1": other, "gpu2": GOOD})
    assert [(finding.level, finding.node, finding.text) for finding in findings if finding.node is None] == [
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
    assert parsed == MachineReport(
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
    parsed = parse_machine(output + "@N -\n", "N")
    assert parsed and parsed.kills_at_logout is kills and parsed.linger is bool(linger)


@pytest.mark.parametrize("output", ["", "@N open_files 3\n", "@M user ob\n", "\0\xff"])
def test_an_answer_that_says_nothing(output: str) -> None:
    assert parse_machine(output, "N") is None


def test_an_answer_that_makes_no_sense() -> None:
    output = "@N user \n@N shm x y z\n@N open_files unlimited\n@N supply Battery\n@N chassis\n@N ntp\n@N gpu\n@N"
    parsed = parse_machine(output, "N")
    assert parsed == MachineReport(user="", complete=False)


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
    facts = RankFacts(
        NODES, ["noise\n" + said(joined=0) + link + said(all_reduce=2**24, seconds=0.5, bus_rate=3e7), ""]
    )
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
    facts = RankFacts(NODES, [log])
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
    remark = hung(NODES, RankFacts(NODES, logs), 60, "10.0.0.1:29500", {"b": "one\n\n\x1b[31mtwo\n" + said(joined=1)})
    assert remark.text.startswith("no result within 60 s") and words in remark.text
    assert remark.hint.splitlines()[1:] == ["b | one", "b | two"]


def test_last_words_are_few() -> None:
    log = "\n".join(map(str, range(99))) + "\nframe #3: <unknown function> + 0x2724a (0x7f in libc.so.6)\n"
    assert list(last_words({"a": log})) == ["a | 95", "a | 96", "a | 97", "a | 98"]


def test_gpus_for_a_trial_are_idle_and_on_every_node() -> None:
    other = replace(GPU, uuid="GPU-2")
    busy = replace(other, processes=(GpuProcess(pid=1, name="python"),))

    def with_gpus(*gpus: Gpu) -> NodeReport:
        return report(view=VIEW.model_copy(update={"gpus": gpus}))

    assert idle_gpus(NODES, {"a": GOOD, "b": with_gpus(busy, GPU)}, ()) == {"a": UUID, "b": UUID}
    assert idle_gpus(NODES, {"a": GOOD, "b": with_gpus(busy)}, ()) == {}
    assert idle_gpus(NODES, {"a": GOOD, "b": with_gpus(other)}, ["GPU-2"]) == {}
    assert idle_gpus(NODES, {"a": GOOD, "b": python(cuda_available=False)}, ()) == {}
