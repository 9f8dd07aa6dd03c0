"""Verdicts of `ugro check --gpu` on its measurements (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from ugro.common.models.argument_change import ArgumentChange
from ugro.common.models.gpu import Gpu
from ugro.common.models.node import NodeView
from ugro.common.models.record import Record
from ugro.common.text import count, printable, size, some
from ugro.control_plane.preflight.findings import Level
from ugro.control_plane.preflight.software import judge_torch_with_gpus
from ugro.nodes.remote.checkup.checkup import PythonFacts
from ugro.nodes.remote.checkup.machine import MachineReport
from ugro.nodes.remote.speed.speed import MeasuredSpeed

CORE = ("memory_total_mib", "memory_used_mib", "memory_free_mib", "utilization_percent", "temperature_c", "driver")
"""Fields that every driver reports of a GPU; without them UGRO cannot place jobs."""

MORE = ("power_w", "sm_clock_mhz", "memory_clock_mhz", "throttled")
"""Fields that some drivers and laptops do not report."""

BUSY_PERCENT = 50
"""Utilization of a GPU that only multiplies matrices, at least."""

FREE_WITHIN = 10.0
"""Seconds after the end of a job in which its memory has to be free."""

LEFT_MIB = 64
"""Memory by which two idle observations of one GPU may differ."""

RAS_SINCE = (2, 24)
"""The NCCL from which on its RAS answers (release notes of 2.24)."""

State = Literal["passed", "failed", "skipped"]


class GpuVerdict(Record):
    """Result of a check, with its figures by name."""

    state: State
    text: str
    hint: str = ""
    figures: dict[str, float] = Field(default_factory=dict)


def passed(text: str, **figures: float) -> GpuVerdict:
    """Make a verdict that everything is as it should be."""
    return GpuVerdict(state="passed", text=text, figures=figures)


def failed(text: str, hint: str, **figures: float) -> GpuVerdict:
    """Make a verdict that something does not work."""
    return GpuVerdict(state="failed", text=text, hint=hint, figures=figures)


def skipped(text: str, **figures: float) -> GpuVerdict:
    """Make a verdict that a check is not possible here, and why."""
    return GpuVerdict(state="skipped", text=text, figures=figures)


def judge_probe(all_at_once: NodeView, one_by_one: NodeView) -> GpuVerdict:
    """Whether nvidia-smi says what UGRO needs, of all GPUs at once and of each alone."""
    if all_at_once.gpu_problem:
        return failed(f"nvidia-smi: {all_at_once.gpu_problem}", "look there: nvidia-smi")
    missing = {name: _lacks(gpu, CORE) for gpu in all_at_once.gpus if (name := gpu.uuid or gpu.name)}
    if lacking := {name: fields for name, fields in missing.items() if fields}:
        name, fields = next(iter(lacking.items()))
        hint = "send the outputs to UGRO's developers: ugro check --gpu --capture DIR"
        return failed(f"the driver does not say {some(fields)} of {name}", hint)
    known, again = ({gpu.uuid for gpu in view.gpus} for view in (all_at_once, one_by_one))
    if known != again or one_by_one.gpu_problem:
        why = one_by_one.gpu_problem or f"{count(len(again), 'GPU')} and not {len(known)}"
        return failed(f"nvidia-smi -i UUID, asked for each GPU, shows {why}", "try: nvidia-smi -i 0")
    unsaid = sorted({field for gpu in all_at_once.gpus for field in _lacks(gpu, MORE)})
    also = f"; not {some(unsaid)}, which this driver does not say" if unsaid else ""
    names = some(sorted({gpu.name for gpu in all_at_once.gpus}))
    number = len(all_at_once.gpus)
    said = len(CORE) + len(MORE) - len(unsaid)
    return passed(f"{count(number, 'GPU')} ({names}): {said} fields of each{also}", gpus=number, fields=said)


def _lacks(gpu: Gpu, fields: Sequence[str]) -> list[str]:
    return [field for field in fields if getattr(gpu, field) is None]


def judge_torch(gpus: Sequence[Gpu], python: PythonFacts, machine: MachineReport) -> GpuVerdict:
    """Whether torch can use all GPUs."""
    if not python.torch:
        why = f": {python.torch_error}" if python.torch_error else ""
        return failed(f"{python.executable} has no torch that works{why}", "install it, or name another: --python PATH")
    for remark in judge_torch_with_gpus(gpus, python, machine):
        if remark.level in (Level.PROBLEM, Level.WARNING):
            return failed(remark.text, remark.hint)
        if machine.simulated:
            return skipped(remark.text)
    nccl = f", NCCL {python.nccl}" if python.nccl else ""
    return passed(f"torch {python.torch} for CUDA {python.cuda}{nccl} sees {count(python.devices, 'GPU')}")


def judge_speeds(gpus: Sequence[Gpu], speeds: Sequence[MeasuredSpeed]) -> GpuVerdict:
    """Whether each GPU was measured."""
    unmeasured = {gpu.uuid for gpu in gpus} - {speed.uuid for speed in speeds}
    if unmeasured:
        return failed(f"no speed of {some(sorted(unmeasured))}", "try: ugro measure")
    said = ", ".join(f"{speed.steps_per_second:.1f}" for speed in speeds)
    slowest, fastest = (pick(speed.steps_per_second for speed in speeds) for pick in (min, max))
    return passed(f"{said} steps/s", slowest_steps_per_s=slowest, fastest_steps_per_s=fastest)


def judge_all_reduce(result: Mapping[str, object] | None, ranks: int, simulated: bool, reason: str) -> GpuVerdict:
    """Whether a job on every GPU summed right, over NCCL. `reason`: why there is no result."""
    if result is None:
        return failed(f"no result: {printable(reason)}", "see the last lines of its log above; try: NCCL_DEBUG=INFO")
    backend, right = result.get("backend"), result.get("right")
    if right is not True or result.get("ranks") != ranks:
        return failed(f"the sum of {count(ranks, 'rank')} is wrong", "test the machine's memory and PCIe links")
    rate, milliseconds = _figure(result, "gbit_per_s"), _figure(result, "milliseconds")
    figures = {"gbit_per_s": rate, "milliseconds": milliseconds}
    said = f"all-reduce of 64 MiB over {count(ranks, 'rank')} with {backend}: {milliseconds:.1f} ms"
    said += f", {rate:.1f} Gbit/s" if ranks > 1 else ""
    if backend != "nccl":
        if simulated:
            return skipped(f"the GPU is simulated; on CPUs: {said}", **figures)
        return failed(f"the job used {backend}, not NCCL", "install a torch with CUDA and NCCL")
    return passed(said, **figures)


def judge_load(gpus: Sequence[Gpu], simulated: bool) -> GpuVerdict:
    """Whether GPUs at work show it, and say why their clocks are lowered."""
    if idle := [gpu.name for gpu in gpus if (gpu.utilization_percent or 0) < BUSY_PERCENT]:
        if simulated:
            return skipped("the GPU is simulated: its load is that of the CPU")
        return failed(f"{some(idle)} computes, and nvidia-smi says less than {BUSY_PERCENT} %", "try: nvidia-smi dmon")
    if any(gpu.throttled is None for gpu in gpus):
        return skipped("the driver does not say why clocks are lowered")
    reasons = sorted({reason for gpu in gpus for reason in gpu.throttled or ()})
    hot = max((gpu.temperature_c or 0 for gpu in gpus), default=0)
    power = sum(gpu.power_w or 0 for gpu in gpus)
    said = f"lowered by {some(reasons)}" if reasons else "not lowered"
    text = f"at full load: clocks {said}; up to {hot} °C, {power:.0f} W in all"
    return passed(text, temperature_c=hot, power_w=power)


def judge_ras(report: str, nccl: str | None, ranks: int, simulated: bool) -> GpuVerdict:
    """Return whether NCCL's RAS reports on the job while one rank is stopped."""
    if simulated or nccl is None:
        return skipped("no NCCL: the job ran on CPUs")
    if ranks < 2:
        return skipped("one GPU: its only rank cannot answer while it is stopped")
    version = tuple(int(part) for part in nccl.split(".")[:2] if part.isdigit())
    if version < RAS_SINCE:
        return skipped(f"NCCL {nccl} has no RAS: that begins with 2.24")
    if not report:
        return failed("NCCL's RAS gave no answer", "is NCCL_RAS_ENABLE=0 set, or a firewall on loopback?")
    return passed(f"RAS answered while a rank was stopped: {count(len(report.splitlines()), 'line')}")


def judge_cancel(
    ended_after: float | None, free_after: float | None, left_mib: int, limit: float = FREE_WITHIN
) -> GpuVerdict:
    """Whether a cancelled job ended, and its GPU memory is free again. None: it did not."""
    if ended_after is None:
        return failed("the job did not end", "look for its processes: nvidia-smi")
    if free_after is None or left_mib > LEFT_MIB:
        text = f"ended after {ended_after:.1f} s, but {size(left_mib)} of GPU memory stayed in use"
        return failed(text, "look for processes: nvidia-smi, fuser -v /dev/nvidia*", ended_s=ended_after)
    text = f"no processes after {ended_after:.1f} s, and the memory is free after {free_after:.1f} s"
    if free_after > limit:
        return failed(text, "the driver is slow: is persistence mode on?", ended_s=ended_after, free_s=free_after)
    return passed(text, ended_s=ended_after, free_s=free_after)


def judge_oom(cause: str | None, changes: Sequence[ArgumentChange], resumed: bool, reason: str) -> GpuVerdict:
    """Whether a batch that is too large was diagnosed, and half of it ran. `reason`: what came instead."""
    if cause != "cuda_oom":
        return failed(f"the cause is {cause or 'unknown'}, not cuda_oom: {printable(reason)}", "see its log above")
    halved = next((change for change in changes if "batch" in change.name), None)
    if halved is None:
        return failed("no smaller batch was proposed", "see: ugro resume --help")
    said = f"CUDA OOM with {halved.name} {halved.before} was diagnosed"
    if not resumed:
        return failed(f"{said}, but {halved.after} did not run: {printable(reason)}", "see its log above")
    return passed(f"{said}; resumed with {halved.after}, which fits")


class Sized(Record):
    """A model that was trained: what was estimated, and what it took of the GPU, in MiB."""

    name: str
    mib: int
    low_mib: int
    high_mib: int
    used_mib: int

    @property
    def error(self) -> float:
        """The estimate's error, as a share of what was used."""
        return self.mib / self.used_mib - 1


def judge_estimates(found: Sequence[Sized], too_large: Sequence[str], reason: str) -> GpuVerdict:
    """Whether the memory of models lies in the band that was estimated."""
    if not found:
        return failed(f"no model was trained: {printable(reason)}", "see its log above")
    said = ", ".join(f"{one.name} {size(one.used_mib)} ({one.error:+.0%})" for one in found)
    said += f"; {some(too_large)} too large for this GPU" if too_large else ""
    figures = {f"{one.name}_error_percent": round(one.error * 100, 1) for one in found}
    outside = [one for one in found if not one.low_mib <= one.used_mib <= one.high_mib]
    if outside:
        bands = ", ".join(f"{one.name} {one.low_mib} to {one.high_mib} MiB" for one in outside)
        return failed(f"{said}; outside of the estimate: {bands}", "report it, with this line", **figures)
    return passed(f"{said}: in the estimated band", **figures)


def _figure(result: Mapping[str, object], name: str) -> float:
    value = result.get(name)
    return float(value) if isinstance(value, int | float) else 0.0
