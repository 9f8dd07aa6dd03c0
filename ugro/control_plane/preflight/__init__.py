"""Judge a checkup: pure functions from what the nodes reported to findings that the user can act on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ugro.common.config import NodeConfig
from ugro.common.errors import NodeError
from ugro.control_plane.preflight.across import differences, judge_names
from ugro.control_plane.preflight.findings import Finding, Level, Remark, problem
from ugro.control_plane.preflight.machine import (
    judge_clock,
    judge_disk,
    judge_machine,
    judge_network,
    judge_power,
    judge_state,
)
from ugro.control_plane.preflight.software import judge_gpus, judge_python, judge_torch_with_gpus
from ugro.nodes.remote.checkup.checkup import NodeReport

__all__ = ["Finding", "Level", "Report", "judge", "judge_state"]

Report = NodeReport | NodeError
"""A node's answers at a checkup, or why it could not be read."""


def judge(nodes: Sequence[NodeConfig], reports: Mapping[str, Report]) -> list[Finding]:
    """Everything the reports say, node by node, and then how the nodes differ."""
    findings = [remark.about(node.name) for node in nodes for remark in _judge_node(node, reports[node.name])]
    read = {name: report for name, report in reports.items() if isinstance(report, NodeReport)}
    findings += judge_names({name: report.view for name, report in read.items()})
    return findings + [remark.about(None) for remark in differences(read)]


def _judge_node(node: NodeConfig, report: Report) -> Iterator[Remark]:
    if isinstance(report, NodeError):
        yield _unread("reachable", report)
        return
    machine, view, python = report.machine, report.view, report.python
    yield from judge_clock(report.clock, machine)
    for part, error in report.unread.items():
        yield _unread(part, error)
    if python:
        yield from judge_python(python, node.name)
    if view:
        yield from judge_gpus(view, node.gpus)
    if view and python and machine:
        yield from judge_torch_with_gpus(view.gpus, python, machine)
    if view:
        yield from judge_disk(view, node.base_dir)
    if machine:
        yield from judge_machine(machine)
        yield from judge_power(machine.power)
        yield from judge_network(node, report.way, machine)


def _unread(part: str, error: NodeError) -> Remark:
    return problem(part, error.message.removeprefix(f"{error.node}: "), error.hint)
