"""What `ugro status` and `ugro nodes` list: a line for each GPU and for each job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.text import Text

from ugro.cli.output import state_text
from ugro.cli.render.grid import Column, Grid, Names
from ugro.cli.render.jobs import command_line, rank_state, time_in_words
from ugro.common.models.job_state import JobState
from ugro.common.text import count, duration, printable, size, without_name
from ugro.service.schemas.jobs import JobDocument
from ugro.service.schemas.nodes import GpuDocument, NodeDocument
from ugro.service.schemas.queries import ListedJob
from ugro.service.words import command_of_sweep, phase, progress_in_brief

LEAST_NAME = 24
"""Cells that a name gets before columns are left out for it."""


def nodes_grid(nodes: Sequence[NodeDocument], twins: Mapping[str, str]) -> Grid:
    """One row per GPU, one for a node without GPUs, with the age of what is not fresh and why a node gets no job.

    `twins` says of a node which one it is under another name.
    """
    shared = any(len(gpu.jobs) > 1 for node in nodes for gpu in node.gpus)
    made = Grid(
        Column("NODE", LEAST_NAME),
        Column("GPU", leaves=1),
        Column("NAME", 12, leaves=3),
        *([Column("JOBS", 10, leaves=7)] if shared else []),
        Column("MEMORY"),
        Column("UTIL", leaves=2),
        Column("TEMP", leaves=5),
        Column("POWER", leaves=9),
        Column("PROCESSES", 12, leaves=4),
        Column("LOAD", leaves=6),
        Column("DISK FREE", leaves=8),
        Column("SEEN", 16),
    )
    for node in nodes:
        seen = _seen(node, twins.get(node.name))
        if node.boot_id is None:
            made.add(node.name, *["-"] * (9 + shared), seen)
            continue
        none = ["-"] * (5 + shared)
        rows = [_gpu_cells(gpu, shared) for gpu in node.gpus] or [["-", node.gpu_problem or "no GPU", *none]]
        if node.gpu_problem and node.gpus:
            rows.append(["-", node.gpu_problem, *none])
        load = "-" if node.load_1m is None else f"{node.load_1m:.1f}/{node.cpu_count}"
        disk = "-" if node.disk_free_mib is None else size(node.disk_free_mib)
        for number, cells in enumerate(rows):
            of_node = (load, disk, seen) if number == 0 else ("", "", "")
            made.add(node.name if number == 0 else "", *map(printable, cells), *of_node)
    return made


def _seen(node: NodeDocument, twin: str | None) -> Text:
    if node.error is None:
        seen = Text("now", "green")
    else:
        age = f"{duration(node.age_seconds)} ago, " if node.age_seconds is not None else "never, "
        seen = Text(printable(age + without_name(node.error.message, node.name)), "red")
    if node.departed:
        renamed = f" ({node.same_as} is the same machine)" if node.same_as else ""
        seen.append(f", departed: it left the inventory{renamed}, and is watched until its jobs have ended", "yellow")
    elif twin:
        seen.append(f", {printable(twin)}", "yellow")
    if node.drained and not node.departed:
        seen.append(f", drained: {printable(node.drained.reason)}", "yellow")
    return seen


def _gpu_cells(gpu: GpuDocument, shared: bool) -> list[str]:
    """The cells of a GPU; with its jobs where any GPU is `shared`."""
    used, total = gpu.memory_used_mib, gpu.memory_total_mib
    memory = f"{'-' if used is None else size(used)} / {'-' if total is None else size(total)}"
    processes = ", ".join(
        f"{process.pid} {process.user or '?'}" + ("" if process.memory_mib is None else f" {size(process.memory_mib)}")
        for process in gpu.processes
    )
    return [
        "-" if gpu.index is None else str(gpu.index),
        short_name(gpu.name) + (f" ({gpu.problem})" if gpu.problem else " (MIG)" if gpu.mig else ""),
        *([", ".join(gpu.jobs) or "-"] if shared else []),
        memory,
        _unit(gpu.utilization_percent, "%"),
        _unit(gpu.temperature_c, "°C"),
        _unit(None if gpu.power_w is None else round(gpu.power_w), " W"),
        processes or "-",
    ]


def short_name(gpu: str) -> str:
    """A GPU's name without what nearly all of them have in common."""
    return gpu.removeprefix("NVIDIA ").removeprefix("GeForce ")


def _unit(value: int | None, unit: str) -> str:
    return "-" if value is None else f"{value}{unit}"


def jobs_grid(jobs: Sequence[ListedJob], together: bool = False) -> Grid:
    """One row per job: those that ended, those that run, and those that wait in the order of their turn.

    `together`: one row for the jobs of a sweep, at the place of the first of them.
    """
    made = Grid(
        Column("ID"),
        Column("NAME", LEAST_NAME),
        Column("STATE"),
        Column("NODES", 10),
        Column("RANKS", 9, leaves=4),
        Column("TIME", leaves=2),
        Column("COMMAND", 12, leaves=5),
        Column("WHY", 12),  # `ugro why JOB` has the whole of it
    )
    sweeps: dict[str, list[ListedJob]] = {}
    for job in jobs if together else ():
        if job.sweep:
            sweeps.setdefault(job.sweep.sweep, []).append(job)
    for job in sorted(jobs, key=lambda job: _place(job, len(jobs))):
        if together and job.sweep:
            if listed := sweeps.pop(job.sweep.sweep, None):
                _add_sweep(made, listed)
            continue
        turn = f" #{job.position}" if job.position is not None and job.state == JobState.QUEUED else ""
        made.add(
            job.id,
            "-" if job.name == job.id else job.name,
            state_text(phase(job)).append(turn),
            Names(job.nodes or ("-",)),
            _ranks_in_words(job),
            time_in_words(job),
            command_line(job),
            _why(job),
        )
    return made


def _add_sweep(made: Grid, jobs: Sequence[ListedJob]) -> None:
    """Add the row of a sweep, of which these jobs are listed."""
    part = jobs[0].sweep
    assert part
    states = Counter(phase(job) for job in jobs)
    common, *others = [state for state, _ in states.most_common()]
    state = state_text(common).append(f" {states[common]}") if others else state_text(common)
    nodes = tuple(dict.fromkeys(node for job in jobs for node in job.nodes if job.state.on_nodes))
    reasons = [reason for job in jobs if not job.state.on_nodes and (reason := _why(job)) != "-"]
    made.add(
        part.sweep,
        part.name,
        state.append("".join(f", {states[other]} {other}" for other in others)),
        Names(nodes or ("-",)),
        f"{len(jobs)} of {part.of} jobs" if len(jobs) < part.of else count(part.of, "job"),
        "-",
        command_of_sweep(jobs),
        reasons[0] if reasons and not jobs[0].state.ended else "-",
    )


def _place(job: ListedJob, last: int) -> tuple[int, int, int, str]:
    kind = 0 if job.state.ended else 1 if job.state.on_nodes else 2
    return kind, (job.position or last + 1) if kind == 2 else 0, len(job.id), job.id


def _why(job: JobDocument) -> str:
    asked = "cancel was requested" if job.cancel_requested else ""
    progress = progress_in_brief(job.progress) if job.progress else ""
    return printable("; ".join(filter(None, (asked, job.reason or job.alert or progress)))) or "-"


def _ranks_in_words(job: JobDocument) -> str:
    """Return how many ranks there are, and their states where these are not that of the job, which stands beside."""
    counts: dict[str, int] = {}
    for state in sorted(rank_state(job, rank) for rank in job.ranks):
        counts[state] = counts.get(state, 0) + 1
    expected = "stopped" if job.state == JobState.CANCELLED else phase(job)
    if counts.keys() == {expected}:
        return str(counts[expected])
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "-"
