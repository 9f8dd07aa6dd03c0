"""Draws what each GPU did over the last hours."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence

from rich.text import Text

from ugro.cli.output import SHORT_UUID
from ugro.cli.render.grid import Column, Grid
from ugro.cli.render.listings import short_name
from ugro.common.models.metrics import EVERY_SECONDS
from ugro.common.text import clock, printable, size
from ugro.service.schemas.history import GpuHistoryDocument, GpuSampleDocument

BLOCKS = "▁▂▃▄▅▆▇█"

GAP = 900.0
"""Seconds for which a sample counts where no other follows; a longer gap is shown empty."""

WIDTHS = range(8, 61)
"""Characters of a sparkline, at least and at most."""

OTHER_WIDTH = 32
"""Characters of another column that count; what is wider is folded."""

USERS_WIDTH = 24
"""Characters that the names of those that had a GPU get before the sparkline of its memory leaves for them."""

SHOWN = 3
"""So many of those that had a GPU are named, the last ones."""

Value = Callable[[GpuSampleDocument], float | None]


def history_grid(past: Sequence[GpuHistoryDocument], since: float, now: float, screen: int) -> Grid:
    """One line for each GPU; the sparklines get what the other columns leave of the screen's width."""
    columns = ("NODE", "GPU", "UTIL", "", "MEMORY", "", "TEMP", "USED BY")  # a number, then its sparkline
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
        Column("MEMORY", leaves=1),
        Column("", leaves=3),
        Column("TEMP", leaves=2),
        Column("USED BY", USERS_WIDTH),
        title=f"{clock(since)} to {clock(now)}",
    )
    shown = ""
    for gpu, cells in zip(past, rows, strict=True):
        used = sparkline(buckets(gpu.samples, lambda look: look.utilization_percent, since, now, count), 100)
        most = max(look.memory_total_mib or look.memory_used_mib or 0 for look in gpu.samples)
        memory = sparkline(buckets(gpu.samples, lambda look: look.memory_used_mib, since, now, count), most)
        node = gpu.node if gpu.node != shown else ""
        made.add(node, cells[1], cells[2], Text(used, "cyan"), cells[4], Text(memory, "green"), *cells[6:])
        shown = gpu.node
    return made


def _cells(gpu: GpuHistoryDocument) -> list[str]:
    """Everything but the sparklines: mean utilization, most memory, the range of the temperature, and who it was."""
    busy = [look.utilization_percent for look in gpu.samples if look.utilization_percent is not None]
    memory = [look.memory_used_mib for look in gpu.samples if look.memory_used_mib is not None]
    heat = sorted({look.temperature_c for look in gpu.samples if look.temperature_c is not None})
    return [
        gpu.node,
        _title(gpu),
        f"{statistics.fmean(busy):.0f}%" if busy else "-",
        "",
        size(max(memory)) if memory else "-",
        "",
        f"{'–'.join(map(str, dict.fromkeys((heat[0], heat[-1]))))} °C" if heat else "-",
        used_by(gpu.samples),
    ]


def _title(gpu: GpuHistoryDocument) -> str:
    """A GPU as it is called in a narrow column."""
    name = short_name(printable(gpu.name))
    return f"{gpu.uuid[:SHORT_UUID] if gpu.index is None else gpu.index} {name}".strip()


def used_by(looks: Iterable[GpuSampleDocument]) -> str:
    """The jobs and programs that had a GPU, in the order in which they came; the last ones of many."""
    users = list(dict.fromkeys(user for look in looks for user in look.jobs or [look.job or look.program] if user))
    more = f"{len(users) - SHOWN} more, " if len(users) > SHOWN else ""
    return more + ", ".join(map(printable, users[-SHOWN:])) or "-"


def buckets(
    looks: Iterable[GpuSampleDocument], value: Value, since: float, until: float, count: int
) -> list[float | None]:
    """Return the mean of a value in each of `count` equal parts of a time, or the one before; None: no sample."""
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
