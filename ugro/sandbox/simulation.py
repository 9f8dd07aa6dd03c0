"""Simulate a GPU from the processes that really train on its node.

A process is on the GPU when it is a rank (RANK and LOCAL_RANK in its environment) that was given this GPU
(CUDA_VISIBLE_DEVICES) on this node, and is large enough to have more than an interpreter in it: what stands between
torchrun and the script is not. Its own children are its data loaders, which have no CUDA context.
"""

from __future__ import annotations

import os

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


class SimulatedProcess:
    """A process on the GPU. `started` and `cpu` are seconds, `started` since the boot."""

    def __init__(self, pid: int, parent: int, name: str, rss_mib: int, started: float, cpu: float) -> None:
        self.pid = pid
        self.parent = parent
        self.name = name
        self.rss_mib = rss_mib
        self.started = started
        self.cpu = cpu


class SimulatedGpu:
    """A GPU at one moment. `utilization` is in percent."""

    def __init__(
        self, machine: SimulatedMachine, uuid: str, processes: tuple[SimulatedProcess, ...], utilization: int
    ) -> None:
        self.machine = machine
        self.uuid = uuid
        self.processes = processes
        self.utilization = utilization

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
    for pid in _pids():
        try:
            if _trains(_read(pid, "environ").split(b"\0"), marks, uuid.encode()):
                found[pid] = _process(pid)
        except OSError:  # it has ended meanwhile, or belongs to another user
            continue
    large = {pid: process for pid, process in found.items() if process.rss_mib >= LEAST_RSS_MIB}
    return tuple(process for process in large.values() if process.parent not in large)


def _pids() -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    except FileNotFoundError:
        return []


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
    with open("/proc/uptime", "rb") as file:
        now = float(file.read().split()[0])
    at, utilization, before = _last_sample(samples)
    if at > now:  # from before a reboot
        before = {}
    cpu = {f"{process.pid} {process.started}": process.cpu for process in processes}
    if now - at < WINDOW and before.keys() == cpu.keys():
        return utilization
    busy = 0.0
    for key, process in zip(cpu, processes, strict=True):
        since = at if key in before else process.started
        busy += (process.cpu - before.get(key, 0.0)) / max(now - since, 1 / _TICKS)
    utilization = max(0, min(100, round(100 * busy)))
    _keep_sample(samples, now, utilization, cpu)
    return utilization


def _last_sample(path: str) -> tuple[float, int, dict[str, float]]:
    """Return when it was taken, the utilization, and the CPU time of each process by its pid and start."""
    try:
        with open(path, "rb") as file:
            (at, utilization), *rows = (line.split() for line in file.read().decode().splitlines())
        return float(at), int(utilization), {f"{pid} {started}": float(cpu) for pid, started, cpu in rows}
    except (OSError, ValueError):
        return 0.0, 0, {}


def _keep_sample(path: str, at: float, utilization: int, cpu: dict[str, float]) -> None:
    temporary = f"{path}.{os.getpid()}"
    lines = [f"{at} {utilization}", *(f"{key} {seconds}" for key, seconds in cpu.items())]
    try:
        with open(temporary, "wb") as file:
            file.write("\n".join(lines).encode())
        os.replace(temporary, path)
    except OSError:  # the next answer takes a longer while for its utilization
        return
