"""What commands print: JSON documents for programs, rich tables for people. Foreign text is made harmless here."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ugro.common.config import Inventory
from ugro.common.errors import NodeError, RecordUnreadable, UgroError
from ugro.common.job_spec import JobSpec
from ugro.common.models.checkpoint import Checkpoint
from ugro.common.models.event import Event
from ugro.common.models.job import Attempt, Job, JobState, Rank, RankState
from ugro.common.models.node import Drain, NodeView
from ugro.common.text import clock, count, duration, printable, size
from ugro.control_plane.resource_manager.twins import twins
from ugro.control_plane.scheduler.attempts import attempts
from ugro.service.schemas.base import ErrorDocument

PIPE_WIDTH = 10_000
"""Characters of a line that is read by a program: nothing is wrapped."""

SHORT_UUID = 12
"""As much of a GPU's UUID as tells it apart; nvidia-smi and CUDA take it too."""

_STATE_WORDS = {
    JobState.UNKNOWN: "is on a node that does not answer",
    JobState.SUCCEEDED: "has succeeded",
    JobState.FAILED: "has failed",
    JobState.CANCELLED: "was cancelled",
}

INDENT, READABLE = 4, 40
"""Cells before a line that goes on, where less than so many would be left beside what stands before the text."""

RANK_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_red", "bright_cyan", "bright_green")
STATE_STYLES = {
    "running": "bold blue", "starting": "blue", "queued": "yellow", "held": "yellow", "unknown": "bold yellow",
    "stopping": "magenta", "succeeded": "green", "failed": "bold red", "cancelled": "magenta",
    "lost": "bold red", "pending": "dim", "stopped": "magenta",
}  # fmt: skip


def terminal_width(err: bool = False) -> int | None:
    """How many cells a line of the output has; None: it is no terminal, and a line has any length."""
    return console(err).width if (sys.stderr if err else sys.stdout).isatty() else None


wide_option = click.option("--wide", is_flag=True, help="Cut nothing and leave out nothing, however wide it gets.")


def console(stderr: bool = False) -> Console:
    """A console that does not wrap what is no terminal's."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else PIPE_WIDTH, highlight=False, markup=False)


def hanging(before: str, text: str, width: int | None) -> list[str]:
    """A text behind what stands before it, broken between words at `width` cells and indented where it goes on."""
    if width is None:
        return [before + text]
    begins = cell_len(before)
    indent = " " * (begins if width - begins >= READABLE else INDENT)
    lines = [before]
    for word in text.split(" "):
        space = "" if lines[-1] in (before, indent) else " "
        if cell_len(lines[-1] + space + word) <= width or lines[-1] == indent:
            lines[-1] += space + word
        else:
            lines.append(indent + word)
    return [line.rstrip() for line in lines]


def print_hanging(before: str, text: str, err: bool = False, **style: Any) -> None:
    """Print such a text, of foreign words, as the terminal is wide; the style is click's."""
    for line in hanging(printable(before), printable(text), terminal_width(err)):
        click.secho(line, err=err, **style)


def print_commands(*commands: str) -> None:
    """Print commands that are useful next, none of them broken, as many a line as the terminal has room for."""
    width, line = terminal_width(), ""
    for command in commands:
        if line and width is not None and cell_len(f"{line}   {command}") > width:
            click.echo(line)
            line = ""
        line = f"{line}   {command}" if line else f"  {command}"
    click.echo(line)


def print_json(document: Any) -> None:
    """One JSON document on stdout, and nothing else."""
    click.echo(json.dumps(document, ensure_ascii=True))


def print_json_list(items: Iterable[Any]) -> None:
    """The same of a list of any length, which is never there as a whole."""
    separator = "["
    for item in items:
        sys.stdout.write(separator + json.dumps(item, ensure_ascii=True))
        separator = ", "
    click.echo("[]" if separator == "[" else "]")


def stamp(at: float | None) -> str | None:
    """A time as ISO 8601 in UTC."""
    try:
        return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        return None


def phase(job: Job) -> str:
    """The state of a job for people, who are told too that its ranks are being ended."""
    return "stopping" if job.stopping else job.state.value


def title(job: Job) -> str:
    """The job's id, with its name where it has one."""
    return job.id if job.name == job.id else f"{job.id} ({job.name})"


def state_in_words(job: Job) -> str:
    """`job-001 (demo) has failed`"""
    if job.wish and not job.state.ended:
        return f"{title(job)} is being cancelled"
    return f"{title(job)} {_STATE_WORDS.get(job.state, f'is {phase(job)}')}"


def command_line(job: Job) -> str:
    """A job's command as a person would type it."""
    return printable(shlex.join(job.command).replace("\n", "\\n"))


# --- JSON ------------------------------------------------------------------------------------------------------------


LEFT_OUT = dict.fromkeys(("schema_version", "uid", "wish", "taken_back", "last_event"), True)
WITHOUT_CONFIGS: dict[str, Any] = {"placement": {"shares": {"__all__": {"config"}}}}


def job_document(job: Job, asked: JobSpec | None) -> dict[str, Any]:
    """The stable JSON form of a job and of what was asked for (docs/scripting.md)."""
    # The nodes as a run was started with them stay in its record: their `env` may hold what is nobody's business.
    record = job.model_dump(mode="json", exclude=LEFT_OUT | WITHOUT_CONFIGS)
    for key in ("submitted_at", "launched_at", "started_at", "ended_at", "unknown_since"):
        record[key] = stamp(getattr(job, key))
    record["past"] = [_attempt_document(past) for past in job.past]
    record["attempts"] = [_attempt_in_short(one) for one in attempts(job)]
    record["stopping"] = job.stopping
    record["resume_from"] = checkpoint_document(job.resume_from) if job.resume_from else None
    record["ranks"] = [rank_document(rank) for rank in job.ranks]
    record["nodes"] = list(job.nodes)
    record["cancel_requested"] = job.wish is not None
    for key in ("time_limit", "time_warning", "grace", "vram"):
        record[key] = getattr(asked, key, None)
    record["after"] = list(asked.after) if asked else []
    record["not_before"] = stamp(asked.not_before) if asked else None
    return record


def _attempt_document(past: Attempt) -> dict[str, Any]:
    times = {key: stamp(getattr(past, key)) for key in ("launched_at", "started_at", "ended_at")}
    return past.model_dump(mode="json", exclude=WITHOUT_CONFIGS) | times


def _attempt_in_short(attempt: Attempt) -> dict[str, Any]:
    """An attempt, past or present, without what it ran."""
    kept = {"attempt", "state", "reason", "first_failure", "step", "epoch", "source"}
    times = {key: stamp(getattr(attempt, key)) for key in ("launched_at", "started_at", "ended_at")}
    return attempt.model_dump(mode="json", include=kept) | times | {"nodes": list(attempt.nodes)}


def checkpoint_document(checkpoint: Checkpoint, kept: bool | None = None) -> dict[str, Any]:
    """The stable JSON form of a checkpoint; `kept`: whether its label is on this machine, if that was looked for.

    What is torn has no copy: only what is whole is brought here.
    """
    record = checkpoint.model_dump(mode="json")
    record |= {"saved_at": stamp(checkpoint.saved_at), "whole": checkpoint.problem is None}
    return record if kept is None else record | {"on_master": kept and checkpoint.problem is None}


def event_document(event: Event) -> dict[str, Any]:
    """The stable JSON form of an event."""
    return event.model_dump(mode="json", exclude={"noted", "origin"}) | {"at": stamp(event.at)}


def unreadable_document(error: RecordUnreadable) -> dict[str, Any]:
    """The stable JSON form of a job whose record cannot be read, with the way back in the error's hint."""
    return {"id": error.path.parent.name, "file": str(error.path), "error": error.as_dict()}


def rank_document(rank: Rank) -> dict[str, Any]:
    """The stable JSON form of a rank."""
    return rank.model_dump(mode="json") | {"ended_at": stamp(rank.ended_at)}


def node_document(
    name: str, inventory: Inventory, view: NodeView | None, error: NodeError | None, drain: Drain | None
) -> dict[str, Any]:
    """The stable JSON form of a node: what it says now, or what it said last and why it does not answer."""
    known = (
        view.model_dump(mode="json", exclude={"node", "seen_at", "pid_namespace", "folder"}) if view else {"gpus": []}
    )
    return {
        "name": name,
        "address": inventory.nodes[name].address,
        "reachable": error is None,
        "error": error.as_dict() if error else None,
        "seen_at": stamp(view.seen_at) if view else None,
        "age_seconds": round(max(0.0, time.time() - view.seen_at), 1) if view else None,
        "drained": {"reason": drain.reason, "since": stamp(drain.since)} if drain else None,
        "departed": name in inventory.departed,
        **known,
    }


def node_documents(
    inventory: Inventory,
    views: Mapping[str, NodeView | None],
    errors: Mapping[str, NodeError | None],
    drains: Mapping[str, Drain],
) -> list[dict[str, Any]]:
    """The stable JSON form of all nodes, in the inventory's order."""
    same = twins(inventory.nodes, views)
    return [
        node_document(name, inventory, views[name], errors[name], drains.get(name))
        | {"same_as": same[name].node if name in same else None}
        for name in inventory.nodes
    ]


# --- tables ----------------------------------------------------------------------------------------------------------


def state_text(state: str) -> Text:
    """A state in its colour."""
    return Text(state, STATE_STYLES.get(state, ""))


def table(*columns: str, title: str | None = None) -> Table:
    """The one look of all tables."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold", title_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def print_unreadable(errors: Sequence[RecordUnreadable]) -> None:
    """One line for each record that a list had to leave out, with the way back."""
    for error in errors:
        text = f"{error.path.parent.name} is unreadable: {error.message}" + (f"; {error.hint}" if error.hint else "")
        print_hanging("", text, fg="red")


def print_problems(problems: Sequence[UgroError | ErrorDocument], err: bool = False) -> None:
    """One line for each thing that is wrong and stopped nothing, with what to do about it."""
    for problem in problems:
        print_hanging("", f"{problem.message} ({problem.hint})", err, fg="red")


def time_in_words(job: Job) -> str:
    """How long a job waits, or runs, or ran."""
    if job.started_at is None:
        return f"waiting {duration(time.time() - job.submitted_at)}" if not job.state.ended else "-"
    return duration((job.ended_at or time.time()) - job.started_at)


def _asked_in_words(job: Job, asked: JobSpec | None) -> list[tuple[str, Text]]:
    """What somebody asked for beyond the usual; the priority is as it is now."""
    said = {"priority": str(job.priority) if job.priority else ""}
    if asked:
        warning = f", warned {duration(asked.time_warning)} before" if asked.time_warning else ""
        said |= {
            "time limit": f"{duration(asked.time_limit)}{warning}" if asked.time_limit else "",
            "memory": f"{size(asked.vram)} of each GPU" if asked.vram else "",
            "after": ", ".join(asked.after),
            "not before": clock(asked.not_before) if asked.not_before is not None else "",
        }
    return [(name, Text(words)) for name, words in said.items() if words]


def print_job(job: Job, asked: JobSpec | None, folders: Mapping[str, str]) -> None:
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
        ("code", Text(f"{printable(job.code.directory)} ({git}, {count(job.code.files, 'file')})")),
        *_asked_in_words(job, asked),
        ("submitted", Text(clock(job.submitted_at))),
        ("started", Text(clock(job.started_at))),
        (
            "ended",
            Text(clock(job.ended_at) + (f" after {time_in_words(job)}" if job.ended_at and job.started_at else "")),
        ),
    ]
    if job.alert:
        facts.append(("alert", Text(printable(job.alert), "bold red")))
    if job.wish:
        facts.append(("cancel", Text("asked for; it goes on until every node confirms", "magenta")))
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
        out.print(Text(f"first failure: {where}: {cause}{printable(failure.message)}", "bold red"))


def rank_state(job: Job, rank: Rank) -> str:
    """What became of a rank, in a word: those of a job that somebody ended did not fail, they were stopped."""
    ended_by_us = job.state == JobState.CANCELLED and rank.state in (RankState.FAILED, RankState.LOST)
    return "stopped" if ended_by_us else rank.state.value


def ranks_table(job: Job) -> Table:
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
