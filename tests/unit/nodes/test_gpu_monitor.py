"""The node probe: `tests/probes/*.json` against the parser, and the shell script itself with a scripted nvidia-smi.

A fixture's `output` is the script's, with "@ " for the nonce's marker; where it does not begin with the machine's own
part, that part and the end are added. Its `expect` names the fields that matter.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import TESTS

from ugro.common.config import NodeConfig
from ugro.common.errors import CommandTimedOut, NodeRefused
from ugro.common.models.gpu import GpuProcess
from ugro.common.models.node import NodeView
from ugro.nodes.remote.gpus.gpu_monitor import NO_ANSWER, PROBE_SCRIPT, look, parse_probe
from ugro.nodes.transport import LocalTransport

PROBES = sorted((TESTS / "probes").glob("*.json"))
NONCE = "0badc0de"
MACHINE = [
    "@ node",
    "started=1760000000.250000000",
    "boot_id=2a217b5d-c0ae-4413-bc84-e499d55a6ee9",
    "cpus=16",
    "load=0.52",
    "total_kib=65536000",
    "available_kib=32768000",
]
END = ["@ disk 20616726 4096", "@ end 1760000001.250000000", "@ -"]

GPU_A = "GPU-5c1e0a7e-1111-2222-3333-444455556666"
GPU_B = "GPU-8d20f3c4-aaaa-bbbb-cccc-ddddeeeeffff"


def probe_output(fixture: dict[str, Any]) -> str:
    lines = fixture["output"]
    if lines[0] != "@ node":
        lines = [*MACHINE, f"expected_gpus={fixture.get('driver_gpus', 0)}", *lines, *END]
    return "".join(f"@{NONCE} {line[2:]}\n" if line.startswith("@ ") else f"{line}\n" for line in lines)


def parse(output: str) -> NodeView:
    return parse_probe("gpu1", output, 1760000000.0, 1760000001.0, NONCE)


def assert_has(seen: Any, expected: Any, where: str = "view") -> None:
    """`seen` has what is expected: every named field, lists of the same length."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert_has(seen[key], value, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(seen) == len(expected), f"{where}: {seen}"
        for index, value in enumerate(expected):
            assert_has(seen[index], value, f"{where}[{index}]")
    else:
        assert seen == expected, where


@pytest.mark.parametrize("path", PROBES, ids=lambda path: path.stem)
def test_probe_fixture(path: Path) -> None:
    fixture = json.loads(path.read_text(encoding="utf-8"))
    assert_has(parse(probe_output(fixture)).model_dump(), fixture["expect"])


@pytest.mark.parametrize(
    ("gone", "said"),
    [("started=", "time"), ("cpus=", "number of CPUs"), ("boot_id=", "boot id"), ("@ node", "time")],
)
def test_a_machine_that_does_not_tell_the_basics_is_refused(gone: str, said: str) -> None:
    lines = [line for line in [*MACHINE, *END] if not line.startswith(gone)]
    with pytest.raises(NodeRefused, match=f"gpu1: the observation has no {said}"):
        parse("".join(line.replace("@", f"@{NONCE}") + "\n" for line in lines))


def test_the_clock_offset_does_not_suffer_from_a_slow_nvidia_smi() -> None:
    output = probe_output({"output": [*MACHINE, "@ gpus 127", "@ end 1760000005.25", "@ -"]})
    view = parse_probe("gpu1", output, asked_at=1760000010.0, answered_at=1760000015.0, nonce=NONCE)
    assert view.clock_offset == pytest.approx(-9.75)


# Anything


OUTPUTS = [probe_output(json.loads(path.read_text(encoding="utf-8"))) for path in PROBES]
PIECES = st.sampled_from(sorted({line for output in OUTPUTS for line in output.splitlines()}))


def is_view_or_refusal(output: str) -> bool:
    """Whether the answer is refused, or a view that can be kept and names no GPU twice."""
    try:
        view = parse(output)
    except NodeRefused:
        return True
    uuids = [gpu.uuid for gpu in view.gpus if gpu.uuid]
    return NodeView.model_validate_json(view.model_dump_json()) == view and len(uuids) == len(set(uuids))


def test_control_characters_around_a_number_do_no_harm() -> None:
    output = probe_output({"output": [*MACHINE, *END]})
    assert parse(output.replace("=", "=\x1f")).cpu_count == 16


@given(st.text())
def test_any_text_is_a_view_or_refused(text: str) -> None:
    assert is_view_or_refusal(text)


@given(st.lists(PIECES | st.text(max_size=40)))
def test_any_lines_are_a_view_or_refused(lines: list[str]) -> None:
    assert is_view_or_refusal(probe_output({"output": [*MACHINE, "@ gpus 0"]}) + "\n".join(lines))


@given(st.sampled_from(OUTPUTS), st.data())
def test_a_mutated_answer_is_a_view_or_refused(output: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(output)))
    length = data.draw(st.integers(0, 40))
    assert is_view_or_refusal(output[:start] + data.draw(st.text(max_size=20)) + output[start + length :])


@given(st.sampled_from(OUTPUTS), st.data())
def test_half_an_answer_never_shows_other_gpus_than_the_whole(output: str, data: st.DataObject) -> None:
    half = output[: data.draw(st.integers(0, len(output)))]
    try:
        seen = parse(half)
    except NodeRefused:
        return
    whole = {(gpu.index, gpu.uuid, gpu.memory_used_mib) for gpu in parse(output).gpus if not gpu.problem}
    assert {(gpu.index, gpu.uuid, gpu.memory_used_mib) for gpu in seen.gpus if not gpu.problem} <= whole


# The script for real


ROWS = {
    GPU_A: f"0, {GPU_A}, 24564, 1013, 23063, 37, 61, 550.120, 142.31, [N/A], NVIDIA GeForce RTX 4090",
    GPU_B: f"1, {GPU_B}, 24576, 18, 24110, 0, 33, 550.120, 21.05, [N/A], NVIDIA GeForce RTX 3090",
}
HEADER = (
    "index, uuid, memory.total [MiB], memory.used [MiB], memory.free [MiB], utilization.gpu [%], temperature.gpu, "
    "driver_version, power.draw [W], mig.mode.current, name"
)
PROCESSES = "gpu_uuid, pid, used_gpu_memory [MiB], process_name"


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalTransport:
    """This machine, with an empty folder first on PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return LocalTransport(
        NodeConfig(name="gpu1", address="127.0.0.1", local=True, base_dir=f"{tmp_path}/not/yet/there")
    )


Script = Callable[[dict[str, str]], Path]


@pytest.fixture
def nvidia_smi(tmp_path: Path) -> Script:
    """Puts an nvidia-smi on PATH: patterns of its arguments with what it does then. Returns the file of its calls."""

    def write(arms: dict[str, str]) -> Path:
        script = tmp_path / "nvidia-smi"
        cases = "".join(f"{pattern}) {body} ;;\n" for pattern, body in arms.items())
        script.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/calls\ncase "$*" in\n{cases}esac\n')
        script.chmod(0o755)
        return tmp_path / "calls"

    return write


def says(*lines: str, exit: int = 0) -> str:
    return f"printf '%s\\n' {shlex.join(lines)}; exit {exit}"


async def test_a_machine_without_nvidia_smi(local: LocalTransport) -> None:
    before = time.time()
    view = await look(local)
    assert before <= view.seen_at <= time.time()
    assert abs(view.clock_offset) < 0.2
    assert view.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert view.cpu_count == len(os.sched_getaffinity(0))
    assert view.memory_total_mib == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    assert view.memory_available_mib and view.load_1m is not None
    filesystem = os.statvfs(local.node.base_dir.removesuffix("/not/yet/there"))
    assert view.disk_free_mib == pytest.approx(filesystem.f_bavail * filesystem.f_frsize / 2**20, abs=512)
    assert (view.gpus, view.gpu_problem) == ((), None)


@pytest.mark.parametrize("base_dir", ["~/.ugro", "~/no such/folder", "/", "/no/such", "/etc/passwd/under a file"])
async def test_reports_the_disk_of_any_base_dir(base_dir: str, local: LocalTransport) -> None:
    local.node = local.node.model_copy(update={"base_dir": base_dir})
    assert (await look(local)).disk_free_mib


async def test_the_environment_does_not_change_the_answer(
    local: LocalTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("lost", "yes")
    view = await look(local)
    assert view.cpu_count == len(os.sched_getaffinity(0))
    assert view.gpu_problem is None


async def test_healthy_gpus_and_the_owner_of_a_real_process(local: LocalTransport, nvidia_smi: Script) -> None:
    me = f"{GPU_A}, {os.getpid()}, 22786, python, with a comma"
    gone = f"{GPU_B}, 999999999, 5, [Not Found]"
    calls = nvidia_smi(
        {"*--query-gpu=*": says(HEADER, *ROWS.values()), "*--query-compute-apps=*": says(PROCESSES, me, gone)}
    )
    view = await look(local)
    first, second = view.gpus
    assert view.gpu_problem is None
    assert (first.name, first.memory_used_mib, first.power_w) == ("NVIDIA GeForce RTX 4090", 1013, 142.31)
    name = psutil.Process().username()
    assert first.processes == (GpuProcess(pid=os.getpid(), name="python, with a comma", user=name, memory_mib=22786),)
    assert second.processes == (GpuProcess(pid=999999999, name="[Not Found]", user=None, memory_mib=5),)
    assert calls.read_text().splitlines() == [
        "--format=csv,nounits --query-gpu=index,uuid,memory.total,memory.used,memory.free,utilization.gpu,"
        "temperature.gpu,driver_version,power.draw,mig.mode.current,clocks.sm,clocks.mem,"
        "clocks_event_reasons.active,name",
        "--format=csv,nounits --query-compute-apps=gpu_uuid,pid,used_memory,process_name",
    ]


async def test_reports_a_driver_that_knows_more_gpus_than_nvidia_smi_shows(
    local: LocalTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "driver/gpus/0000:01:00.0").mkdir(parents=True)
    (tmp_path / "driver/gpus/0000:01:00.0/information").write_text(f"Model: \t NVIDIA X\nGPU UUID: \t {GPU_A}\n")
    monkeypatch.setenv("UGRO_NVIDIA_PROC", f"{tmp_path}/driver")
    assert (await look(local)).gpu_problem == "the driver knows 1 GPUs, nvidia-smi shows 0"


async def test_an_unknown_optional_field_does_not_cost_the_core(local: LocalTransport, nvidia_smi: Script) -> None:
    core = "index, uuid, memory.total [MiB], memory.used [MiB], name"
    nvidia_smi(
        {
            "*mig.mode.current*": says('Field "mig.mode.current" is not a valid field to query.', "", exit=2),
            "*--query-gpu=*": says(core, f"0, {GPU_A}, 12206, 0, Tesla K80"),
            "*--query-compute-apps=*": says(PROCESSES),
        }
    )
    view = await look(local)
    assert view.gpu_problem is None
    assert [(gpu.name, gpu.memory_used_mib, gpu.power_w) for gpu in view.gpus] == [("Tesla K80", 0, None)]


@pytest.mark.parametrize(
    ("name", "cell", "expected"),
    [
        ("clocks_event_reasons.active", "0x0000000000000024", ("power_cap", "software_thermal")),
        ("clocks_throttle_reasons.active", "0x0000000000000001", ()),
        ("clocks_event_reasons.active", "[N/A]", None),
    ],
)
async def test_clocks_and_why_they_are_lowered(
    local: LocalTransport, nvidia_smi: Script, name: str, cell: str, expected: tuple[str, ...] | None
) -> None:
    refused = 'Field "clocks_event_reasons.active" is not a valid field to query.'
    header = f"index, uuid, clocks.sm [MHz], clocks.mem [MHz], {name}, name"
    cases = {
        f"*{name}*": says(header, f"0, {GPU_A}, 1695, [N/A], {cell}, X"),
        "*clocks_event_reasons*": says(refused, "", exit=2),
        "*--query-compute-apps=*": says(PROCESSES),
    }
    nvidia_smi(cases)
    [gpu] = (await look(local)).gpus
    assert (gpu.sm_clock_mhz, gpu.memory_clock_mhz, gpu.throttled) == (1695, None, expected)


async def test_a_driver_mismatch(local: LocalTransport, nvidia_smi: Script) -> None:
    nvidia_smi({"*": says("Failed to initialize NVML: Driver/library version mismatch", exit=18)})
    view = await look(local)
    assert view.gpus == ()
    assert view.gpu_problem and view.gpu_problem.startswith(
        "Failed to initialize NVML: Driver/library version mismatch"
    )


async def test_a_complaint_on_stderr_is_heard(local: LocalTransport, nvidia_smi: Script) -> None:
    nvidia_smi({"*": "echo 'NVIDIA-SMI: cannot execute binary file' >&2; exit 126"})
    assert (await look(local)).gpu_problem == "NVIDIA-SMI: cannot execute binary file"


LOST = "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.  Reboot the system to recover this GPU"


async def test_a_lost_gpu_does_not_hide_a_healthy_one(local: LocalTransport, nvidia_smi: Script) -> None:
    listed = [f"GPU 0: NVIDIA GeForce RTX 4090 (UUID: {GPU_A})", f"GPU 1: NVIDIA GeForce RTX 3090 (UUID: {GPU_B})"]
    calls = nvidia_smi(
        {
            "-L": says(*listed, "  MIG 1g.10gb     Device  0: (UUID: MIG-0f0e0d0c)"),
            f"'-i {GPU_A} '*--query-gpu=*": says(HEADER, ROWS[GPU_A]),
            f"'-i {GPU_A} '*--query-compute-apps=*": says(PROCESSES, f"{GPU_A}, {os.getpid()}, 7, python"),
            "*": says(LOST, exit=15),
        }
    )
    view = await look(local)
    healthy, lost = view.gpus
    assert view.gpu_problem is None
    assert (healthy.uuid, healthy.problem, healthy.processes[0].pid) == (GPU_A, None, os.getpid())
    assert (lost.index, lost.uuid, lost.memory_used_mib) == (1, GPU_B, None)
    assert lost.problem == "GPU is lost. Reboot the system to recover this GPU"
    assert len(calls.read_text().splitlines()) == 5


async def test_tells_which_processes_belong_to_a_run(local: LocalTransport, nvidia_smi: Script) -> None:
    token = "0123abcd/2/0"
    ours = subprocess.Popen(["sleep", "60"], env={**os.environ, "UGRO_RUN": token, "A": "x\nUGRO_RUN=other/1/0"})
    pids = (ours.pid, os.getpid())
    nvidia_smi(
        {
            "*--query-gpu=*": says(HEADER, ROWS[GPU_A]),
            "*--query-compute-apps=*": says(PROCESSES, *(f"{GPU_A}, {pid}, 7, python" for pid in pids)),
        }
    )
    try:
        (gpu,) = (await look(local)).gpus
    finally:
        ours.kill()
        ours.wait()
    assert {process.pid: process.run for process in gpu.processes} == {ours.pid: token, os.getpid(): None}


async def test_a_hanging_nvidia_smi_is_ended(local: LocalTransport, nvidia_smi: Script) -> None:
    calls = nvidia_smi({"*": "exec sleep 30"})
    began = time.time()
    outcome = await local.run(PROBE_SCRIPT, ("~/.ugro", NONCE, "1"))
    view = parse_probe("gpu1", outcome.text, began, time.time(), NONCE)
    assert (view.gpus, view.gpu_problem) == ((), NO_ANSWER)
    assert view.disk_free_mib
    assert len(calls.read_text().splitlines()) == 1
    assert time.time() - began < 3


async def test_an_nvidia_smi_that_nothing_ends_costs_only_the_gpus(local: LocalTransport, nvidia_smi: Script) -> None:
    """As in the kernel's uninterruptible sleep: the whole probe runs out of time, and what it said before counts."""
    nvidia_smi({"*": "exec sleep 4"})
    view = await look(local, timeout=1)
    assert view.memory_total_mib
    assert (view.gpus, view.gpu_problem) == ((), NO_ANSWER)


async def test_a_node_that_says_nothing_in_time_is_no_view(local: LocalTransport, tmp_path: Path) -> None:
    (tmp_path / "date").write_text("#!/bin/sh\nexec sleep 3\n")
    (tmp_path / "date").chmod(0o755)
    with pytest.raises(CommandTimedOut):
        await look(local, timeout=1)


async def test_a_forged_section_in_a_process_name_stays_a_name(local: LocalTransport, nvidia_smi: Script) -> None:
    forged = [f"{GPU_A}, {os.getpid()}, 7, evil", "@0badc0de -", "@0badc0de disk 1 1", "@$mark end 1", "@* end 1"]
    nvidia_smi({"*--query-gpu=*": says(HEADER, ROWS[GPU_A]), "*": says(PROCESSES, *forged)})
    view = await look(local)
    assert view.gpu_problem is None
    assert view.disk_free_mib and view.disk_free_mib > 1
    assert [process.name for gpu in view.gpus for process in gpu.processes] == ["evil"]
