"""What `ugro status` and `ugro nodes` list: a line for each GPU and for each job."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich.text import Text

from ugro.cli.grid import Column, Grid, Names
from ugro.cli.output import command_line, phase, rank_state, state_text, time_in_words
from ugro.common.config import Inventory
from ugro.common.errors import NodeError
from ugro.common.models.job import Job, JobState
from ugro.common.models.node import Drain, Gpu, NodeView
from ugro.common.text import clock, duration, printable, size
from ugro.control_plane.resource_manager.twins import REMEDY, twins
from ugro.control_plane.scheduler.attempts import attempts, begins

LEAST_NAME = 24
"""Cells that a name gets before columns are left out for it."""


def nodes_grid(
    inventory: Inventory,
    views: Mapping[str, NodeView | None],
    errors: Mapping[str, NodeError | None],
    drains: Mapping[str, Drain],
) -> Grid:
    """One row per GPU, one for a node without GPUs, with the age of what is not fresh and why a node gets no job."""
    made = Grid(
        Column("NODE", LEAST_NAME),
        Column("GPU", leaves=1),
        Column("NAME", 12, leaves=3),
        Column("MEMORY"),
        Column("UTIL", leaves=2),
        Column("TEMP", leaves=5),
        Column("POWER", leaves=9),
        Column("PROCESSES", 12, leaves=4),
        Column("LOAD", leaves=6),
        Column("DISK FREE", leaves=8),
        Column("SEEN", 16),
    )
    same = twins(inventory.nodes, views)
    for name in inventory.nodes:
        view, error = views[name], errors[name]
        seen = _seen(view, error)
        if name in inventory.departed:
            renamed = f" ({same[name].node} is the same machine)" if name in same else ""
            left = f", departed: it left the inventory{renamed}, and is watched until its jobs have ended"
            seen.append(left, "yellow")
        elif name in same:
            seen.append(f", {printable(same[name].text(name))}: {REMEDY}", "yellow")
        if name not in inventory.departed and (drain := drains.get(name)):
            seen.append(f", drained: {printable(drain.reason)}", "yellow")
        if view is None:
            made.add(name, *["-"] * 9, seen)
            continue
        rows = [_gpu_cells(gpu) for gpu in view.gpus] or [["-", view.gpu_problem or "no GPU", *["-"] * 5]]
        if view.gpu_problem and view.gpus:
            rows.append(["-", view.gpu_problem, *["-"] * 5])
        load = "-" if view.load_1m is None else f"{view.load_1m:.1f}/{view.cpu_count}"
        disk = "-" if view.disk_free_mib is None else size(view.disk_free_mib)
        for number, cells in enumerate(rows):
            of_node = (load, disk, seen) if number == 0 else ("", "", "")
            made.add(name if number == 0 else "", *map(printable, cells), *of_node)
    return made


def _seen(view: NodeView | None, error: NodeError | None) -> Text:
    if error is None:
        return Text("now", "green")
    message = error.message.removeprefix(f"{error.node}: ")
    age = f"{duration(time.time() - view.seen_at)} ago, " if view else "never, "
    return Text(printable(age + message), "red")


def _gpu_cells(gpu: Gpu) -> list[str]:
    used, total = gpu.memory_used_mib, gpu.memory_total_mib
    memory = f"{'-' if used is None else size(used)} / {'-' if total is None else size(total)}"
    processes = ", ".join(
        f"{process.pid} {process.user or '?'}" + ("" if process.memory_mib is None else f" {size(process.memory_mib)}")
        for process in gpu.processes
    )
    return [
        "-" if gpu.index is None else str(gpu.index),
        short_name(gpu.name) + (f" ({gpu.problem})" if gpu.problem else " (MIG)" if gpu.mig else ""),
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


def jobs_grid(jobs: Sequence[Job], turns: Mapping[str, int]) -> Grid:
    """One row per job: those that ended, those that run, and those that wait in the order of their turn."""
    made = Grid(
        Column("ID"),
        Column("NAME", LEAST_NAME),
        Column("STATE"),
        Column("NODES", 10, leaves=3),
        Column("RANKS", 9, leaves=4),
        Column("TIME", leaves=2),
        Column("COMMAND", 16, leaves=5),
        Column("WHY", 24),
    )
    for job in sorted(jobs, key=lambda job: _place(job, turns)):
        turn = f" #{turns[job.id]}" if job.id in turns and job.state == JobState.QUEUED else ""
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


def _place(job: Job, turns: Mapping[str, int]) -> tuple[int, int, int, str]:
    kind = 0 if job.state.ended else 1 if job.state.on_nodes else 2
    return kind, turns.get(job.id, len(turns) + 1) if kind == 2 else 0, len(job.id), job.id


def _why(job: Job) -> str:
    asked = "cancel was asked for" if job.wish else ""
    return printable("; ".join(filter(None, (asked, job.reason or job.alert)))) or "-"


def _ranks_in_words(job: Job) -> str:
    counts: dict[str, int] = {}
    for state in sorted(rank_state(job, rank) for rank in job.ranks):
        counts[state] = counts.get(state, 0) + 1
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "-"


def attempts_grid(job: Job) -> Grid:
    """One row per attempt: when, where, from which checkpoint, and how it ended."""
    made = Grid(
        Column("ATTEMPT"),
        Column("STATE"),
        Column("STARTED", leaves=2),
        Column("TIME", leaves=3),
        Column("NODES", 10, leaves=4),
        Column("FROM", 10, leaves=1),
        Column("WHY IT ENDED", 24),
    )
    for one in attempts(job):
        ended = one.state.ended
        until = one.ended_at if ended else time.time()
        made.add(
            str(one.attempt),
            state_text(one.state),
            clock(one.started_at),
            "-" if one.started_at is None or until is None else duration(until - one.started_at),
            Names(one.nodes or ("-",)),
            begins(one),
            printable(one.reason) if ended and one.reason else "-",
        )
    return made
