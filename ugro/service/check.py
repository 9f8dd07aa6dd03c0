"""Looks for what would keep a training from working, on every node at once."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

from pydantic import BaseModel

from ugro.common.config import NodeConfig
from ugro.common.errors import InputError, NodeError, StateError
from ugro.common.job_spec.setup import ENVIRONMENT
from ugro.control_plane.metadata_store.records import stop_where_held
from ugro.control_plane.preflight import Finding, Report, judge, judge_state
from ugro.control_plane.preflight.findings import info, warning
from ugro.control_plane.preflight.network_report import NetworkReport, idle_gpus
from ugro.control_plane.preflight.network_trial import check_network
from ugro.control_plane.resource_manager.governor import leases
from ugro.control_plane.resource_manager.twins import twins
from ugro.engines.ssh.engine import SshEngine
from ugro.engines.ssh.meeting import find_meeting
from ugro.nodes.pool import Pool
from ugro.nodes.remote.checkup.checkup import NodeReport, examine, file_system
from ugro.nodes.remote.run.process_manager import PORTS
from ugro.nodes.remote.setup.setup import JobInterpreters
from ugro.nodes.transport import Transport
from ugro.service.context import Context
from ugro.service.documents import error_document
from ugro.service.schemas.base import Document
from ugro.service.schemas.check import (
    Check,
    CheckDocument,
    Checked,
    CheckedNode,
    ClockDocument,
    FindingDocument,
    MachineDocument,
    NetworkCheckDocument,
    NetworkDocument,
    PythonDocument,
    WayDocument,
)
from ugro.service.schemas.notices import WaitingForNodes

Made = TypeVar("Made", bound=Document)

REPORT_AFTER, REPORT_EVERY = 1.0, 0.2
"""Seconds before it is reported what is waited for, and between two looks whether that changed."""


async def check(context: Context, request: Check) -> Checked:
    """Look at nodes from all sides. Nothing is changed there.

    The rates of a trial of the network are kept: of nodes that fit a job equally well, those with faster links get it.

    Raises:
        InputError: there is no such node, a trial of the network has fewer than two, or a setup makes the Python.
    """
    if request.python in ENVIRONMENT:
        hint = "check the one that it made: `ugro events JOB` has its path, for `ugro check --python PATH`"
        raise InputError(f"python {request.python} is made by the setup command of a job", hint)
    nodes = context.inventory.select(request.nodes)
    if request.network and len(nodes) < 2:
        raise InputError("a network has at least two nodes", "omit --on, or name two nodes")
    checkup = _Checkup(context, nodes, request.python)
    await checkup.run((await context.reach()).pool, request.network)
    return checkup.answer(request.network)


class _Checkup:
    """One check: what was asked, what came of it."""

    def __init__(self, context: Context, nodes: Sequence[NodeConfig], python: str | None) -> None:
        self._context, self._python = context, python
        self._nodes = nodes
        self._waiting = WaitingForNodes(nodes=tuple(node.name for node in nodes), trial=False)
        self._reports: dict[str, Report] = {}
        self._findings: list[Finding] = []
        self._network: NetworkReport | None = None

    async def run(self, pool: Pool, with_network: bool) -> None:
        """Look at everything."""
        home = self._context.store.home
        async with self._reporting():
            kind, self._reports = await asyncio.gather(file_system(home), self._examine(pool))
            await self._find_ways(pool)
            state = judge_state(str(home), kind).about(None)
            self._findings = [*judge(self._nodes, self._reports), state]
            if with_network:
                await self._try_network(pool)

    @contextlib.asynccontextmanager
    async def _reporting(self) -> AsyncIterator[None]:
        """Report what is waited for, if it takes long."""

        async def report() -> None:
            await asyncio.sleep(REPORT_AFTER)
            told: WaitingForNodes | None = None
            while True:
                if self._waiting != told:
                    told = self._waiting
                    self._context.tell(told)
                await asyncio.sleep(REPORT_EVERY)

        reporting = asyncio.create_task(report())
        try:
            yield
        finally:
            reporting.cancel()
            await asyncio.wait([reporting])

    async def _examine(self, pool: Pool) -> dict[str, Report]:
        waiting = [node.name for node in self._nodes]

        async def one(transport: Transport) -> NodeReport:
            try:
                return await examine(transport, self._python)
            finally:
                waiting.remove(transport.name)
                if waiting:
                    self._waiting = WaitingForNodes(nodes=tuple(waiting), trial=False)

        return await pool.each([node.name for node in self._nodes], one)

    async def _find_ways(self, pool: Pool) -> None:
        """Find the interface of each node towards the others, as a launch on all of them would."""
        able = [node for node, report in self._reports.items() if _torch(report)]
        if len(able) < 2:
            return
        for node, way in (await find_meeting(pool, able, PORTS, interpreters=self._interpreters(able))).ways.items():
            report = self._reports[node]
            assert isinstance(report, NodeReport)
            if isinstance(way, NodeError):
                self._reports[node] = dataclasses.replace(report, unread={**report.unread, "network": way})
            else:
                self._reports[node] = dataclasses.replace(report, way=way)

    def _interpreters(self, nodes: Sequence[str]) -> JobInterpreters:
        """Return what would run a job on these nodes."""
        reports = {node: self._reports[node] for node in nodes} if self._python else {}
        return JobInterpreters(
            {
                node: report.python.executable
                for node, report in reports.items()
                if isinstance(report, NodeReport) and report.python
            }
        )

    async def _try_network(self, pool: Pool) -> None:
        able = {
            node: report.python
            for node, report in self._reports.items()
            if isinstance(report, NodeReport) and report.python and report.python.distributed
        }
        for node in twins(able, {node: getattr(self._reports[node], "view", None) for node in able}):
            del able[node]  # two ranks on one machine measure no network
        if len(able) < 2:
            text = "the network was not measured: that needs two nodes with a working torch"
            self._findings.append(info("network", text).about(None))
            return
        store = self._context.store
        gpus = idle_gpus(list(able), self._reports, leases(store.jobs.live(stop_where_held)))
        self._waiting = WaitingForNodes(nodes=tuple(able), trial=True)
        if not gpus and any(python.cuda_available for python in able.values()):
            text = "the network was measured on CPUs, not with NCCL: not every node has an idle GPU"
            self._findings.append(info("network", text).about(None))
        engine = SshEngine(self._context.inventory, pool, store.clock, store.config.master)
        self._network = await check_network(engine, pool, list(able), gpus, self._python)
        self._findings += self._network.findings
        try:
            store.metrics.links.remember(self._network.measured(time.time()))
        except StateError as error:
            text = f"the rates of the links are not kept for placing jobs: {error.message}"
            self._findings.append(warning("network", text, error.hint).about(None))

    def answer(self, with_network: bool) -> Checked:
        """Return what came of it."""
        found = CheckDocument(
            nodes=tuple(_node_document(node, self._reports[node.name]) for node in self._nodes),
            findings=tuple(FindingDocument.checked(one.model_dump(mode="json")) for one in self._findings),
        )
        if not with_network:
            return Checked(answer=found)
        network = _document(NetworkDocument, self._network)
        return Checked(answer=NetworkCheckDocument(nodes=found.nodes, findings=found.findings, network=network))


def _torch(report: Report) -> str | None:
    """Return the torch of a node; None where there is none, or it could not be read."""
    return report.python.torch if isinstance(report, NodeReport) and report.python else None


def _node_document(node: NodeConfig, report: Report) -> CheckedNode:
    found = NodeReport() if isinstance(report, NodeError) else report
    return CheckedNode(
        name=node.name,
        address=node.address,
        reachable=not isinstance(report, NodeError),
        error=error_document(report) if isinstance(report, NodeError) else None,
        clock=_document(ClockDocument, found.clock),
        python=_document(PythonDocument, found.python),
        machine=_document(MachineDocument, found.machine),
        way=_document(WayDocument, found.way),
        view=found.view,
    )


def _document(kind: type[Made], record: BaseModel | None) -> Made | None:
    """Return the document of a record that has the same fields."""
    return None if record is None else kind.checked(record.model_dump())
