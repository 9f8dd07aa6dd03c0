"""Simulate a GPU from the processes that really train on its node.

A process is on the GPU when it is a rank (RANK and LOCAL_RANK in its environment) that was given this GPU
(CUDA_VISIBLE_DEVICES) on this node, and is large enough to have more than an interpreter in it: what stands between
torchrun and the script is not. Its own children are its data loaders, which have no CUDA context.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any, NamedTuple

from ugro.sandbox.machines import MARK, NODE_MARK, SimulatedMachine

CONTEXT_MIB = 284
"""GPU memory that a CUDA context takes before the first tensor."""

LEAST_RSS_MIB = 100
"""A Python that has imported torch is larger, a wrapper that waits for one is smaller."""

WINDOW = 0.25
"""Seconds over which utilization is measured at least; questions that follow faster get the same answer."""

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MIB = 1024 * 1024


class SimulatedProcess(NamedTuple):
    """A process on the GPU. `started` and `cpu` are seconds, `started` since the boot."""

    pid: int
    parent: int
    name: str
    rss_mib: int
    started: float
    cpu: float


class SimulatedGpu(NamedTuple):
    """A GPU at one moment. `utilization` is in percent."""

    machine: SimulatedMachine
    uuid: str
    processes: tuple[SimulatedProcess, ...]
    utilization: int

    def process_mib(self, process: SimulatedProcess) -> int:
        """Return the GPU memory of a process, at most all that the display leaves."""
        return min(process.rss_mib + CONTEXT_MIB, self.machine.memory_mib - self.machine.display_mib)

    @property
    def used_mib(self) -> int:
        """Return the GPU memory in use, never more than its total."""
        taken = self.machine.display_mib + sum(self.process_mib(process) for process in self.processes)
        return min(taken, self.machine.memory_mib)

    @property
    def temperature_c(self) -> int:
        """Return the temperature in °C."""
        return 37 + self.utilization * 38 // 100

    @property
    def fan_percent(self) -> int:
        """Return the fan speed in percent: 0 below 50 °C, as on a desktop card."""
        return 0 if self.temperature_c < 50 else 30 + (self.temperature_c - 50) * 2

    @property
    def power_w(self) -> float:
        """Return the power in watts: near the limit at full load, a little more than idle with a context."""
        base = self.machine.idle_w + (12.0 if self.processes else 0.0)
        return base + (0.93 * self.machine.limit_w - base) * self.utilization / 100

    @property
    def performance_state(self) -> str:
        """Return the performance state: GeForce cards compute in P2 and idle in P8."""
        return "P2" if self.processes else "P8"


def observe(machine: SimulatedMachine, uuid: str, root: str, samples: str) -> SimulatedGpu:
    """Return the GPU of a node now. `samples` is the file with the last CPU times, for the difference."""
    processes = training_processes(root, machine.node, uuid)
    return SimulatedGpu(machine, uuid, processes, _utilization(samples, processes) if processes else 0)


def training_processes(root: str, node: str, uuid: str) -> tuple[SimulatedProcess, ...]:
    """Return the processes on the GPU, by pid. Without /proc there are none."""
    marks = {os.fsencode(f"{MARK}={root}"), os.fsencode(f"{NODE_MARK}={node}")}
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
            # A process may end while it is read, or belong to another user.
            with contextlib.suppress(OSError):
                if _trains(_read(pid, "environ").split(b"\0"), marks, uuid.encode()):
                    found[pid] = _process(pid)
    large = {pid: process for pid, process in found.items() if process.rss_mib >= LEAST_RSS_MIB}
    return tuple(process for process in large.values() if process.parent not in large)


def _trains(environ: list[bytes], marks: set[bytes], uuid: bytes) -> bool:
    if not marks.issubset(environ):
        return False
    values = dict(entry.split(b"=", 1) for entry in environ if b"=" in entry)
    visible = values.get(b"CUDA_VISIBLE_DEVICES", b"").split(b",")
    return uuid in visible and b"RANK" in values and b"LOCAL_RANK" in values


def _process(pid: int) -> SimulatedProcess:
    # The command in parentheses may hold anything; after it come the fields from the third on.
    stat = _read(pid, "stat").rpartition(b")")[2].split()
    name = os.fsdecode(_read(pid, "cmdline").split(b"\0")[0])
    cpu = (int(stat[11]) + int(stat[12])) / _TICKS
    return SimulatedProcess(pid, int(stat[1]), name, int(stat[21]) * _PAGE // _MIB, int(stat[19]) / _TICKS, cpu)


def _read(pid: int, name: str) -> bytes:
    with open(f"/proc/{pid}/{name}", "rb") as file:
        return file.read()


def _utilization(samples: str, processes: tuple[SimulatedProcess, ...]) -> int:
    """Return the percentage of one CPU that the processes used since the last sample, or since they started."""
    with open("/proc/uptime", encoding="ascii") as file:
        now = float(file.read().split()[0])
    last = _last_sample(samples)
    before = last["cpu"] if last["at"] <= now else {}  # not from before a reboot
    keys = [f"{process.pid} {process.started}" for process in processes]
    if now - last["at"] < WINDOW and before.keys() == set(keys):
        return int(last["utilization"])
    busy = 0.0
    for key, process in zip(keys, processes, strict=True):
        since = last["at"] if key in before else process.started
        busy += (process.cpu - before.get(key, 0.0)) / max(now - since, 1 / _TICKS)
    utilization = max(0, min(100, round(100 * busy)))
    cpu = {key: process.cpu for key, process in zip(keys, processes, strict=True)}
    _keep_sample(samples, {"at": now, "utilization": utilization, "cpu": cpu})
    return utilization


def _last_sample(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            sample: dict[str, Any] = json.load(file)
            return sample
    except (OSError, ValueError):
        return {"at": 0.0, "utilization": 0, "cpu": {}}


def _keep_sample(path: str, sample: dict[str, Any]) -> None:
    temporary = f"{path}.{os.getpid()}"
    with contextlib.suppress(OSError):
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(sample, file)
        os.replace(temporary, path)
