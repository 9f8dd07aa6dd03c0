"""What the checks of `ugro check --gpu` make of what was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ugro.common.models.argument_change import ArgumentChange
from ugro.common.models.gpu import Gpu
from ugro.common.models.node import NodeView
from ugro.control_plane.preflight.gpu_verdicts import (
    GpuVerdict,
    Sized,
    judge_all_reduce,
    judge_cancel,
    judge_estimates,
    judge_load,
    judge_oom,
    judge_probe,
    judge_ras,
    judge_speeds,
    judge_torch,
)
from ugro.nodes.remote.checkup.checkup import PythonFacts
from ugro.nodes.remote.checkup.machine import MachineReport
from ugro.nodes.remote.speed.speed import MeasuredSpeed

UUID = "GPU-00000000-0000-0000-0000-000000000001"
H100 = Gpu(
    index=0,
    uuid=UUID,
    name="NVIDIA H100 80GB HBM3",
    memory_total_mib=81559,
    memory_used_mib=4,
    memory_free_mib=81075,
    utilization_percent=98,
    temperature_c=54,
    power_w=612.3,
    sm_clock_mhz=1980,
    memory_clock_mhz=2619,
    throttled=("power_cap",),
    driver="580.95.05",
)
NVIDIA = MachineReport(user="ob", compute_caps={UUID: "9.0"})


def view(*gpus: Gpu, problem: str | None = None) -> NodeView:
    return NodeView(node="here", seen_at=0, boot_id="b", clock_offset=0, cpu_count=8, gpus=gpus, gpu_problem=problem)


def python(**changes: object) -> PythonFacts:
    facts = PythonFacts(
        python="3.12.3",
        executable="/venv/bin/python",
        torch="2.13.0+cu130",
        torch_error=None,
        distributed=True,
        cuda="13.0",
        cuda_available=True,
        cuda_error=None,
        devices=1,
        nccl="2.29.7",
        archs=("sm_90",),
    )
    return facts.model_copy(update=changes)


def test_passes_a_driver_that_says_everything_and_names_what_it_does_not() -> None:
    assert judge_probe(view(H100), view(H100)).text == "1 GPU (NVIDIA H100 80GB HBM3): 10 fields of each"
    laptop = replace(H100, power_w=None)
    found = judge_probe(view(laptop), view(laptop))
    assert found.state == "passed" and "not power_w, which this driver does not say" in found.text


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (judge_probe(view(problem="driver not loaded"), view()), "nvidia-smi: driver not loaded"),
        (judge_probe(view(replace(H100, driver=None)), view(H100)), f"does not say driver of {UUID}"),
        (judge_probe(view(H100), view()), "asked for each GPU, shows 0 GPUs and not 1"),
        (judge_probe(view(H100), view(H100, problem="hangs")), "asked for each GPU, shows hangs"),
        (
            judge_torch([H100], python(torch=None, torch_error="libcudart"), NVIDIA),
            "has no torch that works: libcudart",
        ),
        (
            judge_torch([H100], python(cuda_available=False, cuda_error="too old"), NVIDIA),
            "cannot use the GPU: too old",
        ),
        (judge_torch([H100], python(devices=0), NVIDIA), "torch sees 0 of 1 GPUs"),
        (judge_torch([H100], python(archs=("sm_120",)), NVIDIA), "no code for NVIDIA H100"),
        (judge_speeds([H100], []), f"no speed of {UUID}"),
        (judge_all_reduce(None, 1, False, "rank 0 ended with exit code 1"), "no result: rank 0 ended with exit code 1"),
        (
            judge_all_reduce({"backend": "nccl", "right": False, "ranks": 2}, 2, False, ""),
            "the sum of 2 ranks is wrong",
        ),
        (judge_all_reduce({"backend": "gloo", "right": True, "ranks": 1}, 1, False, ""), "used gloo, not NCCL"),
        (judge_load([replace(H100, utilization_percent=3)], False), "says less than 50 %"),
        (judge_ras("", "2.29.7", 2, False), "RAS gave no answer"),
        (judge_cancel(None, None, 900), "the job did not end"),
        (judge_cancel(3.0, None, 900), "ended after 3.0 s, but 900 MiB of GPU memory stayed in use"),
        (judge_cancel(3.0, 14.0, 0), "the memory is free after 14.0 s"),
        (judge_oom("python_exception", (), False, "KeyError"), "the cause is python_exception, not cuda_oom: KeyError"),
        (judge_oom("cuda_oom", (), False, ""), "no smaller batch was proposed"),
        (judge_estimates([], [], "rank 0 was killed"), "no model was trained: rank 0 was killed"),
    ],
)
def test_fails_with_what_is_wrong_and_a_next_command(found: GpuVerdict, text: str) -> None:
    assert found.state == "failed" and text in found.text and found.hint


def test_reports_figures_of_what_passes() -> None:
    assert judge_torch([H100], python(), NVIDIA).text == "torch 2.13.0+cu130 for CUDA 13.0, NCCL 2.29.7 sees 1 GPU"
    fast = MeasuredSpeed(index=0, uuid=UUID, name="H100", steps_per_second=211.3)
    assert judge_speeds([H100], [fast]).figures == {"slowest_steps_per_s": 211.3, "fastest_steps_per_s": 211.3}
    result = {"backend": "nccl", "right": True, "ranks": 2, "gbit_per_s": 812.5, "milliseconds": 1.25}
    summed = judge_all_reduce(result, 2, False, "")
    assert summed.text == "all-reduce of 64 MiB over 2 ranks with nccl: 1.2 ms, 812.5 Gbit/s"
    assert summed.figures == {"gbit_per_s": 812.5, "milliseconds": 1.25}
    assert judge_load([H100], False).text == "at full load: clocks lowered by power_cap; up to 54 °C, 612 W in all"
    assert judge_cancel(2.5, 3.1, 0).figures == {"ended_s": 2.5, "free_s": 3.1}
    assert judge_ras("RAS\njob\n", "2.29.7", 2, False).state == "passed"


def test_skips_what_cannot_be_known_here() -> None:
    simulated = MachineReport(user="ob", simulated=True)
    one_gloo = {"backend": "gloo", "right": True, "ranks": 1, "gbit_per_s": 0.0, "milliseconds": 1.0}
    for found, text in (
        (judge_torch([H100], python(cuda=None, cuda_available=None), simulated), "its GPU is simulated"),
        (judge_all_reduce(one_gloo, 1, True, ""), "the GPU is simulated; on CPUs"),
        (judge_load([replace(H100, throttled=None)], False), "does not say why clocks are lowered"),
        (judge_load([replace(H100, utilization_percent=3)], True), "the GPU is simulated"),
        (judge_ras("", "2.29.7", 1, False), "one GPU: its only rank cannot answer"),
        (judge_ras("", "2.21.5", 2, False), "NCCL 2.21.5 has no RAS"),
        (judge_ras("", None, 2, False), "no NCCL"),
    ):
        assert found.state == "skipped" and text in found.text


def test_says_with_which_batch_a_job_was_resumed() -> None:
    halved = ArgumentChange(name="--batch-size", before="8", after="4")
    assert judge_oom("cuda_oom", [halved], True, "").text == (
        "CUDA OOM with --batch-size 8 was diagnosed; resumed with 4, which fits"
    )
    again = judge_oom("cuda_oom", [halved], False, "CUDA out of memory")
    assert again.state == "failed" and "but 4 did not run: CUDA out of memory" in again.text


def test_compares_estimates_with_their_band() -> None:
    small = Sized(name="gpt2", mib=4628, low_mib=4088, high_mib=5616, used_mib=4200)
    found = judge_estimates([small], ["gpt2-medium"], "")
    assert found.state == "passed" and found.figures == {"gpt2_error_percent": 10.2}
    assert found.text == "gpt2 4.1 GiB (+10%); gpt2-medium too large for this GPU: in the estimated band"
    outside = judge_estimates([small, small.model_copy(update={"name": "big", "used_mib": 6000})], [], "")
    assert outside.state == "failed" and "outside of the estimate: big 4088 to 5616 MiB" in outside.text
