"""The interface of engines.

An engine knows how to run attempts of jobs on one kind of machine. The control plane decides what runs, where and
when, and records it; it asks an engine to carry that out, and knows none of them by name.

Every engine promises (`tests/unit/engines/test_promises.py` holds it to that):

- An act may be repeated, by any process: what was prepared is not brought again, what was started is not started again.
- What was started outlives this process and its connections; a later observation finds it again.
- A machine that gives no answer proves nothing. It is a `NodeError` in the answer, never an end.
- `stop` says `proved` only of nodes where no process of the attempt remains.
- Logs are fetched from where their copies end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import NodeError
from ugro.common.job_spec import JobSpec
from ugro.common.models.job import Job, Placement
from ugro.common.models.node import NodeView
from ugro.common.models.run import LogEnd, LogFetch, RunFiles

OnSent = Callable[[str, int, int], None]
"""Called with the node, the bytes that were sent so far, and the bytes to send."""

OnPhase = Callable[[str, str], Awaitable[None]]
"""Called with what a job waits for before its start, in words (empty: nothing any more), and what is new of that."""


@dataclass(frozen=True)
class Cargo:
    """What is brought to the nodes of an attempt: folders of this machine.

    `bring_checkpoint` fetches the checkpoint that the job resumes from and returns its folder. It is called once the
    nodes have room for the job, and only if one of them lacks the checkpoint. `logs` is the folder for copies of the
    setup command's output. `on_phase` is called with what is set up where, before that begins.
    """

    code: Path
    bring_checkpoint: Callable[[], Awaitable[Path]]
    earlier_code: tuple[Path, ...] = ()
    """Code of earlier attempts, by which a node knows which of its files are code."""
    on_sent: OnSent | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Values by variable that the ranks and the setup command get: never part of a script, an argument or a message."""
    logs: Path | None = None
    on_phase: OnPhase | None = None


@dataclass(frozen=True)
class Prepared:
    """An attempt that can be started.

    `placement` is the job's, with where the ranks meet; it is recorded before the start. By node, `scripts` has what
    will run, and `interfaces` over which interface, where that is known. `pythons` has what runs the job, where that is
    not what the inventory says.
    """

    placement: Placement
    scripts: Mapping[str, str]
    interfaces: Mapping[str, str | None] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    pythons: Mapping[str, str] = field(default_factory=dict)


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


@dataclass(frozen=True)
class Ending:
    """What came of ending a job: what is in the way of saying that it is over, the nodes that could not be reached or
    gave no answer, by node, in words, what ran there outside of torchrun's own tree and was ended, and the nodes that
    `proved` that no process of it remains. On the others none was found.
    """

    problems: list[str]
    unreached: list[str] = field(default_factory=list)
    detached: dict[str, str] = field(default_factory=dict)
    proved: list[str] = field(default_factory=list)


class Engine(Protocol):
    """Prepares, starts, observes and stops the attempts of jobs, and fetches their logs.

    A job is always meant in its present attempt, and has a placement.
    """

    @property
    def inventory(self) -> Inventory:
        """The machines, as they are described now."""

    @property
    def pending(self) -> Collection[asyncio.Future[Any]]:
        """Questions of an observation with `keep` without an answer so far."""

    async def prepare(
        self, job: Job, spec: JobSpec, cargo: Cargo | None = None, owners: Mapping[str, str] | None = None
    ) -> Prepared:
        """Check that each node of a job can start its ranks, bring its cargo there, and set its environment up.

        No rank is started. A setup command keeps running if this call is cancelled; `stop` ends it, too.

        Without cargo nothing is written anywhere: a rehearsal. `owners` has the owner lines of nodes as they were just
        seen, which are then not asked for again. A placement that says where the ranks meet keeps that.

        Raises:
            NodeError: of the first node, in the order of their ranks, that cannot.
        """

    async def start(self, job: Job, prepared: Prepared) -> None:
        """Start what was prepared and recorded. Where it was started before, nothing happens.

        Raises:
            NodeError: of the first node, in the order of their ranks, that did not start; what did is the caller's to
                stop. After `LinkLost` and `CommandTimedOut` it may have started.
        """

    async def observe(
        self, jobs: Sequence[Job], names: Iterable[str], within: float | None = None, keep: bool = False
    ) -> Observation:
        """Look at the named nodes and at what these jobs have there, in the order of one moment. Changes nothing.

        `within` bounds the wait in seconds. What is not answered by then is an error in the result; it is given up,
        or, to `keep`, asked on, and counts at the next observation.
        """

    async def stop(self, job: Job, grace: float, nodes: Sequence[str], within: float | None = None) -> Ending:
        """End every process of a job on these nodes: a request, `grace` seconds of patience, force.

        A node has `within` seconds to say that it did.
        """

    async def fetch_logs(
        self, job: Job, node: str, folder: Path, *, at: float, starts: Mapping[str, int], most: int
    ) -> LogFetch:
        """Append what is new in the logs of a job on a node to their copies in a folder: about `most` bytes at most.

        A copy's size is the offset of the next byte to fetch; `starts` has the offset at which a copy begins, by its
        name, where that is not 0. Bytes that came `at` the same time (seconds since the epoch) are read back merged.

        Raises:
            NodeError: the node cannot be read now; the copies have what came before.
        """

    # --- what follows from the five ----------------------------------------------------------------------------------

    async def log_ends(self, job: Job, node: str, lines: int, limit: int) -> Mapping[str, LogEnd]:
        """Return where the last lines of a job's logs on a node begin, by the name of their copies. Fetch nothing.

        They are `lines` of them (0: however many), and no more than `limit` bytes.

        Raises:
            NodeError: the node cannot be read now.
        """

    async def leftovers(self, job: Job) -> dict[str, str]:
        """Return the processes that a job left and its ranks do not wait for, in words, by node; or why not known."""

    async def set_time_limit(self, job: Job, spec: JobSpec, nodes: Sequence[str]) -> dict[str, NodeError | None]:
        """Let what runs on these nodes keep the time limit that the spec has by now. Returns what each node said."""

    async def adopt(self, inventory: Inventory, kept: Iterable[NodeConfig]) -> None:
        """Use an edited inventory from now on. Connections to nodes that it describes as before, or in `kept`, stay."""

    async def close(self) -> None:
        """Give up requests without an answer. What was started keeps running."""
