"""Prints what a check found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import click
from rich.text import Text

from ugro.cli.output import console, print_hanging, print_marked, table
from ugro.service.schemas.check import Checked, FindingDocument, Level, LinkDocument, NetworkDocument

SIGNS: Mapping[Level, Text] = {
    "ok": Text("✓", "green"),
    "info": Text("·", "cyan"),
    "warning": Text("!", "bold yellow"),
    "problem": Text("✗", "bold red"),
}


def print_check(checked: Checked) -> None:
    """Print one block per node, one for what concerns all, the measurements, and the count."""
    found = checked.answer
    for node in found.nodes:
        print_block(f"{node.name} ({node.address})", [one for one in found.findings if one.node == node.name])
    print_block("together", [one for one in found.findings if one.node is None])
    if checked.network:
        print_network(checked.network)
    console().print(summary(len(found.nodes), found.findings))


def print_block(title: str, findings: Iterable[FindingDocument]) -> None:
    """Print the findings under one title, with their hints indented."""
    print_hanging("", title, bold=True)
    for finding in findings:
        print_marked(Text.assemble("  ", SIGNS[finding.level], " "), finding.text)
        for line in finding.hint.split("\n") if finding.hint else ():
            print_hanging("      ", line, dim=True)
    click.echo()


def print_network(network: NetworkDocument) -> None:
    """Print rates and latencies of every link, and the all-reduce."""
    out = console()
    how = "NCCL, one GPU on each node" if network.backend == "nccl" else "gloo, on CPUs"
    print_hanging("", f"network ({how}; ranks met at {network.meets_at or '-'})", bold=True)
    made = table("FROM \\ TO", *network.nodes)
    links = {(link.source, link.target): link for link in network.links}
    for source in network.nodes:
        made.add_row(source, *(link_in_words(links.get((source, target))) for target in network.nodes))
    out.print(made)
    if found := network.all_reduce:
        text = f"all-reduce of {found.size_mib:.1f} MiB: {found.time_ms:.1f} ms, bus bandwidth"
        out.print(Text(f"{text} {found.bus_gbit_per_s:.2f} Gbit/s"))
    out.print()


def link_in_words(link: LinkDocument | None) -> str:
    """Return `9.41 Gbit/s, 0.12 ms`."""
    return f"{link.gbit_per_s:.2f} Gbit/s, {link.latency_ms:.2f} ms" if link else "-"


def summary(nodes: int, findings: Sequence[FindingDocument]) -> Text:
    """Return how many nodes, problems and warnings there are."""
    problems, warnings = (sum(one.level == level for one in findings) for level in ("problem", "warning"))
    style = "bold red" if problems else "bold yellow" if warnings else "bold green"
    return Text(f"{_count(nodes, 'node')}: {_count(problems, 'problem')}, {_count(warnings, 'warning')}", style)


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
