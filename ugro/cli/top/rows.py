"""What `ugro top` shows of the live view: rows of cells, and how they are ordered and filtered. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from ugro.cli.output import STATE_STYLES
from ugro.cli.render.listings import short_name
from ugro.common.models.job_state import JobState
from ugro.common.text import duration, printable, size, without_name
from ugro.service.schemas.live import LiveGpu, LiveJob, LiveNode, LiveProgress, LiveView

SAMPLES = 16
"""Updates of which a sparkline has a cell each."""

NARROW, FEW_SAMPLES = 100, 8
"""Cells of a terminal below which a row of a GPU is shortened, and those of its sparkline then."""

BAR = 8
"""Cells of a bar."""

_BLOCKS, _PARTS = "▁▂▃▄▅▆▇█", " ▏▎▍▌▋▊▉"

Order = Callable[[Any], Any]


@dataclass(frozen=True)
class Row:
    """A line of a table: its cells by column, what it is found by, and the command that prints the same."""

    key: str
    cells: tuple[str, ...]
    words: str
    command: str
    states: tuple[str, ...] = ()
    """What colours the cells, by column; empty: nothing."""

    def texts(self) -> list[Text]:
        """Return the cells in their colours."""
        states = self.states or ("",) * len(self.cells)
        return [Text(cell, STATE_STYLES.get(state, "")) for cell, state in zip(self.cells, states, strict=True)]


@dataclass(frozen=True)
class SortColumn:
    """A column: its title, and by what the rows are sorted for it."""

    title: str
    order: Order


def bar(part: float | None, cells: int = BAR) -> str:
    """Return a bar of block characters for a part from 0 to 1; dashes where nothing is known."""
    if part is None:
        return "-"
    eighths = round(min(max(part, 0.0), 1.0) * cells * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_PARTS[rest] if rest else "")).ljust(cells, "·")


def sparkline(values: Sequence[int | None]) -> str:
    """Return a line of block characters, one for each percentage; a gap where nothing is known."""
    return "".join(" " if value is None else _BLOCKS[min(max(value, 0), 100) * 7 // 100] for value in values)


class Use:
    """How busy each GPU was at the last updates."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[int | None]] = {}

    def take(self, view: LiveView) -> None:
        """Remember what a view shows. What an unreachable node showed last is no news."""
        for node in view.nodes.values():
            for gpu in node.gpus:
                seen = self._seen.setdefault(gpu.uuid, deque(maxlen=SAMPLES))
                seen.append(gpu.utilization_percent if node.reachable else None)

    def of(self, uuid: str, cells: int = SAMPLES) -> str:
        """Return the sparkline of a GPU, the newest sample last. It is as wide as ever, however few there are."""
        return sparkline(tuple(self._seen.get(uuid, ()))[-cells:]).rjust(cells)


# --- GPUs ------------------------------------------------------------------------------------------------------------

Place = tuple[LiveNode, LiveGpu | None]

GPU_COLUMNS: Mapping[str, SortColumn] = {
    "GPU": SortColumn("GPU", lambda place: ()),  # the order of the inventory
    "NAME": SortColumn("NAME", lambda place: place[1].name if place[1] else "~"),
    "MEMORY": SortColumn("MEMORY", lambda place: -(_memory(place[1]) or 0.0)),
    "UTIL": SortColumn("UTIL", lambda place: -_known(place, "utilization_percent")),
    "LAST": SortColumn("LAST", lambda place: -_known(place, "utilization_percent")),
    "TEMP": SortColumn("TEMP", lambda place: -_known(place, "temperature_c")),
    "POWER": SortColumn("POWER", lambda place: -_known(place, "power_w")),
    "JOB": SortColumn("JOB", lambda place: (not (place[1] and place[1].job), (place[1] and place[1].job) or "")),
    "NODE": SortColumn("NODE", lambda place: place[0].reachable),
}


def gpu_rows(view: LiveView, use: Use, by: str = "GPU", words: str = "", narrow: bool = False) -> list[Row]:
    """Return a row for each GPU, and for each node without one; in the order of the inventory where they are equal.

    `narrow`: there is no room for bars.
    """
    places: list[Place] = [(node, gpu) for node in view.nodes.values() for gpu in node.gpus or (None,)]
    rows = [_gpu_row(node, gpu, use, narrow) for node, gpu in sorted(places, key=GPU_COLUMNS[by].order)]
    return [row for row in rows if words.lower() in row.words]


def _gpu_row(node: LiveNode, gpu: LiveGpu | None, use: Use, narrow: bool) -> Row:
    said, state = _of_node(node)
    where = f"{node.name}:{'-' if gpu is None or gpu.index is None else gpu.index}"
    if gpu is None:
        cells = (where, node.gpu_problem or "no GPU", *["-"] * 6, said)
    else:
        percent = gpu.utilization_percent
        cells = (
            where,
            short_name(gpu.name) + (f" ({gpu.problem})" if gpu.problem else ""),
            _memory_in_words(gpu, narrow),
            "-" if percent is None else f"{percent:3}%",
            use.of(gpu.uuid, FEW_SAMPLES if narrow else SAMPLES),
            "-" if gpu.temperature_c is None else f"{gpu.temperature_c}°C",
            "-" if gpu.power_w is None else f"{gpu.power_w:.0f} W",
            " ".join(gpu.holders) or "-",
            said,
        )
    cells = tuple(map(printable, cells))
    key = gpu.uuid if gpu else node.name
    command = f"ugro history {node.name}" if gpu else "ugro nodes"
    return Row(key, cells, " ".join(cells).lower(), command, (*[""] * (len(cells) - 1), state))


def _of_node(node: LiveNode) -> tuple[str, str]:
    """Return how the node of a GPU stands, and what colours that."""
    if not node.reachable:
        message = without_name(node.error.message, node.name) if node.error else "unreachable"
        return message, "failed"
    if node.drained:
        return f"drained: {node.drained.reason}", "held"
    load = "" if node.load_1m is None else f"load {node.load_1m:.1f}/{node.cpu_count}"
    return load, ""


def _memory(gpu: LiveGpu | None) -> float | None:
    if gpu is None or gpu.memory_used_mib is None or not gpu.memory_total_mib:
        return None
    return gpu.memory_used_mib / gpu.memory_total_mib


def _memory_in_words(gpu: LiveGpu, narrow: bool) -> str:
    used, total = gpu.memory_used_mib, gpu.memory_total_mib
    if narrow:
        return "-" if used is None or total is None else f"{used / 1024:.1f}/{total / 1024:.1f} GiB"
    return f"{bar(_memory(gpu))} {'-' if used is None else size(used)} / {'-' if total is None else size(total)}"


def _known(place: Place, field: str) -> float:
    value: float | None = getattr(place[1], field, None)
    return -1.0 if value is None else value


# --- jobs ------------------------------------------------------------------------------------------------------------


def _group(job: LiveJob) -> int:
    return 2 if job.state.ended else 0 if job.state.on_nodes else 1


JOB_COLUMNS: Mapping[str, SortColumn] = {
    "ID": SortColumn("ID", lambda job: (len(job.id), job.id)),
    "NAME": SortColumn("NAME", lambda job: job.name),
    "STATE": SortColumn("STATE", _group),
    "PROGRESS": SortColumn("PROGRESS", lambda job: -(_part(job.progress) or 0.0)),
    "ENDS IN": SortColumn("ENDS IN", lambda job: (job.progress and job.progress.ends_at) or float("inf")),
    "GPUS": SortColumn("GPUS", lambda job: -job.gpus),
    "NODES": SortColumn("NODES", lambda job: job.nodes),
    "TIME": SortColumn("TIME", lambda job: job.started_at or job.submitted_at),
    "WHY": SortColumn("WHY", lambda job: job.reason),
}


def job_rows(view: LiveView, now: float, by: str = "STATE", words: str = "") -> list[Row]:
    """Return a row for each job: at first those that run, those that wait in the order of their turns, the ended ones.

    `now` is in seconds since the epoch.
    """
    turns = {job: turn for turn, job in enumerate(view.queue, 1)}

    def order(job: LiveJob) -> tuple[Any, ...]:
        last = -int(job.ended_at) if job.ended_at and job.state.ended else 0
        return JOB_COLUMNS[by].order(job), turns.get(job.id, 0), last, len(job.id), job.id

    rows = [_job_row(job, turns.get(job.id), now) for job in sorted(view.jobs.values(), key=order)]
    return [row for row in rows if words.lower() in row.words]


def _job_row(job: LiveJob, turn: int | None, now: float) -> Row:
    state = "stopping" if job.stopping else job.state.value
    ends = job.progress.ends_at if job.progress and not job.state.ended else None
    cells: tuple[str, ...] = (
        job.id,
        "-" if job.name == job.id else job.name,
        f"{state} #{turn}" if turn and job.state == JobState.QUEUED else state,
        _progress(job.progress),
        "-" if ends is None else duration(ends - now),
        str(job.gpus or "-"),
        ", ".join(job.nodes) or "-",
        _time(job, now),
        job.alert or job.reason or "-",
    )
    cells = tuple(map(printable, cells))
    alert = "failed" if job.alert else ""
    return Row(job.id, cells, " ".join(cells).lower(), f"ugro status {job.id}", ("", "", state, *[""] * 5, alert))


def _part(progress: LiveProgress | None) -> float | None:
    if progress is None or progress.step is None or not progress.steps:
        return None
    return progress.step / progress.steps


def _progress(progress: LiveProgress | None) -> str:
    if progress is None or progress.step is None:
        return "-"
    if (part := _part(progress)) is None:
        return f"step {progress.step}"
    return f"{bar(part)} {part:4.0%} {progress.step}/{progress.steps}"


def _time(job: LiveJob, now: float) -> str:
    if job.started_at is None:
        return "-" if job.state.ended else f"waiting {duration(now - job.submitted_at)}"
    return duration((job.ended_at or now) - job.started_at)


# --- the line above --------------------------------------------------------------------------------------------------


def summary(view: LiveView) -> str:
    """Return the cluster in one line; what needs the user comes first, where no terminal cuts it."""
    gpus = [gpu for node in view.nodes.values() for gpu in node.gpus]
    away = [node.name for node in view.nodes.values() if not node.reachable]
    states = [job.state for job in view.jobs.values()]
    proposed = len(view.proposals)
    needs = [
        "" if view.attended else "no scheduler runs: ugro serve",
        f"{proposed} proposed: ugro proposals" if proposed else "",
        f"{', '.join(away)} unreachable" if away else "",
    ]
    parts = [
        *filter(None, needs),
        f"{len(view.nodes)} nodes",
        f"{sum(gpu.job is not None for gpu in gpus)} of {len(gpus)} GPUs taken",
        f"{sum(state.on_nodes for state in states)} running",
        f"{sum(state in (JobState.QUEUED, JobState.HELD) for state in states)} waiting",
    ]
    return printable(" · ".join(parts))
