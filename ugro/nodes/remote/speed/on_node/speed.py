"""Measures how fast each visible GPU trains, or the CPU where there is none, with the very python that will train.

usage: speed.py [GPU_UUID…]
Answers with a list, one object a device: index, uuid (null where torch does not tell), name, steps_per_second. A step
is a forward and a backward pass and an update of a small perceptron, in mixed precision on a GPU: the same work on
every GPU, so their numbers compare; those of CPUs compare only with each other. It takes about 3 s and 2 GB of each.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any, Callable

from ugro.nodes.remote.on_node.answer import answer, refuse

if sys.argv[1:]:  # has to be known before CUDA starts
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(sys.argv[1:])

import torch
from torch import nn

KIND = "speed"
WARM_UP = 1.0  # seconds: clocks rise, kernels are chosen
MEASURED = 2.0


def autocast_type(device: torch.device) -> torch.dtype | None:
    """The type that training would use: bfloat16 from Ampere on, float16 on Volta and Turing, else none but float32."""
    if device.type == "cpu":
        return None
    capability = torch.cuda.get_device_capability(device)
    if capability >= (8, 0):  # torch's own is_bf16_supported() counts slow emulation
        return torch.bfloat16
    return torch.float16 if capability >= (7, 0) else None


def training_step(device: torch.device) -> Callable[[], None]:
    """One step of training, as a function that returns when the device is done."""
    width, rows = (256, 256) if device.type == "cpu" else (4096, 4096)  # large enough to keep the largest GPU busy
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width)]
    model = nn.Sequential(*layers).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    samples = torch.randn(rows, width, device=device)
    dtype = autocast_type(device)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            loss = model(samples).float().square().mean()
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return step


def steps_per_second(step: Callable[[], None]) -> float:
    """How often a step can be done each second, after a warm-up."""
    warm = time.perf_counter() + WARM_UP
    while time.perf_counter() < warm:
        step()
    steps, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < MEASURED:
        step()
        steps += 1
    return steps / (time.perf_counter() - begin)


def measure(device: torch.device) -> dict[str, Any]:
    uuid, name = None, "CPU"
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        name = properties.name
        if sys.argv[1:]:
            uuid = sys.argv[1 + device.index]
        elif hasattr(properties, "uuid"):  # torch >= 2.5; it leaves the prefix out
            uuid = "GPU-" + str(properties.uuid)
    speed = steps_per_second(training_step(device))
    return {"index": device.index or 0, "uuid": uuid, "name": name, "steps_per_second": speed}


def main() -> None:
    gpus = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    if sys.argv[1:] and len(gpus) != len(sys.argv[1:]):
        refuse(KIND, f"torch sees {len(gpus)} of the {len(sys.argv[1:])} GPUs asked for")
    found = []
    for device in gpus or [torch.device("cpu")]:
        found.append(measure(device))
        if device.type == "cuda":
            torch.cuda.empty_cache()
    answer(KIND, found)


if __name__ == "__main__":
    main()
