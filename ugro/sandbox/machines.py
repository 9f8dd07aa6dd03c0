"""The machines of the sandbox. Only the standard library: the simulated nvidia-smi has to start quickly."""

from __future__ import annotations

from typing import NamedTuple


class SimulatedMachine(NamedTuple):
    """One simulated machine with its GPU. Memory is in MiB, power in watts.

    `display_mib` is what a desktop keeps of the GPU while nothing computes.
    """

    node: str
    address: str
    gpu: str
    memory_mib: int
    display_mib: int
    compute_cap: str
    idle_w: float
    limit_w: float


MACHINES = (
    SimulatedMachine("gpu-master", "127.0.0.11", "NVIDIA GeForce RTX 5070 Ti", 12227, 418, "12.0", 14.2, 300.0),
    SimulatedMachine("gpu1", "127.0.0.12", "NVIDIA GeForce RTX 4070", 8188, 0, "8.9", 11.6, 200.0),
    SimulatedMachine("gpu2", "127.0.0.13", "NVIDIA GeForce RTX 3070 Ti", 8192, 0, "8.6", 17.9, 290.0),
)

MARK = "UGRO_SANDBOX"
"""The environment variable that names the sandbox's folder in everything that was started through it."""

NODE_MARK = "UGRO_SANDBOX_NODE"
"""The environment variable that names the node something runs on."""

READY = b"ready\n"
"""What the daemon prints once its nodes can be reached."""
