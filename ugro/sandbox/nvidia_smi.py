"""Simulate nvidia-smi: the common options, fields, texts and exit codes of the real one.

Each node's `nvidia-smi` is a small shell script that calls `main` with only the standard library at hand.
"""

from __future__ import annotations

import sys
import time

from ugro.sandbox.machines import MACHINES
from ugro.sandbox.simulation import SimulatedGpu, observe

TYPE_CHECKING = False  # what `typing` has too, and takes long to import for
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    Field = tuple[str, Callable[..., object]]
    """The unit, if it has one, and how to get the value."""

DRIVER = "580.95.05"
CUDA = "13.0"
BUS_ID = "00000000:01:00.0"

INVALID_ARGUMENT = 2
NOT_FOUND = 6

HELP = """\
NVIDIA System Management Interface -- simulated by the UGRO sandbox, driver v{driver}

nvidia-smi [OPTION1 [ARG1]] [OPTION2 [ARG2]] ...

    -h,   --help                Print usage information and exit.
    -L,   --list-gpus           Display a list of GPUs connected to the system.
    -i,   --id=                 Target a specific GPU: its index, UUID or bus id.
          --query-gpu=          Information about GPU: {gpu_fields}
          --query-compute-apps= List of currently active compute processes: {app_fields}
          --format=             Comma separated list of format options: csv (mandatory), noheader, nounits
"""

TABLE = """\
{now}
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI {driver:<22} Driver Version: {driver:<14} CUDA Version: {cuda:<8} |
+-----------------------------------------+------------------------+----------------------+
| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |
| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |
|                                         |                        |               MIG M. |
|=========================================+========================+======================|
|   0  {name:<30} Off |   {bus} {display:>3} |                  N/A |
|{fan:>3}%  {temperature:>3}C    {state:<2} {power:>14}W / {limit:>4}W | {used:>7}MiB / {total:>6}MiB \
| {utilization:>6}%      Default |
|                                         |                        |                  N/A |
+-----------------------------------------+------------------------+----------------------+

+-----------------------------------------------------------------------------------------+
| Processes:                                                                              |
|  GPU   GI   CI              PID   Type   Process name                        GPU Memory |
|        ID   ID                                                               Usage      |
|=========================================================================================|
{processes}
+-----------------------------------------------------------------------------------------+
"""

GPU_FIELDS: dict[str, Field] = {
    "timestamp": ("", lambda _: _timestamp()),
    "index": ("", lambda _: 0),
    "count": ("", lambda _: 1),
    "name": ("", lambda gpu: gpu.machine.gpu),
    "uuid": ("", lambda gpu: gpu.uuid),
    "pci.bus_id": ("", lambda _: BUS_ID),
    "driver_version": ("", lambda _: DRIVER),
    "compute_cap": ("", lambda gpu: gpu.machine.compute_cap),
    "persistence_mode": ("", lambda _: "Disabled"),
    "mig.mode.current": ("", lambda _: "[N/A]"),
    "pstate": ("", lambda gpu: gpu.performance_state),
    "memory.total": ("MiB", lambda gpu: gpu.machine.memory_mib),
    "memory.used": ("MiB", lambda gpu: gpu.used_mib),
    "memory.free": ("MiB", lambda gpu: gpu.machine.memory_mib - gpu.used_mib),
    "utilization.gpu": ("%", lambda gpu: gpu.utilization),
    "temperature.gpu": ("", lambda gpu: gpu.temperature_c),
    "fan.speed": ("%", lambda gpu: gpu.fan_percent),
    "power.draw": ("W", lambda gpu: f"{gpu.power_w:.2f}"),
    "clocks.sm": ("MHz", lambda gpu: 210 + 15 * gpu.utilization),
    "clocks.mem": ("MHz", lambda gpu: 405 if not gpu.utilization else 9501),
    "clocks_event_reasons.active": ("", lambda gpu: f"0x{0 if gpu.utilization else 1:016x}"),
    "power.limit": ("W", lambda gpu: f"{gpu.machine.limit_w:.2f}"),
}

APP_FIELDS: dict[str, Field] = {
    "timestamp": ("", lambda *_: _timestamp()),
    "gpu_name": ("", lambda gpu, _: gpu.machine.gpu),
    "gpu_uuid": ("", lambda gpu, _: gpu.uuid),
    "gpu_bus_id": ("", lambda *_: BUS_ID),
    "pid": ("", lambda _, process: process.pid),
    "process_name": ("", lambda _, process: process.name),
    "used_gpu_memory": ("MiB", lambda gpu, process: gpu.process_mib(process)),
}

GPU_ALIASES = {"gpu_name": "name", "gpu_uuid": "uuid", "gpu_bus_id": "pci.bus_id"}
APP_ALIASES = {"name": "process_name", "used_memory": "used_gpu_memory"}

OPTIONS = {"-h": "help", "--help": "help", "-L": "list", "--list-gpus": "list", "-i": "id", "--id": "id"}
OPTIONS |= {"--query-gpu": "gpu", "--query-compute-apps": "apps", "--format": "format"}


class QueryRefused(Exception):
    """A query without an answer: its message (on stdout, as the real one prints it), and the exit code."""

    def __init__(self, text: str, status: int = INVALID_ARGUMENT) -> None:
        super().__init__(text)
        self.text = text
        self.status = status


def main(root: str, node: str, uuid: str, samples: str, *arguments: str) -> int:
    """Answer one command line; the first four arguments come from the node's wrapper script."""
    machine = next(machine for machine in MACHINES if machine.node == node)
    try:
        options = _parse(arguments)
        if options.get("id", "0") not in ("0", uuid, BUS_ID):
            raise QueryRefused("No devices were found\n", NOT_FOUND)
        sys.stdout.write(_answer(options, lambda: observe(machine, uuid, root, samples)))
    except QueryRefused as refused:
        sys.stdout.write(refused.text)
        return refused.status
    return 0


def _parse(arguments: Iterable[str]) -> dict[str, str]:
    """Return the options by name; `--format=csv` and `--format csv` are the same."""
    options = {}
    rest = iter(arguments)
    for argument in rest:
        flag, given, value = argument.partition("=")
        name = OPTIONS.get(flag)
        if name is None:
            raise QueryRefused("Invalid combination of input arguments. Please run 'nvidia-smi -h' for help.\n\n")
        options[name] = value if given or name in ("help", "list") else next(rest, "")
    return options


def _answer(options: dict[str, str], look: Callable[[], SimulatedGpu]) -> str:
    match options:
        case {"help": _}:
            return HELP.format(driver=DRIVER, gpu_fields=" ".join(GPU_FIELDS), app_fields=" ".join(APP_FIELDS))
        case {"gpu": _, "apps": _} | {"list": _, "gpu": _} | {"list": _, "apps": _}:
            raise QueryRefused("Invalid combination of input arguments. Please run 'nvidia-smi -h' for help.\n\n")
        case {"list": _}:
            gpu = look()
            return f"GPU 0: {gpu.machine.gpu} (UUID: {gpu.uuid})\n"
        case {"gpu": names}:
            return _csv(_fields(names, GPU_FIELDS, GPU_ALIASES), _style(options), [(look(),)])
        case {"apps": names}:
            fields, style, gpu = _fields(names, APP_FIELDS, APP_ALIASES), _style(options), look()
            return _csv(fields, style, [(gpu, process) for process in gpu.processes])
        case _:
            return _table(look())


def _fields(names: str, known: dict[str, Field], aliases: dict[str, str]) -> list[tuple[str, Field]]:
    chosen = []
    for name in (part.strip() for part in names.split(",")):
        field = aliases.get(name, name)
        if field not in known:
            raise QueryRefused(f'Field "{name}" is not a valid field to query.\n\n')
        chosen.append((field, known[field]))
    return chosen


def _style(options: dict[str, str]) -> set[str]:
    style = {part.strip() for part in options.get("format", "").split(",")}
    if "csv" not in style or not style <= {"csv", "noheader", "nounits"}:
        raise QueryRefused("\"--format=\" has to be 'csv', optionally with 'noheader' and 'nounits'\n\n")
    return style


def _csv(fields: list[tuple[str, Field]], style: set[str], rows: list[tuple[Any, ...]]) -> str:
    """Return a CSV table. The unit is always in the header, and after a value unless `nounits` is requested."""
    lines = [] if "noheader" in style else [[f"{name} [{unit}]" if unit else name for name, (unit, _) in fields]]
    for row in rows:
        cells = []
        for _, (unit, value) in fields:
            text = str(value(*row))
            cells.append(f"{text} {unit}" if unit and "nounits" not in style else text)
        lines.append(cells)
    return "".join(", ".join(cells) + "\n" for cells in lines)


def _table(gpu: SimulatedGpu) -> str:
    processes = [
        f"|    0   N/A  N/A {process.pid:>15}      C   {_tail(process.name, 35):<35} {gpu.process_mib(process):>7}MiB |"
        for process in gpu.processes
    ]
    return TABLE.format(
        now=time.strftime("%a %b %e %H:%M:%S %Y       "),
        driver=DRIVER,
        cuda=CUDA,
        name=gpu.machine.gpu,
        bus=BUS_ID,
        display="On" if gpu.machine.display_mib else "Off",
        fan=gpu.fan_percent,
        temperature=gpu.temperature_c,
        state=gpu.performance_state,
        power=round(gpu.power_w),
        limit=round(gpu.machine.limit_w),
        used=gpu.used_mib,
        total=gpu.machine.memory_mib,
        utilization=gpu.utilization,
        processes="\n".join(processes) or f"|  {'No running processes found':<87}|",
    )


def _tail(name: str, width: int) -> str:
    return name if len(name) <= width else "..." + name[3 - width :]


def _timestamp() -> str:
    now = time.time()
    return time.strftime("%Y/%m/%d %H:%M:%S", time.localtime(now)) + f".{int(now % 1 * 1000):03d}"
