"""Python, torch and the GPUs of one node."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ugro.common.models.gpu import Gpu
from ugro.common.models.node import NodeView
from ugro.common.text import size
from ugro.control_plane.preflight.findings import Remark, info, ok, problem, warning
from ugro.nodes.remote.checkup.checkup import PythonFacts
from ugro.nodes.remote.checkup.machine import MachineReport

INSTALL = "https://pytorch.org/get-started/locally"

_ARCH = re.compile(r"(sm|compute)_(\d{1,3})(\d)([af]?)")


def judge_python(python: PythonFacts, node: str) -> Iterator[Remark]:
    """Whether torch is there and can train on several nodes."""
    if python.torch_error:
        hint = f"try there: {python.executable} -c 'import torch'"
        yield problem("torch", f"torch cannot be imported: {python.torch_error}", hint)
    elif not python.torch:
        hint = f"find an interpreter there that has it, or make one: ugro node python {node}"
        yield problem("torch", f"python {python.python} has no torch ({python.executable})", hint)
    elif not python.distributed:
        hint = f"install a build that has it: {INSTALL}"
        yield problem("torch", f"torch {python.torch} was built without torch.distributed", hint)
    else:
        cuda = f"for CUDA {python.cuda}" if python.cuda else "without CUDA"
        nccl = f", NCCL {python.nccl}" if python.nccl else ""
        yield ok("python", f"python {python.python} with torch {python.torch} {cuda}{nccl}")


def judge_gpus(view: NodeView, expected: Sequence[str]) -> Iterator[Remark]:
    """Whether the GPUs work, and are those that the inventory names."""
    if view.gpu_problem:
        yield problem("gpus", view.gpu_problem, "look there: nvidia-smi, and sudo dmesg | grep -i -e nvrm -e xid")
    elif not view.gpus:
        yield info("gpus", "no NVIDIA GPU: trainings use the CPU here")
    yield from map(_gpu, view.gpus)
    missing, extra = compare_gpus(expected, view.gpus)
    for wanted in missing:
        hint = "is it powered and seated? Look there: nvidia-smi -L; or correct 'gpus' of this node"
        yield problem("gpus", f"the inventory expects a GPU {wanted!r} that is not there", hint)
    for gpu in extra:
        yield info("gpus", f"{gpu.name} ({gpu.uuid}) is not among 'gpus' in the inventory")


def _gpu(gpu: Gpu) -> Remark:
    if gpu.problem:
        return problem("gpus", f"{gpu.name}: {gpu.problem}", "resetting it or rebooting the machine may help")
    if gpu.mig:
        return warning("gpus", f"{gpu.name} is split (MIG), so no job gets it", "sudo nvidia-smi -mig 0")
    memory = "" if gpu.memory_total_mib is None else f" ({size(gpu.memory_total_mib)})"
    return ok("gpus", f"{gpu.name}{memory}, driver {gpu.driver or 'unknown'}")


def compare_gpus(expected: Sequence[str], present: Sequence[Gpu]) -> tuple[list[str], list[Gpu]]:
    """Return the missing expected GPUs (each a part of a name or UUID), and the GPUs that are not expected.

    Without expectations, any GPU is right.
    """
    if not expected:
        return [], []

    def matching(wanted: str) -> list[Gpu]:
        return [gpu for gpu in present if wanted.lower() in gpu.name.lower() or wanted.lower() in gpu.uuid.lower()]

    missing: list[str] = []
    taken: list[Gpu] = []
    # What only one GPU can be is decided first, so that 'RTX' does not take the one that 'RTX 4090' needs.
    for wanted in sorted(expected, key=lambda wanted: len(matching(wanted))):
        free = [gpu for gpu in matching(wanted) if gpu not in taken]
        taken += free[:1]
        missing += [] if free else [wanted]
    return missing, [gpu for gpu in present if gpu not in taken]


def judge_torch_with_gpus(gpus: Sequence[Gpu], python: PythonFacts, machine: MachineReport) -> Iterator[Remark]:
    """Whether this torch can use these GPUs."""
    if not gpus or not python.torch:
        return
    if machine.simulated and not python.cuda_available:
        yield info("cuda", "its GPU is simulated: trainings compute on the CPU")
        return
    if not python.cuda:
        text = f"torch {python.torch} was built without CUDA and cannot use the GPU"
        yield problem("cuda", text, f"install the CUDA build there: {INSTALL}")
    elif python.cuda_available is False:
        why = python.cuda_error or "torch.cuda.is_available() is False"
        hint = f"is the driver new enough for CUDA {python.cuda}, and CUDA_VISIBLE_DEVICES not set there?"
        yield problem("cuda", f"torch cannot use the GPU: {why}", hint)
    elif python.cuda_available:
        if python.devices != len(gpus):
            hint = "is one of them lost or split (MIG), or CUDA_VISIBLE_DEVICES set there?"
            yield warning("cuda", f"torch sees {python.devices} of {len(gpus)} GPUs", hint)
        yield from _compiled_for(gpus, python, machine)
    slow = [gpu.name for gpu in gpus if machine.persistence.get(gpu.uuid) is False]
    if slow:
        text = f"persistence mode is off ({', '.join(slow)}): each query of the GPU may take seconds"
        yield info("persistence", text, "sudo systemctl enable --now nvidia-persistenced")


def _compiled_for(gpus: Sequence[Gpu], python: PythonFacts, machine: MachineReport) -> Iterator[Remark]:
    for gpu in gpus:
        capability = machine.compute_caps.get(gpu.uuid)
        if capability and python.archs and not fits(python.archs, capability):
            arch = f"sm_{capability.replace('.', '')}"
            text = f"torch {python.torch} has no code for {gpu.name} ({arch}), only for {' '.join(python.archs)}"
            newer = "RTX 50 needs torch 2.7 for CUDA 12.8 or newer" if arch == "sm_120" else "another build has it"
            yield problem("cuda", text, f"{newer}: {INSTALL}")


def fits(archs: Sequence[str], capability: str) -> bool:
    """Whether code for one of these architectures runs on a GPU of that compute capability, given like `12.0`.

    Machine code (`sm_86`) runs on the same major and a later minor version, with the suffix `a` on exactly its own;
    PTX (`compute_90`) is compiled for anything later.
    """
    major, minor = map(int, capability.split("."))
    for match in filter(None, map(_ARCH.fullmatch, archs)):
        kind, built, suffix = match[1], (int(match[2]), int(match[3])), match[4]
        if built == (major, minor):
            return True
        later = built < (major, minor) and suffix != "a"
        if later and (built[0] == major or (kind == "compute" and not suffix)):
            return True
    return False
