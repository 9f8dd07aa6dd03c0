"""What an engine is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from ugro.common.config import NodeConfig
from ugro.common.errors import NodeError
from ugro.common.models.node import NodeView
from ugro.common.models.run import RunFiles


@dataclass(frozen=True)
class Observation:
    """What every asked node said at one moment: its own state, and the files of each job that is on it."""

    views: dict[str, NodeView | NodeError]
    runs: dict[str, dict[str, RunFiles | NodeError]]
    at: float
    moved: dict[str, dict[str, NodeConfig]] = field(default_factory=dict)
    """By job, the nodes that do not answer where its run was started, and have the run where the inventory says now."""

    @property
    def clock_offsets(self) -> dict[str, float]:
        """Each node's clock minus the master's, in seconds, where it is known."""
        return {name: view.clock_offset for name, view in self.views.items() if isinstance(view, NodeView)}
