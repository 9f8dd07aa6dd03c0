"""Observes a node in one round trip: its clock, load, memory, disk, GPUs and the processes on them.

`on_node/probe.sh` collects, `parse_probe` understands; nothing here trusts a value. nvidia-smi's output is no stable
interface, so rows are read by the names in the CSV header, anything that is not a number is None, and every line that
is no row is taken for a complaint. `tests/probes` shows its texts and exit codes (those of `nvmlReturn_t`).
"""

from __future__ import annotations

import math
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ugro.common.errors import CommandTimedOut, NodeRefused
from ugro.common.models.gpu import Gpu, GpuProcess
from ugro.common.models.node import NodeView
from ugro.common.text import printable
from ugro.nodes.remote.answers import Section, read_sections
from ugro.nodes.remote.bundle import load
from ugro.nodes.transport.base import OUTPUT_LIMIT, Transport

PROBE_SCRIPT = load("gpus/probe.sh")

NO_ANSWER = "nvidia-smi does not answer: a GPU hangs, or the driver is slow to start without persistence mode"
NAMELESS = "unknown GPU"
TIMED_OUT = (124, 137)
NOT_INSTALLED = 127
UNKNOWN_ERROR = "[Unknown Error]"
"""Normal in a cell like power.draw on some drivers; a GPU that says it of its memory is sick."""

FATAL_CELLS = ("[GPU is lost]", "[GPU requires reset]")
HINTS = {
    "Driver/library version mismatch": "the driver was updated: reboot, or reload its modules",
    "couldn't communicate with the NVIDIA driver": "its kernel module is not loaded",
}
THROTTLES = {
    0x2: "applications_clocks",
    0x4: "power_cap",
    0x8: "hardware_slowdown",
    0x10: "sync_boost",
    0x20: "software_thermal",
    0x40: "hardware_thermal",
    0x80: "power_brake",
    0x100: "display_clocks",
}
"""Bits of `nvmlClocksEventReasons`: why clocks are lower than they could be. Bit 0, that the GPU is idle, is none."""

TEXT_LIMIT = 200
"""Characters that are kept of a name or a complaint."""

_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")
_MASK = re.compile(r"0x[0-9A-Fa-f]{1,16}")
_UUID = re.compile(r"GPU-[0-9A-Fa-f-]{8,64}")
_OWNER = re.compile(r"/proc/([0-9]{1,15}) ([0-9]{1,15}) (\S+)")
_RUN = re.compile(r"/proc/([0-9]{1,15})/environ:UGRO_RUN=([A-Za-z0-9_./-]{1,100})")
_LISTED = re.compile(r"GPU ([0-9]{1,5}): (.*) \(UUID: (GPU-[0-9A-Fa-f-]{8,64})\)")
# The spelling went with the versions: "GPU 0000:02:00.0: why", "GPU0000:17:00.0: why", "GPU3: 0000:5F:00.0: why",
# "GPU2: why".
_HANDLE = re.compile(
    r"Unable to determine the device handle for GPU\s*(?:([0-9]{1,5}):\s+)?"
    r"(?:([0-9A-F]{1,8}:[0-9A-F]{2}:[0-9A-F]{2}\.[0-9A-F]):\s+)?(\S.*)",
    re.IGNORECASE,
)


async def look(transport: Transport, *, timeout: float = 20) -> NodeView:
    """Ask a node for its view, within `timeout` seconds.

    An nvidia-smi in the kernel's uninterruptible sleep survives even SIGKILL; then the view has everything but the
    GPUs. Each further look leaves one more such process, so look less often at a node that has this problem.

    Raises:
        NodeRefused: the answer cannot be understood.
        NodeError: Unreachable, AuthenticationFailed, HostKeyUnknown, HostKeyChanged, LinkLost, CommandTimedOut.
    """
    nonce = secrets.token_hex(8)
    heard = await hear(transport, PROBE_SCRIPT, (transport.node.base_dir, nonce), nonce, timeout)
    return parse_probe(transport.name, heard.text, heard.began_at, heard.ended_at, nonce)


@dataclass(frozen=True)
class Heard:
    """What a node said, and when, by the master's clock, its answer to the probe began and ended."""

    text: str
    began_at: float
    ended_at: float


async def hear(transport: Transport, script: str, args: Sequence[str], nonce: str, timeout: float) -> Heard:
    """Ask with a script that has the probe in it. An answer cut off by the timeout counts if it has the node's part.

    Raises:
        NodeError: as `look`.
    """
    said = bytearray()
    began_at: float | None = None
    mark = f"@{nonce} ".encode()

    def keep(stream: str, chunk: bytes) -> None:
        nonlocal began_at
        if stream == "stdout" and len(said) < OUTPUT_LIMIT:
            said.extend(chunk)
            if began_at is None and mark in said:  # before that, the call waited for its turn, or for a login
                began_at = time.time()

    late: CommandTimedOut | None = None
    try:
        await transport.ask(script, args, timeout=timeout, on_output=keep)
    except CommandTimedOut as error:
        late = error
    ended_at = time.time()
    text = said.decode("utf-8", "replace")
    if late and not _named(read_sections(text, nonce), "node"):
        raise late
    return Heard(text, ended_at if began_at is None else began_at, ended_at)


def parse_probe(node: str, output: str, asked_at: float, answered_at: float, nonce: str) -> NodeView:
    """Understand the output of PROBE_SCRIPT, which began and ended at these moments of the master's clock.

    `seen_at` is the latter. The node prints its time first and last, so that `clock_offset`, the
    difference of the two midpoints, does not suffer from a slow nvidia-smi. Of output that ends early the complete
    sections count. A lost GPU of which only the index is known has an empty UUID.

    Raises:
        NodeRefused: the part about the machine itself is missing or broken.
    """
    sections = read_sections(output, nonce)
    said = dict(line.partition("=")[::2] for section in sections if section.name == "node" for line in section.lines)
    started, cpus, boot_id = _moment(said.get("started")), _whole(said.get("cpus")), _text(said.get("boot_id", ""))
    if started is None or not cpus or not boot_id:
        what = "time" if started is None else "number of CPUs" if not cpus else "boot id"
        raise NodeRefused(node, f"the observation has no {what}", "a Linux machine with /proc is expected")
    arguments = {section.name: section.arguments for section in sections}
    disk = arguments.get("disk", ())
    ended = _moment(" ".join(arguments.get("end", ())))
    behind = ended - answered_at if ended is not None else started - asked_at
    gpus, problem = _gpus(sections, expected=_whole(said.get("expected_gpus")) or 0)
    return NodeView(
        node=node,
        seen_at=answered_at,
        boot_id=boot_id,
        pid_namespace=_text(said.get("pids", "")) or None,
        folder=next((_text(section.lines[0]) for section in _named(sections, "folder") if section.lines), None),
        clock_offset=(started - asked_at + behind) / 2,
        cpu_count=cpus,
        load_1m=_number(said.get("load")),
        memory_total_mib=_mib(said.get("total_kib")),
        memory_available_mib=_mib(said.get("available_kib")),
        disk_free_mib=_mib(*disk) if len(disk) == 2 else None,
        gpus=gpus,
        gpu_problem=problem,
        owner=_text(said.get("owner", "")) or None,
    )


def _named(sections: list[Section], name: str) -> list[Section]:
    return [section for section in sections if section.name == name]


def _status(section: Section) -> int | None:
    """The exit code of nvidia-smi."""
    return _whole(section.arguments[0]) if section.arguments else None


def _uuid(section: Section) -> str:
    """The GPU that nvidia-smi was asked for; empty: all of them."""
    return section.arguments[1] if len(section.arguments) > 1 else ""


def _gpus(sections: list[Section], expected: int) -> tuple[tuple[Gpu, ...], str | None]:
    """The GPUs with their processes, and what is wrong beyond single GPUs."""
    gpus: dict[str, Gpu] = {}
    complaints: list[str] = []
    for finding in _findings(sections):
        if isinstance(finding, str):
            complaints.append(finding)
        else:
            gpus.setdefault(finding.uuid or f"index {finding.index}", finding)
    processes, untold = _processes(sections, {gpu.uuid for gpu in gpus.values() if not gpu.problem})
    complaints += untold
    if not _named(sections, "owners"):
        complaints.append(NO_ANSWER)
    if not complaints and len(gpus) < expected:
        complaints.append(f"the driver knows {expected} GPUs, nvidia-smi shows {len(gpus)}")
    found = sorted(gpus.values(), key=lambda gpu: (gpu.index is None, gpu.index or 0))
    told = tuple(replace(gpu, processes=tuple(processes.get(gpu.uuid, ()))) for gpu in found)
    return told, "; ".join(dict.fromkeys(complaints)) or None


def _findings(sections: list[Section]) -> Iterator[Gpu | str]:
    """GPUs and complaints. What comes first of a GPU counts."""
    known = _known(sections)
    for section in _named(sections, "gpus"):
        rows, rest = _table(section, "index", _NUMBER)
        yield from map(_gpu, rows)
        if _uuid(section) in known and not rows:
            yield _ailing(known[_uuid(section)], rest[0] if rest else "nvidia-smi does not show it")
        else:
            yield from (_lost(line, known) or line for line in rest)
    for gpu in known.values():
        if gpu.index is not None:  # listed, but not asked because another one hangs
            yield _ailing(gpu, NO_ANSWER)


def _known(sections: list[Section]) -> dict[str, Gpu]:
    """Return the GPUs that may have no row: by UUID, by index and by place on the PCI bus.

    Sources are `nvidia-smi -L`, the driver in /proc (its UUID is "GPU-????…" for a GPU that never came up), and a
    complaint about a place when one UUID was asked for.
    """
    known: dict[str, Gpu] = {}
    for section in _named(sections, "list"):
        for match in filter(None, map(_LISTED.fullmatch, section.lines)):
            gpu = Gpu(index=int(match[1]), uuid=match[3], name=_text(match[2]))
            known[match[1]] = known[gpu.uuid] = gpu
    for section in _named(sections, "information"):
        for name, uuid, place in zip(section.lines[::3], section.lines[1::3], section.lines[2::3], strict=False):
            if _UUID.fullmatch(uuid):
                known[_place(place)] = known.get(uuid) or Gpu(index=None, uuid=uuid, name=_text(name))
    for section in _named(sections, "gpus"):
        for match in filter(None, map(_HANDLE.search, section.lines)):
            if _uuid(section) in known and match[2]:
                known[_place(match[2])] = known[_uuid(section)]
    return known


def _lost(complaint: str, known: dict[str, Gpu]) -> Gpu | None:
    """Return the GPU that a complaint is about, if it can be identified."""
    match = _HANDLE.search(complaint)
    if not match:
        return None
    index, place, _ = match.groups()
    gpu = known.get(_place(place or "")) or known.get(index or "")
    if index:
        gpu = replace(gpu or Gpu(index=None, uuid="", name=NAMELESS), index=int(index))
    return _ailing(gpu, complaint) if gpu else None


def _ailing(gpu: Gpu, complaint: str) -> Gpu:
    match = _HANDLE.search(complaint)
    return replace(gpu, problem=match[3] if match else complaint)


def _place(bus_id: str) -> str:
    """A PCI address as nvidia-smi and /proc both can be brought to: they differ in case and length of the domain."""
    return bus_id.strip().lower()[-12:]


def _table(section: Section, first: str, key: re.Pattern[str]) -> tuple[list[dict[str, str]], list[str]]:
    """The rows of a CSV with a header, by column name without its unit, and the complaints around them.

    A row has a first cell like `key` and as many cells as the header; the last cell may contain the separator.
    """
    header: list[str] = []
    rows: list[dict[str, str]] = []
    rest: list[str] = []
    for line in section.lines:
        cells = line.split(", ", len(header) - 1)
        if not header and cells[0] == first:
            header = [cell.partition(" [")[0] for cell in cells]
        elif len(cells) == len(header) and key.fullmatch(cells[0]):
            rows.append(dict(zip(header, cells, strict=True)))
        else:
            rest.append(_text(line))
    if _status(section) in TIMED_OUT:
        rest = [NO_ANSWER]
    elif _status(section) not in (0, NOT_INSTALLED) and not rest:
        rest = [f"nvidia-smi ended with exit code {_status(section)}"]
    return rows, [_explained(line) for line in rest]


def _gpu(row: dict[str, str]) -> Gpu:
    memory = [row.get(f"memory.{part}", "") for part in ("total", "used", "free")]
    fatal = [cell for cell in row.values() if cell in FATAL_CELLS] + [cell for cell in memory if cell == UNKNOWN_ERROR]
    return Gpu(
        index=_whole(row["index"]),
        uuid=row.get("uuid", "") if _UUID.fullmatch(row.get("uuid", "")) else "",
        name=_word(row.get("name")) or NAMELESS,
        memory_total_mib=_whole(memory[0]),
        memory_used_mib=_whole(memory[1]),
        memory_free_mib=_whole(memory[2]),
        utilization_percent=_whole(row.get("utilization.gpu")),
        temperature_c=_whole(row.get("temperature.gpu")),
        power_w=_number(row.get("power.draw")),
        sm_clock_mhz=_whole(row.get("clocks.sm", row.get("clocks.current.sm"))),
        memory_clock_mhz=_whole(row.get("clocks.mem", row.get("clocks.current.memory"))),
        throttled=_reasons(row.get("clocks_event_reasons.active", row.get("clocks_throttle_reasons.active", ""))),
        driver=_word(row.get("driver_version")),
        mig=row.get("mig.mode.current") == "Enabled",
        problem=fatal[0].strip("[]") if fatal else None,
    )


def _reasons(cell: str) -> tuple[str, ...] | None:
    """Why the clocks are lowered; None: the driver does not say."""
    if not _MASK.fullmatch(cell.strip()):
        return None
    mask = int(cell, 16)
    return tuple(reason for bit, reason in THROTTLES.items() if mask & bit)


def _processes(sections: list[Section], healthy: set[str]) -> tuple[dict[str, list[GpuProcess]], list[str]]:
    """The compute processes by GPU, and complaints if it is not known what runs on a healthy one."""
    owners, runs = _owners(sections), _runs(sections)
    processes: dict[str, list[GpuProcess]] = {}
    complaints: list[str] = []
    unknown = set(healthy)
    for section in _named(sections, "processes"):
        rows, rest = _table(section, "gpu_uuid", _UUID)
        if _status(section) == 0:
            unknown -= {_uuid(section)} if _uuid(section) else healthy
        else:
            complaints += rest
        for row in rows:
            if pid := _whole(row.get("pid")):
                name = _text(row.get("process_name", ""))
                memory = _whole(row.get("used_gpu_memory", row.get("used_memory")))
                process = GpuProcess(pid=pid, name=name, user=owners.get(pid), memory_mib=memory, run=runs.get(pid))
                processes.setdefault(row["gpu_uuid"], []).append(process)
    return processes, ["nvidia-smi does not list the processes", *complaints] if unknown else []


def _owners(sections: list[Section]) -> dict[int, str]:
    """User names by pid; the number of a user without a name."""
    lines = (line for section in _named(sections, "owners") for line in section.lines)
    return {
        int(match[1]): match[2] if match[3] == "UNKNOWN" else _text(match[3])
        for match in filter(None, map(_OWNER.fullmatch, lines))
    }


def _runs(sections: list[Section]) -> dict[int, str]:
    """Tokens of UGRO's runs by pid."""
    lines = (line for section in _named(sections, "runs") for line in section.lines)
    return {int(match[1]): match[2] for match in filter(None, map(_RUN.fullmatch, lines))}


def _explained(complaint: str) -> str:
    hint = next((hint for part, hint in HINTS.items() if part in complaint), None)
    return f"{complaint} ({hint})" if hint else complaint


def _text(value: str) -> str:
    return " ".join(printable(value).split())[:TEXT_LIMIT]


def _word(value: str | None) -> str | None:
    """A text, if it is not one of the ways to say that there is none: `[N/A]`, `[Not Supported]`, `N/A` …"""
    return None if not value or value == "N/A" or value.startswith("[") else _text(value)


def _number(value: str | None) -> float | None:
    match = _NUMBER.fullmatch((value or "").strip())
    return number if match and math.isfinite(number := float(match[0])) else None


def _moment(value: str | None) -> float | None:
    """Seconds since the epoch; a `date` that does not know %N (busybox) leaves no fraction."""
    return _number(value) or _number((value or "").partition(".")[0])


def _whole(value: str | None) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number >= 0 else None


def _mib(count: str | None, unit: str = "1024") -> int | None:
    """MiB of so many units of so many bytes."""
    amount, size = _whole(count), _whole(unit)
    return amount * size // 2**20 if amount is not None and size is not None else None
