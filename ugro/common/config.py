"""Read the inventory: the machines of the cluster. An error names file, line and field."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ugro.common.errors import InputError, NoSuchNode
from ugro.common.fields import (
    Address,
    Config,
    Env,
    Flag,
    Line,
    Mib,
    Name,
    NodeName,
    RemotePath,
    Whole,
    as_list,
)
from ugro.common.locations import INVENTORY
from ugro.common.mistakes import Misplaced


class NodeConfig(Config):
    """One machine of the inventory."""

    name: Name = Field(description="The node's name: its key under `nodes:`")
    address: Address = Field(description="Host name or IP address that SSH connects to; a `Host` of ssh_config works")
    user: Line | None = Field(default=None, description="Login name; default: what ssh_config says, else yours")
    port: Annotated[Whole, Field(ge=1, le=65535)] | None = Field(
        default=None, description="Port of sshd; default: what ssh_config says, else 22"
    )
    identity_file: Line | None = Field(
        default=None, description="Private key on the master; default: what ssh_config says, else ssh's usual keys"
    )
    ssh_config: Line = Field(default="~/.ssh/config", description="The ssh_config(5) file that counts for this node")
    local: Flag = Field(default=False, description="This node is the master itself; no SSH is used. One node at most")
    python: Line = Field(default="python3", description="Interpreter on the node that has PyTorch")
    base_dir: RemotePath = Field(default="~/.ugro", description="Folder on the node for everything of UGRO")
    interface: Line | None = Field(
        default=None, description="Network interface of the ranks; default: the one whose route leads to rank 0"
    )
    train_address: Address | None = Field(
        default=None, description="Address of the node at which the other nodes' ranks reach it; default: found"
    )
    env: Env = Field(default_factory=dict, description="Environment of every rank here; added to that of `defaults:`")
    gpus: tuple[Line, ...] = Field(default=(), description="Names of the expected GPUs; `ugro check` compares them")
    reserve_memory: Mib = Field(default=0, description="Memory of each GPU that is left to others")
    max_temperature: Annotated[Whole, Field(ge=30, le=150)] = Field(
        default=90, description="°C; a hotter GPU gets no new job"
    )
    min_disk: Mib = Field(default=1024, description="Free space under `base_dir`; with less the node gets no new job")

    @field_validator("user")
    @classmethod
    def _user_is_no_option(cls, value: str | None) -> str | None:
        if value is not None and (not value or value.startswith("-") or re.search(r"[\s@]", value)):
            raise ValueError("a user name is expected")
        return value

    @field_validator("gpus", mode="before")
    @classmethod
    def _gpus_as_list(cls, value: object) -> object:
        if not isinstance(value, (str, list, tuple)):
            raise ValueError("the name of a GPU, or a list of them, is expected")
        return as_list(value)


class WebSettings(Config):
    """Who may reach the dashboard and the API of `ugro serve`, and what a browser may do."""

    hosts: Annotated[tuple[Address, ...], BeforeValidator(as_list)] = Field(
        default=(), description="Host names, beside this machine's own, under which `ugro serve` may be reached"
    )
    launch: Flag = Field(default=False, description="A browser may launch jobs; a token may in any case")


class MetricsSettings(Config):
    """What is reported to Prometheus."""

    dcgm_names: Flag = Field(
        default=False, description="Report GPUs by the names of NVIDIA's dcgm-exporter, too, for boards made for those"
    )


class Inventory(Config):
    """The cluster as the inventory describes it, in the order of node ranks.

    `departed` names nodes that left the file while a job of theirs runs: they are still watched, and get no new one.
    """

    nodes: dict[NodeName, NodeConfig] = Field(description="The nodes by name; the first one holds rank 0")
    dashboard: WebSettings = Field(default=WebSettings(), description="Who may reach the dashboard and the API")
    metrics: MetricsSettings = Field(default=MetricsSettings(), description="What is reported to Prometheus")
    script: Line | None = Field(default=None, description="Script that `ugro launch` runs where none is named")
    path: Path = Path(INVENTORY)
    departed: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_local_node(self) -> Self:
        if not self.nodes:
            raise Misplaced(("nodes",), "at least one node is expected under 'nodes:'")
        local = [name for name, node in self.nodes.items() if node.local]
        if len(local) > 1:
            raise Misplaced(
                ("nodes", local[1], "local"), f"only this machine can be 'local: true', not {' and '.join(local)}"
            )
        return self

    def with_departed(self, configs: Mapping[str, NodeConfig], needed: Iterable[str]) -> Self:
        """Add the needed nodes that left the file, with their last known address."""
        gone = {name: configs[name] for name in needed if name not in self.nodes and name in configs}
        return self.model_copy(update={"nodes": {**self.nodes, **gone}, "departed": tuple(gone)}) if gone else self

    def present(self) -> Self:
        """Return the inventory without departed nodes."""
        nodes = {name: node for name, node in self.nodes.items() if name not in self.departed}
        return self.model_copy(update={"nodes": nodes, "departed": ()})

    def node(self, name: str) -> NodeConfig:
        """Return the node of a name.

        Raises:
            NoSuchNode: there is none.
        """
        try:
            return self.nodes[name]
        except KeyError:
            raise NoSuchNode(
                f"no node is called {name!r} in {self.path}", f"the nodes are: {', '.join(self.nodes)}"
            ) from None

    def select(self, names: str | None) -> list[NodeConfig]:
        """Return the nodes of a comma-separated list, or all of them.

        Raises:
            InputError: a name is unknown, or given twice.
        """
        if names is None:
            return list(self.nodes.values())
        wanted = [name.strip() for name in names.split(",") if name.strip()]
        if not wanted:
            raise InputError("no node is named", f"the nodes are: {', '.join(self.nodes)}")
        if len(set(wanted)) < len(wanted):
            raise InputError(f"a node is named twice in {names!r}")
        return [self.node(name) for name in wanted]
