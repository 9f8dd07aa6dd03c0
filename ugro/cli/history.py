"""`ugro history`: what each GPU did over the last hours, whoever used it."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click
from rich.text import Text

from ugro.cli.app import App, command, json_option, moment_option
from ugro.cli.complete import complete_node
from ugro.cli.grid import Column, Grid
from ugro.cli.listings import short_name
from ugro.cli.output import PIPE_WIDTH, SHORT_UUID, print_json, stamp, terminal_width, wide_option
from ugro.common.models.metrics import GpuLook
from ugro.common.text import clock, printable, size
from ugro.control_plane.metadata_store.gpu_history import EVERY_SECONDS

BLOCKS = "▁▂▃▄▅▆▇█"

GAP = 900.0
"""Seconds for which a look stands where no other follows; a longer time without one is shown empty."""

WIDTHS = range(8, 61)
"""Characters of a sparkline, at least and at most."""

OTHER_WIDTH = 32
"""Characters of another column that count; what is wider is folded."""

SHOWN = 3
"""So many of those that had a GPU are named, the last ones."""

Value = Callable[[GpuLook], float | None]


@dataclass(frozen=True)
class GpuPast:
    """What one GPU showed, in the order of the looks. `index` is the driver's, None for one that is not there now."""

    node: str
    uuid: str
    index: int | None
    name: str
    looks: tuple[GpuLook, ...]

    @property
    def title(self) -> str:
        """As it is called in a narrow column."""
        name = short_name(printable(self.name))
        return f"{self.uuid[:SHORT_UUID] if self.index is None else self.index} {name}".strip()


@command()
@click.argument("names", nargs=-1, metavar="[NODE]...", shell_complete=complete_node)
@click.option(
    "--since",
    default="6h",
    show_default=True,
    callback=moment_option,
    metavar="TIME",
    help="2h (ago), 22:30, 2026-11-24.",
)
@wide_option
@json_option
def history(app: App, names: tuple[str, ...], since: float, wide: bool, as_json: bool) -> None:
    """What each GPU did: utilization, memory, temperature, and the jobs or programs that had it. Default: every node.

    Ticks (serve, sweep, a command that follows a job) record it once a minute, for idle GPUs too.
    """
    past, now = list(_past(app, names, since)), time.time()
    if as_json:
        print_json([_document(gpu) for gpu in past])
        return
    if not past:
        click.echo("no tick (ugro serve, ugro sweep) has seen a GPU since then", err=True)
        return
    screen = None if wide else terminal_width()
    history_grid(past, since, now, screen or PIPE_WIDTH).print(wide)


def _past(app: App, names: Iterable[str], since: float) -> Iterator[GpuPast]:
    kept = app.store.metrics.history
    recorded, cluster = kept.nodes(), app.cluster
    asked = [name if name in recorded else cluster.node(name).name for name in names]
    views, known = app.store.config.remembered_nodes(), app.store.config.known_gpus()
    for node in dict.fromkeys(asked or [*cluster.nodes, *recorded]):
        indexes = {gpu.uuid: gpu.index for gpu in views[node].gpus} if node in views else {}
        by_gpu: dict[str, list[GpuLook]] = {}
        for look in kept.read(node, since):
            by_gpu.setdefault(look.uuid, []).append(look)
        for uuid in sorted(by_gpu, key=lambda uuid: (uuid not in indexes, indexes.get(uuid) or 0)):
            yield GpuPast(node, uuid, indexes.get(uuid), known.get(node, {}).get(uuid, ""), tuple(by_gpu[uuid]))


def _document(gpu: GpuPast) -> dict[str, Any]:
    """The stable JSON form (docs/scripting.md)."""
    samples = [look.model_dump(mode="json", exclude={"uuid"}) | {"at": stamp(look.at)} for look in gpu.looks]
    return {"node": gpu.node, "uuid": gpu.uuid, "index": gpu.index, "name": gpu.name, "samples": samples}


def history_grid(past: Sequence[GpuPast], since: float, now: float, screen: int) -> Grid:
    """One line for each GPU; the sparklines get what the other columns leave of the screen's width."""
    columns = ("NODE", "GPU", "UTIL", "", "MEMORY", "", "TEMP", "USED BY")
    rows = [_cells(gpu) for gpu in past]
    widest = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    taken = sum(min(cell, OTHER_WIDTH) for cell in widest) + 2 * (len(columns) - 1)
    width = min(max((screen - taken) // 2, WIDTHS.start), WIDTHS.stop - 1)
    count = max(1, min(width, int((now - since) // EVERY_SECONDS)))
    made = Grid(
        Column("NODE", 24),
        Column("GPU", 10),
        Column("UTIL"),
        Column(""),
        Column("MEMORY", leaves=3),
        Column("", leaves=1),
        Column("TEMP", leaves=2),
        Column("USED BY", 12),
        title=f"{clock(since)} to {clock(now)}",
    )
    shown = ""
    for gpu, cells in zip(past, rows, strict=True):
        used = sparkline(buckets(gpu.looks, lambda look: look.utilization_percent, since, now, count), 100)
        most = max(look.memory_total_mib or look.memory_used_mib or 0 for look in gpu.looks)
        memory = sparkline(buckets(gpu.looks, lambda look: look.memory_used_mib, since, now, count), most)
        node = gpu.node if gpu.node != shown else ""
        made.add(node, cells[1], Text(used, "cyan"), cells[3], Text(memory, "green"), *cells[5:])
        shown = gpu.node
    return made


def _cells(gpu: GpuPast) -> list[str]:
    """Everything but the sparklines: mean utilization, most memory, the range of the temperature, and who it was."""
    busy = [look.utilization_percent for look in gpu.looks if look.utilization_percent is not None]
    memory = [look.memory_used_mib for look in gpu.looks if look.memory_used_mib is not None]
    heat = sorted({look.temperature_c for look in gpu.looks if look.temperature_c is not None})
    return [
        gpu.node,
        gpu.title,
        "",
        f"{statistics.fmean(busy):.0f}%" if busy else "-",
        "",
        size(max(memory)) if memory else "-",
        f"{'–'.join(map(str, dict.fromkeys((heat[0], heat[-1]))))} °C" if heat else "-",
        used_by(gpu.looks),
    ]


def used_by(looks: Iterable[GpuLook]) -> str:
    """The jobs and programs that had a GPU, in the order in which they came; the last ones of many."""
    users = list(dict.fromkeys(user for look in looks if (user := look.job or look.program)))
    more = f"{len(users) - SHOWN} more, " if len(users) > SHOWN else ""
    return more + ", ".join(map(printable, users[-SHOWN:])) or "-"


def buckets(looks: Iterable[GpuLook], value: Value, since: float, until: float, count: int) -> list[float | None]:
    """The mean of a value in each of `count` equal parts of a time, or the last one before; None: nobody looked."""
    part = max(until - since, 1.0) / count
    said: list[list[float]] = [[] for _ in range(count)]
    ends = [-math.inf] * count
    for look in looks:
        seen = value(look)
        if seen is not None and look.at >= since:
            number = min(int((look.at - since) / part), count - 1)
            said[number].append(seen)
            ends[number] = max(ends[number], look.at)
    found: list[float | None] = []
    last, last_at = None, -math.inf
    for number, values in enumerate(said):
        if values:
            last, last_at = values[-1], ends[number]
        stands = since + number * part - last_at < GAP
        found.append(statistics.fmean(values) if values else last if stands else None)
    return found


def sparkline(values: Iterable[float | None], top: float) -> str:
    """A block for each value from nothing to `top`; a blank where there is none."""
    highest = len(BLOCKS) - 1
    return "".join(
        " " if value is None else BLOCKS[max(0, min(highest, int(value / (top or 1) * len(BLOCKS))))]
        for value in values
    )
