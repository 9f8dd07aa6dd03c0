"""Draws one job: what, where, since when, each rank, and what failed first."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from ugro.cli.output import SHORT_UUID, console, state_text, table
from ugro.cli.render.grid import Column, Grid, Names
from ugro.common.models.job_state import JobState, RankState
from ugro.common.text import clock, count, duration, one_line, printable, size, without_name
from ugro.service.schemas.jobs import JobDocument, RankDocument
from ugro.service.words import begins, outputs_in_words, phase, progress_in_words, title

LAUNCHERS = {
    "python": "python: one process on each node, without rank variables",
    "none": "none: the command as it was typed, once on each node",
}
"""Launchers that need words."""


def command_line(job: JobDocument) -> str:
    """Return a job's command as it would be typed in a shell."""
    return printable(shlex.join(job.command).replace("\n", "\\n"))


def time_in_words(job: JobDocument) -> str:
    """Return how long a job has waited, or how long it runs or ran."""
    if job.started_at is None:
        return f"waiting {duration(time.time() - job.submitted_at)}" if not job.state.ended else "-"
    return duration((job.ended_at or time.time()) - job.started_at)


def _asked_in_words(job: JobDocument) -> list[tuple[str, Text]]:
    """Return what was asked for beyond the defaults; the priority is the current one."""
    warning = f", warned {duration(job.time_warning)} before" if job.time_warning else ""
    said = {
        "priority": str(job.priority) if job.priority else "",
        "time limit": f"{duration(job.time_limit)}{warning}" if job.time_limit else "",
        "GPUs": f"{job.gpus} in all" if job.gpus else "",
        "memory": f"{size(job.vram)} of each GPU" if job.vram and job.share is None else "",
        "share": _share_in_words(job),
        "python": printable(job.python or ""),
        "setup": one_line(job.setup or ""),
        "after": ", ".join(job.after),
        "not before": clock(job.not_before) if job.not_before is not None else "",
    }
    return [(name, Text(words)) for name, words in said.items() if words]


def _share_in_words(job: JobDocument) -> str:
    """Return the part of a GPU that was asked for, and the one that the job has."""
    if job.share is None:
        return ""
    asked = f"{size(job.vram or 0)} of a GPU" if isinstance(job.share, str) else f"{job.share:g} of a GPU"
    part = job.placement.shares[0].part if job.placement else None
    return f"{asked} ({size(part.memory_mib)})" if part and not isinstance(job.share, str) else asked


def print_job(job: JobDocument, folders: Mapping[str, str]) -> None:
    """One job on one screen: what, where, since when, each rank, and what failed first."""
    out = console()
    head = table("", "")
    head.show_header = False
    git = (
        f"git {job.code.git_commit[:12]}{' with changes' if job.code.git_dirty else ''}"
        if job.code.git_commit
        else "no git"
    )
    facts = [
        ("job", Text(f"{title(job)}, attempt {job.attempt}")),
        (
            "state",
            state_text(phase(job)) + Text(f"  {printable(job.reason)}" if job.reason and not job.first_failure else ""),
        ),
        ("command", Text(command_line(job))),
        *([] if job.launcher == "torchrun" else [("launcher", Text(LAUNCHERS.get(job.launcher, job.launcher)))]),
        ("code", Text(f"{printable(job.code.directory)} ({git}, {count(job.code.files, 'file')})")),
        *_asked_in_words(job),
        ("submitted", Text(clock(job.submitted_at))),
        ("started", Text(clock(job.started_at))),
        (
            "ended",
            Text(clock(job.ended_at) + (f" after {time_in_words(job)}" if job.ended_at and job.started_at else "")),
        ),
    ]
    if job.outputs:
        facts.append(("outputs", Text(outputs_in_words(job.id, job.outputs))))
    if job.progress:
        facts.append(("progress", Text(progress_in_words(job.progress))))
    if job.alert:
        facts.append(("alert", Text(printable(job.alert), "bold red")))
    if job.cancel_requested:
        facts.append(("cancel", Text("requested; in progress until every node confirms", "magenta")))
    if job.unknown_since:
        facts.append(("unknown", Text(f"since {clock(job.unknown_since)}", "bold yellow")))
    if job.placement and job.placement.master_addr:
        facts.append(("meets at", Text(f"{job.placement.master_addr}:{job.placement.master_port}")))
    facts += [(f"on {node}", Text(folder)) for node, folder in folders.items()]
    for name, value in facts:
        head.add_row(Text(name, "dim"), value)
    out.print(head)
    if job.ranks:
        out.print()
        out.print(ranks_table(job))
    if job.first_failure:
        failure = job.first_failure
        where = f"rank {failure.rank} on {failure.node}" if failure.rank is not None else failure.node
        out.print()
        cause = "" if failure.cause == "unknown" else f"{failure.cause}: "
        words = printable(without_name(failure.message, failure.node))
        out.print(Text(f"first failure: {where}: {cause}{words}", "bold red"))


def rank_state(job: JobDocument, rank: RankDocument) -> str:
    """Return a rank's state in a word: ranks of a cancelled job did not fail, they were stopped."""
    if job.state.ended and rank.state == RankState.PENDING:
        return "not started"
    ended_by_us = job.state == JobState.CANCELLED and rank.state in (RankState.FAILED, RankState.LOST)
    return "stopped" if ended_by_us else rank.state.value


def ranks_table(job: JobDocument) -> Table:
    """One row per rank."""
    made = table("RANK", "NODE", "LOCAL", "GPU", "PID", "STATE", "EXIT")
    for rank in job.ranks:
        ended = f"SIG{rank.signal}" if rank.signal else "-" if rank.exit_code is None else str(rank.exit_code)
        pid = "-" if rank.pid is None else str(rank.pid)
        made.add_row(
            str(rank.rank),
            rank.node,
            str(rank.local_rank),
            (rank.gpu or "cpu")[:SHORT_UUID],
            pid,
            state_text(rank_state(job, rank)),
            ended,
        )
    return made


def attempts_grid(job: JobDocument) -> Grid:
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
    for one in job.attempts:
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
