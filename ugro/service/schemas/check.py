"""The request that looks for what would keep a training from working, and its answer."""

from __future__ import annotations

from typing import ClassVar, Literal

from ugro.common.models.node import NodeView
from ugro.service.schemas.base import Document, ErrorDocument, Request

Level = Literal["ok", "info", "warning", "problem"]
"""How much a finding matters: a problem keeps trainings from working, a warning may do so one day."""


class FindingDocument(Document):
    """One thing that was found. `node` is null for what concerns several nodes, or the master."""

    level: Level
    node: str | None
    subject: str
    text: str
    hint: str


class ClockDocument(Document):
    """A node's clock minus the master's, in seconds, and by how much that may be wrong."""

    offset: float
    uncertainty: float


class PythonDocument(Document):
    """The Python of a node and its torch, with what keeps either from working."""

    python: str
    executable: str
    torch: str | None
    torch_error: str | None
    distributed: bool
    cuda: str | None
    cuda_available: bool | None
    cuda_error: str | None
    devices: int
    nccl: str | None
    archs: tuple[str, ...]


class PowerDocument(Document):
    """What could take a machine away in its sleep."""

    laptop: bool
    lid: bool
    lid_action: str | None
    on_battery: bool
    battery_percent: int | None
    can_sleep: bool | None
    idle_action: str | None
    idle_after: str | None
    desktop_sleep: int | None


class MachineDocument(Document):
    """What a machine says of itself; null where it does not say."""

    user: str
    simulated: bool
    open_files: int | None
    shm_mib: int | None
    rsync: bool
    interfaces: tuple[str, ...]
    wireless: tuple[str, ...]
    clock_synchronized: bool | None
    linger: bool
    kills_at_logout: bool | None
    power: PowerDocument
    persistence: dict[str, bool]
    compute_caps: dict[str, str]
    complete: bool


class WayDocument(Document):
    """How a node reaches its peer of a training: with which address of its own, over which interface."""

    peer: str
    address: str
    interface: str | None


class CheckedNode(Document):
    """What one node said; null is what could not be read."""

    name: str
    address: str
    reachable: bool
    error: ErrorDocument | None
    clock: ClockDocument | None
    python: PythonDocument | None
    machine: MachineDocument | None
    way: WayDocument | None
    view: NodeView | None


class LinkDocument(Document):
    """The way from one node to another; the latency is half of a round trip."""

    source: str
    target: str
    latency_ms: float
    gbit_per_s: float


class AllReduceDocument(Document):
    """An all-reduce over all nodes, and the rate at which each node sent and received meanwhile."""

    size_mib: float
    time_ms: float
    bus_gbit_per_s: float


class NetworkDocument(Document):
    """What a trial of the network measured, as far as it came."""

    nodes: tuple[str, ...]
    backend: str
    meets_at: str | None
    interfaces: dict[str, str | None]
    links: tuple[LinkDocument, ...]
    all_reduce: AllReduceDocument | None


class CheckDocument(Document):
    """What a check found."""

    schema_version: int = 1
    nodes: tuple[CheckedNode, ...]
    findings: tuple[FindingDocument, ...]


class NetworkCheckDocument(CheckDocument):
    """The same, with the trial of the network; null where that could not be made."""

    network: NetworkDocument | None


class Checked(Document):
    """What a check found, with the network where that was asked for."""

    answer: NetworkCheckDocument | CheckDocument

    @property
    def network(self) -> NetworkDocument | None:
        """What the trial of the network measured; None without one."""
        return self.answer.network if isinstance(self.answer, NetworkCheckDocument) else None


class Check(Request[Checked]):
    """Look for what would keep a training from working on nodes (null: on all); with `network` measure that too."""

    function: ClassVar[str] = "check.check"
    nodes: str | None = None
    network: bool = False
