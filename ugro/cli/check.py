"""The command that looks for what would keep a training from working: check."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

import click
from rich.text import Text

from ugro.cli.app import App, command, json_option
from ugro.cli.complete import nodes_option
from ugro.cli.output import console, print_json, table
from ugro.common.config import NodeConfig
from ugro.common.errors import EXIT_JOB_FAILED, EXIT_NODES, EXIT_OK, InputError, NodeError, StateError
from ugro.common.text import printable
from ugro.control_plane.metadata_store.records import stop_where_held
from ugro.control_plane.preflight import Finding, Level, Report, judge, judge_state
from ugro.control_plane.preflight.findings import info, warning
from ugro.control_plane.preflight.network_report import Link, NetworkReport, idle_gpus
from ugro.control_plane.preflight.network_trial import check_network
from ugro.control_plane.resource_manager.governor import leases
from ugro.control_plane.resource_manager.twins import twins
from ugro.control_plane.scheduler.launcher import Launcher
from ugro.control_plane.scheduler.meeting import find_meeting
from ugro.nodes.pool import Pool
from ugro.nodes.remote.checkup.checkup import NodeReport, examine, file_system
from ugro.nodes.remote.run.process_manager import PORTS
from ugro.nodes.transport import Transport

SIGNS = {
    Level.OK: Text("✓", "green"),
    Level.INFO: Text("·", "cyan"),
    Level.WARNING: Text("!", "bold yellow"),
    Level.PROBLEM: Text("✗", "bold red"),
}
PROGRESS_AFTER = 1.0
"""Seconds of silence before it is said what is waited for."""


@command()
@nodes_option
@click.option("--network", is_flag=True, help="Measure the network too: every link, and an all-reduce over all nodes.")
@json_option
def check(app: App, names: str | None, network: bool, as_json: bool) -> int:
    """Look for what would keep a training from working, on every node at once. Nothing is changed there.

    The rates that --network measures are kept: of nodes that fit a job equally well, those with faster links get it.

    Exit code: 0 without problems, 1 with problems, 3 if a node cannot be reached.
    """
    nodes = app.inventory.select(names)
    if network and len(nodes) < 2:
        raise InputError("a network has at least two nodes", "leave --on away, or name two nodes")
    checkup = Checkup(app, nodes, network)
    app.run(lambda _, pool: checkup.run(pool))
    if as_json:
        print_json(checkup.document())
    else:
        checkup.print()
    return checkup.exit_code


class Checkup:
    """One run of the command: what was asked, what came of it."""

    def __init__(self, app: App, nodes: Sequence[NodeConfig], with_network: bool) -> None:
        self._app = app
        self._nodes = nodes
        self._with_network = with_network
        self._waiting = ""
        self.reports: dict[str, Report] = {}
        self.findings: list[Finding] = []
        self.network: NetworkReport | None = None

    async def run(self, pool: Pool) -> None:
        """Look at everything."""
        launcher = Launcher(self._app.store, self._app.inventory, pool, None)
        async with self._progress():
            kind, self.reports = await asyncio.gather(file_system(self._app.store.home), self._examine(pool))
            await self._find_ways(pool)
            state = judge_state(str(self._app.store.home), kind).about(None)
            self.findings = [*judge(self._nodes, self.reports), state]
            if self._with_network:
                await self._try_network(pool, launcher)

    async def _examine(self, pool: Pool) -> dict[str, Report]:
        waiting = [node.name for node in self._nodes]
        self._waiting = ", ".join(waiting)

        async def one(transport: Transport) -> NodeReport:
            try:
                return await examine(transport)
            finally:
                waiting.remove(transport.name)
                self._waiting = ", ".join(waiting)

        return await pool.each([node.name for node in self._nodes], one)

    async def _find_ways(self, pool: Pool) -> None:
        """The interface of each node towards the others, as a launch on all of them would find it."""
        able = [node for node, report in self.reports.items() if _torch(report)]
        if len(able) < 2:
            return
        for node, way in (await find_meeting(pool, able, PORTS)).ways.items():
            report = self.reports[node]
            assert isinstance(report, NodeReport)
            if isinstance(way, NodeError):
                self.reports[node] = dataclasses.replace(report, unread={**report.unread, "network": way})
            else:
                self.reports[node] = dataclasses.replace(report, way=way)

    async def _try_network(self, pool: Pool, launcher: Launcher) -> None:
        able = {
            node: report.python
            for node, report in self.reports.items()
            if isinstance(report, NodeReport) and report.python and report.python.distributed
        }
        for node in twins(able, {node: getattr(self.reports[node], "view", None) for node in able}):
            del able[node]  # two ranks on one machine measure no network
        if len(able) < 2:
            text = "the network was not measured: that needs two nodes with a working torch"
            self.findings.append(info("network", text).about(None))
            return
        gpus = idle_gpus(list(able), self.reports, leases(self._app.store.jobs.live(stop_where_held)))
        self._waiting = f"a trial on {', '.join(able)}"
        if not gpus and any(python.cuda_available for python in able.values()):
            text = "the network was measured on CPUs, not with NCCL: not every node has a GPU that nobody uses"
            self.findings.append(info("network", text).about(None))
        self.network = await check_network(launcher, self._app.inventory, pool, list(able), gpus)
        self.findings += self.network.findings
        try:
            self._app.store.metrics.links.remember(self.network.measured(time.time()))
        except StateError as error:
            text = f"the rates of the links are not kept for placing jobs: {error.message}"
            self.findings.append(warning("network", text, error.hint).about(None))

    @contextlib.asynccontextmanager
    async def _progress(self) -> AsyncIterator[None]:
        """Say on a terminal what is waited for, if it takes long."""
        out = console(stderr=True)

        async def show() -> None:
            await asyncio.sleep(PROGRESS_AFTER)
            with out.status("") as status:
                while True:
                    status.update(Text(f"waiting for {self._waiting}"))
                    await asyncio.sleep(0.2)

        showing = asyncio.create_task(show()) if out.is_terminal else None
        try:
            yield
        finally:
            if showing:
                showing.cancel()
                await asyncio.wait([showing])

    @property
    def exit_code(self) -> int:
        """3 if a node was not reached, else 1 if there is a problem, else 0."""
        if any(isinstance(report, NodeError) for report in self.reports.values()):
            return EXIT_NODES
        return EXIT_JOB_FAILED if any(finding.level == Level.PROBLEM for finding in self.findings) else EXIT_OK

    def document(self) -> dict[str, Any]:
        """The stable JSON form (docs/scripting.md); a network that could not be tried is null."""
        document = {
            "schema_version": 1,
            "nodes": [node_document(node, self.reports[node.name]) for node in self._nodes],
            "findings": [finding.model_dump(mode="json") for finding in self.findings],
        }
        network = self.network.model_dump(mode="json") if self.network else None
        return document | ({"network": network} if self._with_network else {})

    def print(self) -> None:
        """One block per node, one for what concerns all, the measurements, and the count."""
        for node in self._nodes:
            print_block(f"{node.name} ({node.address})", [f for f in self.findings if f.node == node.name])
        print_block("together", [finding for finding in self.findings if finding.node is None])
        if self.network:
            print_network(self.network)
        console().print(summary(len(self._nodes), self.findings))


def _torch(report: Report) -> str | None:
    """The torch of a node; None where there is none, or it could not be read."""
    return report.python.torch if isinstance(report, NodeReport) and report.python else None


def node_document(node: NodeConfig, report: Report) -> dict[str, Any]:
    """The stable JSON form of what one node said; null is what could not be read."""
    found = NodeReport() if isinstance(report, NodeError) else report
    parts = {
        "clock": found.clock,
        "python": found.python,
        "machine": found.machine,
        "way": found.way,
        "view": found.view,
    }
    return {
        "name": node.name,
        "address": node.address,
        "reachable": not isinstance(report, NodeError),
        "error": report.as_dict() if isinstance(report, NodeError) else None,
        **{name: part.model_dump(mode="json") if part else None for name, part in parts.items()},
    }


def print_block(title: str, findings: Iterable[Finding]) -> None:
    """The findings under one title, with their hints indented."""
    out = console()
    out.print(Text(title, "bold"))
    for finding in findings:
        out.print(Text("  ").append_text(SIGNS[finding.level]).append(f" {printable(finding.text)}"), soft_wrap=True)
        for line in finding.hint.split("\n") if finding.hint else ():
            out.print(Text(f"      {printable(line)}", "dim"), soft_wrap=True)
    out.print()


def print_network(network: NetworkReport) -> None:
    """Rates and latencies of every link, and the all-reduce."""
    out = console()
    how = "NCCL, one GPU on each node" if network.backend == "nccl" else "gloo, on CPUs"
    made = table("FROM \\ TO", *network.nodes, title=f"network ({how}; ranks met at {network.meets_at or '-'})")
    links = {(link.source, link.target): link for link in network.links}
    for source in network.nodes:
        made.add_row(source, *(link_in_words(links.get((source, target))) for target in network.nodes))
    out.print(made)
    if found := network.all_reduce:
        text = f"all-reduce of {found.size_mib:.1f} MiB: {found.time_ms:.1f} ms, bus bandwidth"
        out.print(Text(f"{text} {found.bus_gbit_per_s:.2f} Gbit/s"))
    out.print()


def link_in_words(link: Link | None) -> str:
    """`9.41 Gbit/s, 0.12 ms`"""
    return f"{link.gbit_per_s:.2f} Gbit/s, {link.latency_ms:.2f} ms" if link else "-"


def summary(nodes: int, findings: Sequence[Finding]) -> Text:
    """How many nodes, problems and warnings there are."""
    counts: Mapping[Level, int] = {level: sum(finding.level == level for finding in findings) for level in Level}
    problems, warnings = counts[Level.PROBLEM], counts[Level.WARNING]
    style = "bold red" if problems else "bold yellow" if warnings else "bold green"
    return Text(f"{_count(nodes, 'node')}: {_count(problems, 'problem')}, {_count(warnings, 'warning')}", style)


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
