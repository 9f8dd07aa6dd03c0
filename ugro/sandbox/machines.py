"""The machines of the sandbox. Nothing but `os` and `sys`, here and in the other imports of the simulated nvidia-smi.

It is started for every observation of a node, and `typing` or `json` alone would take longer than all the rest.
"""

from __future__ import annotations


class SimulatedMachine:
    """One simulated machine with its GPU. Memory is in MiB, power in watts.

    `display_mib` is what a desktop keeps of the GPU while nothing computes.
    """

    def __init__(
        self,
        node: str,
        address: str,
        gpu: str,
        memory_mib: int,
        display_mib: int,
        compute_cap: str,
        idle_w: float,
        limit_w: float,
    ) -> None:
        self.node = node
        self.address = address
        self.gpu = gpu
        self.memory_mib = memory_mib
        self.display_mib = display_mib
        self.compute_cap = compute_cap
        self.idle_w = idle_w
        self.limit_w = limit_w


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
