"""The capacity of each node, and what of it no job may get: pure functions over plain data.

A value that a node or its driver does not report (None) is never taken for zero: the unknown stays allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import CommandTimedOut, LinkLost, NodeError, Unreachable
from ugro.common.models.drain import Drain
from ugro.common.models.gpu import Gpu, GpuProcess
from ugro.common.models.job import Job, NodeShare, Placement
from ugro.common.models.node import NodeView
from ugro.common.text import printable, size
from ugro.control_plane.resource_manager.tenants import NO_TENANTS, Tenants, undeclared_mib
from ugro.control_plane.resource_manager.twins import REMEDY, shared_gpus, twins

DISPLAY_MIB = 1536
"""Below this much used memory the display programs of a desktop do not make a GPU busy."""

DISPLAY_PROGRAMS = ("Xorg", "Xwayland", "gnome-shell", "plasmashell", "gnome-remote-desktop-daemon", "mutter", "sddm")
DISPLAY_PREFIXES = ("kwin", "Xorg.", "gnome-shell-", "xdg-desktop-portal")


@dataclass(frozen=True)
class Slot:
    """One thing that one rank runs on: a GPU (`key` is its UUID), or the CPU of a node (`cpu:<node>`).

    `memory_mib` is what a job may use of the GPU's memory in MiB; None is unknown. `total_mib` is all of it, `index`
    the driver's. `undeclared_mib` is used beside what the jobs declared that share the GPU (a display is counted
    already).
    """

    key: str
    name: str
    memory_mib: int | None = None
    total_mib: int | None = None
    index: int | None = None
    undeclared_mib: int = 0


@dataclass(frozen=True)
class Capacity:
    """Capacity of one node. Reasons are short phrases for people.

    `slots` are the usable GPUs, leased by UGRO or not, in the driver's order; the CPU alone on a node without GPUs.
    `busy` has for a slot why no job may get it now (it names the GPU), `refusal` why the node takes no new job at all
    (it names the node), `remedy` what the user could do about that, `left_out` which GPUs are not used and why. `error`
    is set where the node could not be read. `twin` says that the machine has an earlier name too: a `refusal` that only
    a change of the inventory ends. `links` has the measured rates to other nodes, in Gbit/s.
    """

    node: str
    slots: tuple[Slot, ...] = ()
    busy: Mapping[str, str] = field(default_factory=dict)
    refusal: str | None = None
    remedy: str = ""
    left_out: tuple[str, ...] = ()
    error: NodeError | None = None
    twin: str = ""
    links: Mapping[str, float] = field(default_factory=dict)

    @property
    def silent(self) -> bool:
        """Whether the node only does not answer."""
        return isinstance(self.error, (Unreachable, LinkLost, CommandTimedOut))

    @property
    def calm(self) -> Capacity:
        """The same, without what may pass by itself: GPUs in use, and undeclared memory."""
        slots = tuple(replace(slot, undeclared_mib=0) if slot.undeclared_mib else slot for slot in self.slots)
        return replace(self, busy={}, slots=slots)

    @property
    def gpus(self) -> tuple[Slot, ...]:
        """The slots that are GPUs."""
        return tuple(slot for slot in self.slots if slot.key != cpu_key(self.node))


def cpu_key(node: str) -> str:
    """The key of a node's CPU slot."""
    return f"cpu:{node}"


def placement_keys(placement: Placement) -> frozenset[str]:
    """The keys of all slots of a placement."""
    return frozenset(key for share in placement.shares for key in share.gpus or (cpu_key(share.node),))


def leases(jobs: Iterable[Job], nodes: Mapping[str, NodeConfig] = MappingProxyType({})) -> dict[str, str]:
    """Return the job of each slot: GPU UUIDs, and `cpu:<node>` for CPU ranks. Of several that share a GPU, the first.

    With `nodes`, the inventory as it is now, that is the node which is the job's machine today: it may have been
    renamed since the job started, or two nodes have changed places.
    """
    held: dict[str, str] = {}
    for job in jobs:
        for share in job.placement.shares if job.state.on_nodes and job.placement else ():
            mine = dict.fromkeys(share.gpus or _cpu_keys(share, nodes), job.id)
            held |= mine | {key: held[key] for key in mine if share.part and key in held}
    return held


def holders(jobs: Iterable[Job]) -> dict[str, tuple[str, ...]]:
    """Return the jobs that hold each GPU, by its UUID: one, or those that share it."""
    held: dict[str, tuple[str, ...]] = {}
    for job in jobs:
        for share in job.placement.shares if job.state.on_nodes and job.placement else ():
            held |= {uuid: (*(held.get(uuid, ()) if share.part else ()), job.id) for uuid in share.gpus}
    return held


def _cpu_keys(share: NodeShare, nodes: Mapping[str, NodeConfig]) -> list[str]:
    machine = _machine(share.config) if share.config else None
    today = [cpu_key(name) for name, config in nodes.items() if _machine(config) == machine]
    return today or [cpu_key(share.node)]


def _machine(config: NodeConfig) -> tuple[str, int | None, bool, str]:
    """Return the fields that identify a node under any name."""
    return config.address, config.port, config.local, config.base_dir


def held_gpus(job: Job, capacities: Mapping[str, Capacity]) -> list[str]:
    """Return in words which GPUs of an ended job are still in use, by a program that the driver names or not."""
    shares = [share for share in (job.placement.shares if job.placement else ()) if share.node in capacities]
    return [
        f"{share.node}: {capacities[share.node].busy[uuid]}"
        for share in shares
        for uuid in share.gpus
        if uuid in capacities[share.node].busy
    ]


def capacities(
    inventory: Inventory,
    views: Mapping[str, NodeView | NodeError],
    held: Mapping[str, str],
    drains: Mapping[str, Drain],
    known: Mapping[str, Mapping[str, str]],
    master: str | None,
    since: Mapping[str, str] = MappingProxyType({}),
    sharing: Tenants = NO_TENANTS,
) -> dict[str, Capacity]:
    """Return the capacity of every node, in the inventory's order; a node without a view counts as unreadable.

    `held` is what `leases` returns, `known` the GPUs seen in the past (node -> UUID -> name), `master` our own id.
    `since` has the time since which a node is unreachable, in words, `sharing` which jobs share a GPU.
    """
    found = {}
    same, shared = twins(inventory.nodes, views), shared_gpus(inventory.nodes, views)
    for name, config in inventory.nodes.items():
        view = views.get(name) or NodeError(name, "was not asked")
        if isinstance(view, NodeError):
            capacity = Capacity(name, refusal=view.message, remedy=view.hint, error=view)
            found[name] = replace(capacity, refusal=_silence(view, since.get(name))) if capacity.silent else capacity
        else:
            capacity = _capacity(
                config, view, held, drains.get(name), known.get(name, {}), master, shared.get(name, {}), sharing
            )
            found[name] = _as_twin(capacity, same[name].text(name)) if name in same else capacity
    return found


def _as_twin(capacity: Capacity, text: str) -> Capacity:
    refusals, remedies = filter(None, (text, capacity.refusal)), filter(None, (REMEDY, capacity.remedy))
    return replace(capacity, refusal="; ".join(refusals), remedy=" and ".join(remedies), twin=text)


def _silence(error: NodeError, since: str | None) -> str:
    return f"{error.node} is unreachable ({f'since {since}; ' if since else ''}{error.problem})"


def _capacity(
    config: NodeConfig,
    view: NodeView,
    held: Mapping[str, str],
    drain: Drain | None,
    known: Mapping[str, str],
    master: str | None,
    shared: Mapping[str, str],
    sharing: Tenants,
) -> Capacity:
    slots, busy, left_out = [], {}, []
    for gpu in view.gpus:
        if problem := _unusable(gpu) or (f"{shared[gpu.uuid]} has it too" if gpu.uuid in shared else None):
            left_out.append(f"{_title(gpu)}: {problem}")
            continue
        reason = None if gpu.uuid in held else _busy(gpu, config)
        if reason:
            busy[gpu.uuid] = f"{_title(gpu)}: {reason}"
        idle = not reason and gpu.uuid not in held
        undeclared = undeclared_mib(gpu, sharing[gpu.uuid], _display_mib(gpu)) if gpu.uuid in sharing else 0
        usable = _usable_mib(gpu, config, idle)
        slots.append(Slot(gpu.uuid, gpu.name, usable, gpu.memory_total_mib, gpu.index, undeclared))
    if view.gpu_problem:
        left_out.append(view.gpu_problem)
    if view.gpus or not view.gpu_problem:  # a driver that lists nothing at all has not lost single GPUs
        listed = {gpu.uuid for gpu in view.gpus}
        left_out += [
            f"{printable(name)} ({uuid}) has disappeared" for uuid, name in known.items() if uuid not in listed
        ]
    if not view.gpus and not left_out:
        slots.append(Slot(cpu_key(config.name), "CPU"))
    refusals = _refusals(config, view, drain, master)
    refusal, remedy = "; ".join(refusals) or None, " and ".join(refusals.values())
    return Capacity(config.name, tuple(slots), busy, refusal, remedy, tuple(left_out))


def _refusals(config: NodeConfig, view: NodeView, drain: Drain | None, master: str | None) -> dict[str, str]:
    """Return why the node takes no new job, in phrases that name the node, and what the user could do about each."""
    found = {}
    owner = (view.owner or "").split()
    if owner and master is not None and owner[0] != master:
        found[f"{config.name} belongs to another master ({printable(view.owner or '')})"] = "ugro launch --takeover"
    if drain:
        said = f"{config.name} is drained: {drain.reason}" if drain.reason else f"{config.name} is drained"
        found[said] = f"ugro undrain {config.name}"
    if view.disk_free_mib is not None and view.disk_free_mib < config.min_disk:
        free = f"{size(view.disk_free_mib)} of disk free"
        short = f"{config.name} has {free}, less than its min_disk of {size(config.min_disk)}"
        found[short] = f"free disk space on {config.name}"
    return found


def _title(gpu: Gpu) -> str:
    return gpu.name if gpu.index is None else f"GPU {gpu.index} ({gpu.name})"


def _unusable(gpu: Gpu) -> str | None:
    if gpu.problem:
        return gpu.problem
    if gpu.mig:
        return "partitioned (MIG), which UGRO does not use"
    return None if gpu.uuid else "has no UUID"


def _busy(gpu: Gpu, config: NodeConfig) -> str | None:
    """Return why no job may get a GPU that UGRO has not leased; None: one may."""
    if foreign := foreign_processes(gpu):
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        return f"used by {_process(foreign[0])}{more}"
    if gpu.memory_used_mib is not None and not has_display_at_most(gpu):
        return f"{size(gpu.memory_used_mib)} are used by a program the driver does not name"
    if gpu.temperature_c is not None and gpu.temperature_c > config.max_temperature:
        return f"at {gpu.temperature_c} °C, over its max_temperature of {config.max_temperature} °C"
    return None


def foreign_processes(gpu: Gpu) -> list[GpuProcess]:
    """Return the processes on a GPU that UGRO has not leased, without display programs that leave it nearly empty."""
    display_at_most = has_display_at_most(gpu)
    return [process for process in gpu.processes if not (display_at_most and _is_display(process))]


def has_display_at_most(gpu: Gpu) -> bool:
    """Return whether a GPU's used memory is unknown, or so little that it may all be a desktop's."""
    return gpu.memory_used_mib is None or gpu.memory_used_mib < DISPLAY_MIB


def program(process: GpuProcess) -> str:
    """A process for people: its program, and whose it is."""
    return printable(_base(process)) + (f" of {process.user}" if process.user else "")


def _process(process: GpuProcess) -> str:
    memory = f", {size(process.memory_mib)}" if process.memory_mib is not None else ""
    return f"{program(process)} (pid {process.pid}{memory})"


def _base(process: GpuProcess) -> str:
    """The program's own name: without its folders, and without arguments where a path shows where they begin."""
    program = process.name.split(" ")[0] if process.name.startswith("/") else process.name
    return program.rsplit("/", 1)[-1] or "a program"


def _is_display(process: GpuProcess) -> bool:
    name = _base(process)
    return name in DISPLAY_PROGRAMS or name.startswith(DISPLAY_PREFIXES)


def _usable_mib(gpu: Gpu, config: NodeConfig, idle: bool) -> int | None:
    """Memory for a job: without what is reserved, and without what the display uses.

    On an idle GPU everything that is used belongs to the display; on another only what its programs are seen to use.
    """
    if gpu.memory_total_mib is None:
        return None
    display = _display_mib(gpu)
    if idle and gpu.memory_used_mib is not None:
        display = gpu.memory_used_mib
    return max(0, gpu.memory_total_mib - config.reserve_memory - display)


def _display_mib(gpu: Gpu) -> int:
    return sum(process.memory_mib or 0 for process in gpu.processes if _is_display(process))
