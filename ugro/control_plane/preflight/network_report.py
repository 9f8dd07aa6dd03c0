"""Result of a network trial: pure functions over the logs of its ranks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from ugro.common.models.metrics import MeasuredLink
from ugro.common.models.record import Record
from ugro.common.text import printable
from ugro.control_plane.preflight import Finding, Report
from ugro.control_plane.preflight.findings import Remark, problem, warning
from ugro.nodes.remote.checkup.checkup import NodeReport

SLOW_GBIT_PER_S = 0.5
LAST_WORDS = 4
"""Lines of a log that are shown when a rank gave no result."""

LINE_LIMIT = 300

FIREWALL = (
    "is there a firewall between them? Ranks connect to each other on any port; and see that 'train_address' and"
    " 'interface' of the nodes belong to one network"
)

_NOISE = re.compile(r"\s*$|UGRO-NETWORK |\s*frame #\d+: |<omitting ")
_FACT = re.compile(r"^UGRO-NETWORK (\{.*\})\s*$", re.MULTILINE)

Quantity = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class NetworkLink(Record):
    """The way from one node to another; the latency is half of a round trip."""

    source: str
    target: str
    latency_ms: Quantity
    gbit_per_s: Quantity


class AllReduce(Record):
    """Time of an all-reduce over all nodes, and the rate at which each node sent and received meanwhile."""

    size_mib: Quantity
    time_ms: Quantity
    bus_gbit_per_s: Quantity


class NetworkReport(Record):
    """Measurements of a trial, as far as it came. `findings` are its problems."""

    nodes: tuple[str, ...]
    backend: str
    meets_at: str | None = None
    interfaces: dict[str, str | None] = Field(default_factory=dict)
    links: tuple[NetworkLink, ...] = ()
    all_reduce: AllReduce | None = None
    findings: tuple[Finding, ...] = Field(default=(), exclude=True)

    def measured(self, at: float) -> list[MeasuredLink]:
        """The links as they are kept, with the time of their measurement."""
        return [MeasuredLink(backend=self.backend, measured_at=at, **link.model_dump()) for link in self.links]


class RankFacts:
    """Facts from the ranks' logs. `nodes` are those of the ranks, in order; implausible facts are dropped."""

    def __init__(self, nodes: Sequence[str], logs: Iterable[str]) -> None:
        said = [fact for log in logs for fact in _facts(log)]
        self.joined = {nodes[rank] for fact in said for rank in _ranks([fact.get("joined")], nodes)}
        self.links = tuple(link for fact in said for link in _links(fact, nodes))
        self.all_reduce = next((found for fact in said if (found := _all_reduce(fact))), None)
        done = {(link.source, link.target) for link in self.links}
        pairs = (tuple(nodes[rank] for rank in _ranks(fact.get("trying"), nodes)) for fact in said)
        self.stuck = next((pair for pair in pairs if len(pair) == 2 and pair not in done), None)
        """The nodes that were measuring the way between them when everything ended."""


def _facts(log: str) -> Iterator[dict[str, Any]]:
    for match in _FACT.finditer(log):
        try:
            fact = json.loads(match[1])
        except (ValueError, RecursionError):
            continue
        yield fact


def _ranks(said: object, nodes: Sequence[str]) -> list[int]:
    """The ranks in a list off the wire."""
    known = range(len(nodes))
    return [rank for rank in said if isinstance(rank, int) and rank in known] if isinstance(said, list) else []


def _links(fact: Mapping[str, Any], nodes: Sequence[str]) -> list[NetworkLink]:
    """A way and the way back."""
    ranks = _ranks(fact.get("link"), nodes)
    if len(ranks) != 2:
        return []
    a, b = (nodes[rank] for rank in ranks)
    try:
        latency = float(fact["round_trip"]) * 500
        return [
            NetworkLink(source=source, target=target, latency_ms=latency, gbit_per_s=float(fact[rate]) * 8e-9)
            for source, target, rate in ((a, b, "there"), (b, a, "back"))
        ]
    except (KeyError, TypeError, ValueError, OverflowError):
        return []


def _all_reduce(fact: Mapping[str, Any]) -> AllReduce | None:
    try:
        return AllReduce(
            size_mib=float(fact["all_reduce"]) / 2**20,
            time_ms=float(fact["seconds"]) * 1000,
            bus_gbit_per_s=float(fact["bus_rate"]) * 8e-9,
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def slow_links(links: Iterable[NetworkLink]) -> Iterator[Remark]:
    """Ways over which every step of a training would wait."""
    for link in links:
        if link.gbit_per_s < SLOW_GBIT_PER_S:
            text = f"from {link.source} to {link.target} only {link.gbit_per_s:.2f} Gbit/s"
            yield warning("network", text, "Wi-Fi, a 100 Mbit port, or a bad cable? See there: ethtool INTERFACE")


def hung(
    nodes: Sequence[str], facts: RankFacts, seconds: float, meets_at: str | None, logs: Mapping[str, str]
) -> Remark:
    """Return the finding for ranks that neither ended nor failed in time. `logs` are those of each node, by name."""
    missing = [node for node in nodes if node not in facts.joined]
    begin = f"no result within {seconds:.0f} s"
    if len(missing) == len(nodes):
        text = f"{begin}: the nodes did not find each other" + (f" at {meets_at}" if meets_at else "")
    elif missing:
        text = f"{begin}: {', '.join(missing)} did not join the others at {meets_at}"
    elif facts.stuck:
        text = f"{begin}: nothing gets through between {' and '.join(facts.stuck)}"
    else:
        text = f"{begin}, although all nodes had joined"
    suspects = missing or list(facts.stuck or nodes)
    return problem("network", text, "\n".join([FIREWALL, *last_words({node: logs.get(node, "") for node in suspects})]))


def last_words(logs: Mapping[str, str]) -> Iterator[str]:
    """The ends of logs, for people: without our own lines and C++ stack frames."""
    for node, log in logs.items():
        lines = [printable(line) for line in log.splitlines() if not _NOISE.match(line)]
        yield from (f"{node} | {line[:LINE_LIMIT]}" for line in lines[-LAST_WORDS:])


def idle_gpus(nodes: Sequence[str], reports: Mapping[str, Report], held: Iterable[str]) -> dict[str, str]:
    """Return the UUID of an idle GPU that torch can use on each node; empty unless every node has one.

    `held` has the UUIDs that jobs hold.
    """
    found: dict[str, str] = {}
    taken = set(held)
    for node in nodes:
        report = reports[node]
        if isinstance(report, NodeReport) and report.view and report.python and report.python.cuda_available:
            gpus = [gpu.uuid for gpu in report.view.gpus if not (gpu.problem or gpu.mig or gpu.processes)]
            found.update((node, uuid) for uuid in gpus if uuid not in taken)
    return found if len(found) == len(nodes) else {}
