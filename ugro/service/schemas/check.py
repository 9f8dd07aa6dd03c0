"""The request that checks for what would keep a training from working, and its answer."""

from __future__ import annotations

from typing import ClassVar, Literal

from ugro.common.job_spec.setup import Python
from ugro.common.models.node import NodeView
from ugro.service.schemas.base import Document, ErrorDocument, Request

Level = Literal["ok", "info", "warning", "problem"]
"""How much a finding matters: a problem keeps trainings from working, a warning may do so one day."""


class FindingDocument(Document):
    """One thing that was found."""

    level: Level
    """A `problem` keeps trainings from working, a `warning` may do so one day."""
    node: str | None
    """Name of the node; `null`: it concerns several, or the master."""
    subject: str
    """What it is about."""
    text: str
    """What was found."""
    hint: str
    """What to do."""


class ClockDocument(Document):
    """A node's clock."""

    offset: float
    """Its time minus the master's, in seconds."""
    uncertainty: float
    """By how much that may be wrong, in seconds."""


class PythonDocument(Document):
    """The Python of a node and its torch."""

    python: str
    """Version of Python."""
    executable: str
    """Its path."""
    torch: str | None
    """Version of torch; `null`: it has none."""
    torch_error: str | None
    """Why torch cannot be imported."""
    distributed: bool
    """Whether torch has `torch.distributed`."""
    cuda: str | None
    """Version of CUDA that torch was built for."""
    cuda_available: bool | None
    """Whether torch can use a GPU."""
    cuda_error: str | None
    """Why it cannot."""
    devices: int
    """Number of GPUs that torch finds."""
    nccl: str | None
    """Version of NCCL."""
    archs: tuple[str, ...]
    """GPU architectures that torch was built for."""


class PowerDocument(Document):
    """What could take a machine away in its sleep."""

    laptop: bool
    """Whether it is a laptop."""
    lid: bool
    """Whether it has a lid."""
    lid_action: str | None
    """What closing the lid does."""
    on_battery: bool
    """Whether it runs on its battery."""
    battery_percent: int | None
    """Charge of the battery."""
    can_sleep: bool | None
    """Whether it can suspend."""
    idle_action: str | None
    """What logind does when it is idle."""
    idle_after: str | None
    """After how long, as logind has it."""
    desktop_sleep: int | None
    """Seconds without keyboard and mouse after which the desktop (GNOME) suspends it."""


class MachineDocument(Document):
    """Facts that a machine reports; null where it does not."""

    user: str
    """The user that the ranks run as."""
    simulated: bool
    """Whether it is a simulated node."""
    open_files: int | None
    """How many files a process may open; `null`: any number."""
    shm_mib: int | None
    """Size of /dev/shm."""
    rsync: bool
    """Whether rsync is installed."""
    interfaces: tuple[str, ...]
    """Network interfaces that are up."""
    wireless: tuple[str, ...]
    """Those without a cable."""
    clock_synchronized: bool | None
    """Whether its clock follows a time server."""
    linger: bool
    """Whether processes of the user may stay after the logout."""
    kills_at_logout: bool | None
    """Whether logind ends processes at the logout."""
    power: PowerDocument
    """What could take it away in its sleep."""
    persistence: dict[str, bool]
    """Persistence mode of each GPU, by UUID."""
    compute_caps: dict[str, str]
    """Compute capability of each GPU, by UUID."""
    complete: bool
    """Whether all of it could be read."""


class WayDocument(Document):
    """How a node reaches its peer of a training."""

    peer: str
    """Name of the peer."""
    address: str
    """Its own address on that way."""
    interface: str | None
    """Its interface on that way."""


class CheckedNode(Document):
    """What one node said; `null` is what could not be read."""

    name: str
    """Its name."""
    address: str
    """Its address in the inventory."""
    reachable: bool
    """Whether it answered."""
    error: ErrorDocument | None
    """Why it is unreachable."""
    clock: ClockDocument | None
    """Its clock."""
    python: PythonDocument | None
    """Its Python."""
    machine: MachineDocument | None
    """The machine."""
    way: WayDocument | None
    """How it reaches its peer."""
    view: NodeView | None
    """Its observation."""


class LinkDocument(Document):
    """The way from one node to another."""

    source: str
    """Name of the node that sends."""
    target: str
    """Name of the node that receives."""
    latency_ms: float
    """Half of a round trip."""
    gbit_per_s: float
    """Rate."""


class AllReduceDocument(Document):
    """An all-reduce over all nodes."""

    size_mib: float
    """Size of the data."""
    time_ms: float
    """How long it took."""
    bus_gbit_per_s: float
    """Rate at which each node sent and received."""


class NetworkDocument(Document):
    """What a trial of the network measured, as far as it came."""

    nodes: tuple[str, ...]
    """Nodes that took part."""
    backend: str
    """Backend of torch.distributed."""
    meets_at: str | None
    """Address where the nodes met."""
    interfaces: dict[str, str | None]
    """Interface of each node."""
    links: tuple[LinkDocument, ...]
    """The way from each node to each other."""
    all_reduce: AllReduceDocument | None
    """An all-reduce over all nodes."""


class CheckDocument(Document):
    """What a check found."""

    schema_version: int = 1
    nodes: tuple[CheckedNode, ...]
    """What each node said."""
    findings: tuple[FindingDocument, ...]
    """What is wrong or worth knowing."""


class NetworkCheckDocument(CheckDocument):
    """What a check with a trial of the network found."""

    network: NetworkDocument | None
    """What the trial measured; `null`: it could not be made."""


class Checked(Document):
    """What a check found, with the network where that was asked for."""

    answer: NetworkCheckDocument | CheckDocument

    @property
    def network(self) -> NetworkDocument | None:
        """The measurements of the network's trial; None without one."""
        return self.answer.network if isinstance(self.answer, NetworkCheckDocument) else None


class Check(Request[Checked]):
    """Look for what would keep a training from working on nodes (null: on all); with `network` measure that too.

    `python` is what a job would ask for by `--python`; null: the inventory's.
    """

    function: ClassVar[str] = "check.check"
    nodes: str | None = None
    network: bool = False
    python: Python | None = None
